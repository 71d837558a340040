"""Helpers for tests of the queue: adding jobs, moving deadlines, reading rows, and a proxy to cut the database off."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.db import connection
from psycopg.rows import dict_row

from core.database import open_database
from jobs.queue.records import Claim, JobOutcome, JobReport, NewJob, Result
from jobs.queue.verbs import Queue
from jobs.storage import files
from tests.conftest import jpeg

T = TypeVar("T")
PATIENCE_SECONDS = 25.0  # a test that waits longer for something has failed
PICTURE = Result(path="results/x.jpg", mime_type="image/jpeg", size_bytes=3, checksum="c" * 64)
REPORT = JobReport(attempts=2, attempt_errors=1, provider_seconds=1.5, polls=3)


def new_job(**changes: Any) -> NewJob:
    """A job of the sandbox with a unique photo."""
    job_id = uuid4()
    defaults: dict[str, Any] = {
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
    return NewJob(**(defaults | changes))


async def admit_job(queue: Queue, wait_seconds: int = 30, **changes: Any) -> UUID:
    return (await queue.admit(new_job(**changes), wait_seconds)).job_id


async def claim_job(queue: Queue, wait_seconds: int = 30, **changes: Any) -> Claim:
    job_id = await admit_job(queue, wait_seconds, **changes)
    claims = await queue.claim(["instant", "queued", "fetching"], 1)
    assert [claim.id for claim in claims] == [job_id], "claim in tests with one waiting job only"
    return claims[0]


async def post_job(
    queue: Queue,
    provider: str = "instant",
    scenario: str = "ok",
    wait_seconds: int = 40,
    changes: Mapping[str, object] | None = None,
) -> UUID:
    """Adds a job as ingest does: its photo is stored."""
    job = new_job(provider_id=provider, **({"settings_json": {"scenario": scenario}} | dict(changes or {})))
    await asyncio.to_thread(files.save, job.payload_path, jpeg())
    return (await queue.admit(job, wait_seconds)).job_id


async def sql(queue: Queue, statement: str, *values: Any) -> list[dict[str, Any]]:
    async with queue.database.connection() as pooled:
        cursor = await pooled.cursor(row_factory=dict_row).execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


async def row(queue: Queue, job_id: UUID) -> dict[str, Any]:
    return (await sql(queue, "SELECT * FROM jobs_job WHERE id = %s", job_id))[0]


async def steps(queue: Queue, job_id: UUID) -> list[str]:
    found = await sql(queue, "SELECT status FROM stats_processinglog WHERE job_id = %s ORDER BY id", job_id)
    return [step["status"] for step in found]


async def counters(queue: Queue) -> dict[str, Any]:
    """The only row of counters."""
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


async def wait_until(check: Callable[[], Awaitable[T]]) -> T:
    """Polls until the result is true, and returns it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := await check()):  # noqa: ASYNC110 - another process's doing: there is no event
            await asyncio.sleep(0.02)
        return found


async def wait_for_end(queue: Queue, job_id: UUID) -> JobOutcome:
    async def check() -> JobOutcome | None:
        outcome = await queue.get_outcome(job_id)
        return outcome if outcome and outcome.is_finalized else None

    outcome = await wait_until(check)
    assert outcome
    return outcome


async def wait_for_blocked(queue: Queue, count: int) -> None:
    """Returns once `count` statements wait for a lock."""
    statement = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def check() -> bool:
        return len(await sql(queue, statement)) >= count

    await wait_until(check)


class DatabaseProxy:
    """A TCP proxy to the database that can be cut off, or frozen, for one process, while all others go on.

    Frozen it is a server that hangs: it takes connections and whatever is sent, and passes nothing on until it thaws.
    `sever_at`: once a client has sent these texts in order, the last is passed on and its response is lost.
    `freeze_at`: once a client has sent these texts in order, it freezes before the last is passed on.
    `is_mute`: what Postgres says is lost, though the connections stay open.
    """

    def __init__(self) -> None:
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self._is_cut = False
        self._is_thawed = asyncio.Event()
        self._is_thawed.set()
        self.sever_at: tuple[bytes, ...] = ()
        self.freeze_at: tuple[bytes, ...] = ()
        self.has_frozen = asyncio.Event()
        self.is_mute = False
        self.was_refused = asyncio.Event()
        self.port = 0

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall connect through the proxy."""
        config = connection.settings_dict
        login = f"{config['USER']}:{config['PASSWORD']}" if config["PASSWORD"] else config["USER"]
        return {"TEST_DATABASE_URL": f"postgres://{login}@127.0.0.1:{self.port}/{config['NAME']}"}

    def cut(self) -> None:
        self._is_cut = True
        for writer in tuple(self._writers):
            writer.close()

    async def remove(self) -> None:
        """Returns when all connections to Postgres are closed."""
        self.cut()
        self.thaw()
        for writer in tuple(self._writers):
            with suppress(OSError):
                await writer.wait_closed()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def mend(self) -> None:
        self._is_cut = False

    def freeze(self) -> None:
        self._is_thawed.clear()
        self.has_frozen.set()

    def thaw(self) -> None:
        self._is_thawed.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            self.was_refused.set()
            writer.close()
            return
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        await self._is_thawed.wait()
        if self._is_cut:  # meanwhile
            writer.close()
            return
        try:
            server_reader, server_writer = await _connect_to_postgres()
        except OSError:  # Postgres is down
            writer.close()
            return
        self._writers |= {writer, server_writer}
        await asyncio.gather(
            self._pass_on_to_postgres(reader, server_writer, writer), self._pass_on_to_client(server_reader, writer)
        )

    async def _pass_on_to_postgres(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        matched = frozen_matched = 0
        with suppress(OSError):
            while data := await reader.read(65536):
                while frozen_matched < len(self.freeze_at) and self.freeze_at[frozen_matched] in data:
                    frozen_matched += 1
                if self.freeze_at and frozen_matched == len(self.freeze_at):
                    self.freeze_at = ()
                    self.freeze()
                while matched < len(self.sever_at) and self.sever_at[matched] in data:
                    matched += 1
                if self.sever_at and matched == len(self.sever_at):
                    self.sever_at = ()
                    client.close()
                await self._is_thawed.wait()
                writer.write(data)
                await writer.drain()
        await self._is_thawed.wait()  # what was sent before the end arrives before it
        writer.close()

    async def _pass_on_to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._is_thawed.wait()
                if not self.is_mute:
                    writer.write(data)
                    await writer.drain()
        writer.close()


async def _connect_to_postgres() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = connection.settings_dict["HOST"], connection.settings_dict["PORT"] or 5432
    if host.startswith("/"):
        return await asyncio.open_unix_connection(Path(host) / f".s.PGSQL.{port}")
    return await asyncio.open_connection(host or "127.0.0.1", int(port))


@asynccontextmanager
async def open_queue_through(proxy: DatabaseProxy) -> AsyncIterator[Queue]:
    async with open_database(address={"host": "127.0.0.1", "port": proxy.port}) as database:
        yield Queue(database)


@asynccontextmanager
async def run_proxy() -> AsyncIterator[DatabaseProxy]:
    proxy = DatabaseProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.remove()
