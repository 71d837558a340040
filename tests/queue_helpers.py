"""What tests of the queue need: jobs to put in, hands that move time, a look at rows, and a wire that can be cut."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.db import connection
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from core.database import Database, connection_kwargs
from jobs.queue.records import Claim, JobOutcome, JobReport, NewJob, Result
from jobs.queue.verbs import Queue
from jobs.storage import files
from tests.conftest import jpeg

T = TypeVar("T")
PATIENCE_SECONDS = 25.0  # a test that waits longer for something has failed
PICTURE = Result(path="results/x.jpg", mime_type="image/jpeg", size_bytes=3, checksum="c" * 64)
REPORT = JobReport(attempts=2, attempt_errors=1, provider_seconds=1.5, polls=3)


def new_job(**changes: Any) -> NewJob:
    """A photo like no other for the sandbox."""
    job_id = uuid4()
    usual: dict[str, Any] = {
        "id": job_id,
        "slot_id": "slot-001",
        "provider_id": "instant",
        "operation_id": "image_edit",
        "settings_json": {"scenario": "ok"},
        "template_media": {},
        "payload_path": files.payload_path(job_id, "image/jpeg"),
        "payload_mime_type": "image/jpeg",
        "payload_digest": hashlib.sha256(job_id.bytes).digest(),
    }
    return NewJob(**(usual | changes))


async def admitted(queue: Queue, wait_seconds: int = 30, **changes: Any) -> UUID:
    return (await queue.admit(new_job(**changes), wait_seconds)).job_id


async def claimed(queue: Queue, wait_seconds: int = 30, **changes: Any) -> Claim:
    job_id = await admitted(queue, wait_seconds, **changes)
    claims = await queue.claim(["instant", "queued", "fetching"], 1)
    assert [claim.id for claim in claims] == [job_id], "claim in tests with one waiting job only"
    return claims[0]


async def posted(
    queue: Queue,
    provider: str = "instant",
    scenario: str = "ok",
    wait_seconds: int = 40,
    recipe: Mapping[str, object] | None = None,
) -> UUID:
    """A job as the door makes it: its photo is stored."""
    job = new_job(provider_id=provider, **({"settings_json": {"scenario": scenario}} | dict(recipe or {})))
    await asyncio.to_thread(files.save, job.payload_path, jpeg())
    return (await queue.admit(job, wait_seconds)).job_id


async def sql(queue: Queue, statement: str, *values: Any) -> list[dict[str, Any]]:
    async with queue.database.connection() as opened:
        cursor = await opened.cursor(row_factory=dict_row).execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


async def row(queue: Queue, job_id: UUID) -> dict[str, Any]:
    return (await sql(queue, "SELECT * FROM jobs_job WHERE id = %s", job_id))[0]


async def steps(queue: Queue, job_id: UUID) -> list[str]:
    found = await sql(queue, "SELECT status FROM stats_processinglog WHERE job_id = %s ORDER BY id", job_id)
    return [step["status"] for step in found]


async def counters(queue: Queue) -> dict[str, Any]:
    """The one row of counters there is."""
    (found,) = await sql(queue, "SELECT * FROM stats_hourlycounter")
    return found


async def make_overdue(queue: Queue, job_id: UUID) -> None:
    await sql(
        queue,
        """UPDATE jobs_job SET created_at = created_at - interval '1 hour',
           expires_at = clock_timestamp() - interval '1 second' WHERE id = %s""",
        job_id,
    )


async def end_lease(queue: Queue, job_id: UUID) -> None:
    await sql(queue, "UPDATE jobs_job SET lease_expires_at = clock_timestamp() - interval '1 ms' WHERE id = %s", job_id)


async def until(look: Callable[[], Awaitable[T]]) -> T:
    """Looks again and again until there is something to be seen."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (seen := await look()):  # noqa: ASYNC110 - another process's doing: there is no event
            await asyncio.sleep(0.02)
        return seen


async def ended(queue: Queue, job_id: UUID) -> JobOutcome:
    async def look() -> JobOutcome | None:
        outcome = await queue.get_outcome(job_id)
        return outcome if outcome and outcome.is_finalized else None

    outcome = await until(look)
    assert outcome
    return outcome


async def blocked(queue: Queue, count: int) -> None:
    """Returns once so many statements wait for somebody's lock."""
    statement = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def look() -> bool:
        return len(await sql(queue, statement)) >= count

    await until(look)


class Wire:
    """A way to the database that can be cut: for one process, while all others go on.

    `sever_at`: once a connection's client has sent these in turn, the last is passed on and its answer is lost.
    """

    def __init__(self) -> None:
        self._ends: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self._is_cut = False
        self.sever_at: tuple[bytes, ...] = ()
        self.was_refused = asyncio.Event()
        self.port = 0

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall use this way."""
        config = connection.settings_dict
        login = f"{config['USER']}:{config['PASSWORD']}" if config["PASSWORD"] else config["USER"]
        return {"TEST_DATABASE_URL": f"postgres://{login}@127.0.0.1:{self.port}/{config['NAME']}"}

    def cut(self) -> None:
        self._is_cut = True
        for end in self._ends:
            end.close()

    async def remove(self) -> None:
        """Returns when Postgres has been told of the end of each connection."""
        self.cut()
        for end in self._ends:
            with suppress(OSError):
                await end.wait_closed()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def mend(self) -> None:
        self._is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            self.was_refused.set()
            writer.close()
            return
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        server_reader, server_writer = await _to_postgres()
        self._ends |= {writer, server_writer}
        await asyncio.gather(self._upwards(reader, server_writer, writer), _pass_on(server_reader, writer))

    async def _upwards(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        seen = 0
        with suppress(OSError):
            while data := await reader.read(65536):
                while seen < len(self.sever_at) and self.sever_at[seen] in data:
                    seen += 1
                if self.sever_at and seen == len(self.sever_at):
                    self.sever_at = ()
                    client.close()
                writer.write(data)
                await writer.drain()
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _to_postgres() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = connection.settings_dict["HOST"], connection.settings_dict["PORT"] or 5432
    if host.startswith("/"):
        return await asyncio.open_unix_connection(Path(host) / f".s.PGSQL.{port}")
    return await asyncio.open_connection(host or "127.0.0.1", int(port))


@asynccontextmanager
async def open_queue_over(cable: Wire) -> AsyncIterator[Queue]:
    way = {"host": "127.0.0.1", "port": cable.port, "autocommit": True}
    async with AsyncConnectionPool[AsyncConnection[Any]](kwargs=connection_kwargs() | way, min_size=1) as pool:
        yield Queue(Database(pool))


@asynccontextmanager
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.remove()
