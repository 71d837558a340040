"""A database that hangs instead of refusing: everybody is answered in time, and nothing is paid for unnoticed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from pytest_django import Settings

from core.database import DatabaseUnavailable, in_thread
from ingest.models import IngestSettings
from jobs.queue.verbs import Queue
from tests.conftest import Booth, Processes, jpeg, open_queue, stored_files, use_sandbox
from tests.faults.guards import with_and_without
from tests.faults.unguarded import remove
from tests.ingest.helpers import form
from tests.jobs.results import make_picture
from tests.queue_helpers import DatabaseProxy, admit_job, new_job, open_queue_through, run_proxy, sql, wait_until
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.e2e

BUSY_SECONDS = 1.0  # what a machine that is full may add to a bound; without its guard, each is missed by seconds
DEADLINE_SECONDS = 10  # the shortest wait that a booth can have
# The job's photo was looked up; then its connection polls for ends.
PHOTO_WAS_PREPARED = (b"SELECT provider_id, operation_id", b"SELECT id FROM jobs_job WHERE id = ANY")
ADMISSION_COMMIT = (b"INSERT INTO jobs_job", b"COMMIT")


async def measure(work: Awaitable[Any]) -> tuple[Any, float]:
    """The result, or the error, and the seconds that it took."""
    started = time.monotonic()
    results = await asyncio.gather(work, return_exceptions=True)
    return results[0], time.monotonic() - started


async def start_web(processes: Processes, proxy: DatabaseProxy, **environment: str) -> str:
    """A web process behind the proxy that has served each kind of request, so that it has idle connections."""
    await in_thread(lambda: IngestSettings.objects.update(sync_response_seconds=DEADLINE_SECONDS))
    await asyncio.to_thread(lambda: processes.web(**proxy.environment, **environment))
    async with httpx.AsyncClient(base_url=processes.url) as client:
        for path in ("/readyz", "/metrics"):
            await client.get(path)
    return processes.url


async def post(url: str, slot: str = "slot-001", **fields: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(f"{url}/ingest/{slot}", **form(jpeg(), **fields))


async def get_job(queue: Queue) -> dict[str, Any]:
    (job,) = await wait_until(lambda: sql(queue, "SELECT * FROM jobs_job"))
    return job


VERBS: dict[str, Callable[[Queue], Awaitable[Any]]] = {
    "one statement": lambda queue: queue.list_overdue(),
    "a transaction": lambda queue: queue.admit(new_job(), 30),
}


@pytest.mark.parametrize("verb", VERBS)
@with_and_without("socket closed at the bound")
async def test_a_verb_takes_no_longer_than_its_bound(
    queue: Queue, settings: Settings, monkeypatch: pytest.MonkeyPatch, verb: str, without: str | None
) -> None:
    settings.QUEUE_STATEMENT_TIMEOUT_MS = 1500
    if without:
        remove(without, monkeypatch.setattr)
    async with run_proxy() as proxy, open_queue_through(proxy) as frozen:
        await asyncio.gather(*(frozen.list_overdue() for _ in range(20)))  # so that there are idle connections
        proxy.freeze()
        if without:
            late = asyncio.create_task(measure(VERBS[verb](frozen)))
            await asyncio.wait([late], timeout=3.5)
            assert not late.done()
            proxy.thaw()
            await late
            return
        for error, seconds in await asyncio.gather(*(measure(VERBS[verb](frozen)) for _ in range(20))):
            assert isinstance(error, DatabaseUnavailable)
            assert seconds < 2.5 + BUSY_SECONDS
        proxy.thaw()
        assert await wait_until(lambda: answers(frozen))
    assert await sql(queue, "SELECT id FROM jobs_job") == []


async def answers(queue: Queue) -> bool:
    try:
        return await queue.list_overdue() == []
    except DatabaseUnavailable:
        return False


@with_and_without("server's bounds")
async def test_the_server_ends_what_a_stopped_client_has_begun(
    queue: Queue, settings: Settings, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    """A process that is stopped inside a transaction keeps the queue's locks from nobody for longer than the bound."""
    settings.QUEUE_STATEMENT_TIMEOUT_MS = 1500
    if without:
        remove(without, monkeypatch.setattr)
    async with run_proxy() as proxy, open_queue_through(proxy) as stopped:
        await stopped.list_overdue()
        proxy.freeze_at = ADMISSION_COMMIT
        admission = asyncio.create_task(stopped.admit(new_job(), 30))
        await proxy.has_frozen.wait()
        settings.QUEUE_STATEMENT_TIMEOUT_MS = 4_000
        async with open_queue() as others:
            found, _seconds = await measure(admit_job(others))
        assert isinstance(found, DatabaseUnavailable if without else UUID)
        with pytest.raises(DatabaseUnavailable):
            await admission


async def test_a_client_that_was_stopped_inside_a_transaction_gives_it_up(queue: Queue, settings: Settings) -> None:
    settings.QUEUE_STATEMENT_TIMEOUT_MS = 1500
    async with open_queue(1) as stopped:
        await stopped.list_overdue()
        settings.QUEUE_STATEMENT_TIMEOUT_MS = 20_000
        with pytest.raises(DatabaseUnavailable):
            await stop_inside_a_transaction(stopped, queue)
        assert await stopped.list_overdue() == []


async def stop_inside_a_transaction(stopped: Queue, queue: Queue) -> None:
    async with stopped.database.connection() as connection, connection.transaction():
        process_id = connection.info.backend_pid
        await connection.execute("SELECT 1")
        await wait_until(lambda: is_gone(queue, process_id))
        await connection.execute("SELECT 1")


async def is_gone(queue: Queue, process_id: int) -> bool:
    return not await sql(queue, "SELECT pid FROM pg_stat_activity WHERE pid = %s", process_id)


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/r/{job}", "/public/results/{job}"])
async def test_a_public_address_answers_within_two_seconds(
    queue: Queue, processes: Processes, booth: Booth, path: str
) -> None:
    job = await in_thread(make_picture, booth)
    async with run_proxy() as proxy, httpx.AsyncClient(timeout=20) as client:
        url = await start_web(processes, proxy)
        proxy.freeze()
        replies = await asyncio.gather(
            *(measure(client.get(f"{url}{path.format(job=job.pk)}")) for _ in range(15)),
            measure(client.get(f"{url}/healthz")),
        )
        assert [reply.status_code for reply, _seconds in replies] == [*[503] * 15, 200]
        assert max(seconds for _reply, seconds in replies) < 2
        if path == "/readyz":
            assert replies[0][0].json()["checks"] == {
                "database": False,
                "migrations": False,
                "storage": True,
                "worker": False,
            }
        proxy.thaw()
        async with asyncio.timeout(20):
            while (await client.get(f"{url}/r/{job.pk}")).status_code != 200:  # as soon as it is back
                pass


async def post_and_freeze(
    queue: Queue, processes: Processes, proxy: DatabaseProxy, when: tuple[bytes, ...]
) -> tuple[httpx.Response, float]:
    """Posts a photo, freezes the database for this web process while the booth waits (at once, or `when` it has sent
    these texts) until the booth is answered. Returns the reply, and how many seconds after the deadline it came."""
    url = await start_web(processes, proxy)
    proxy.freeze_at = when
    reply = asyncio.create_task(post(url))
    job = await get_job(queue)
    if when:
        await proxy.has_frozen.wait()
    proxy.freeze()
    response = await reply
    late = (datetime.now(UTC) - job["expires_at"]).total_seconds()
    proxy.thaw()
    return response, late


@pytest.mark.parametrize("on_failure", ["error", "original"])
async def test_at_the_deadline_the_booth_is_answered_within_a_second(
    queue: Queue, processes: Processes, sandbox: Sandbox, on_failure: str
) -> None:
    more = {"on_failure": "original"} if on_failure == "original" else {}
    await in_thread(lambda: use_sandbox("instant", "hold", **more))
    async with run_proxy() as proxy:
        when = PHOTO_WAS_PREPARED if on_failure == "original" else ()
        response, late = await post_and_freeze(queue, processes, proxy, when)
    assert 0 <= late <= 1 + BUSY_SECONDS
    if on_failure == "error":
        assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_unavailable")
    else:
        assert (response.status_code, response.headers["X-Outcome"]) == (200, "original")
        assert response.content == jpeg()


async def test_a_database_that_thaws_before_the_deadline_costs_nothing(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    await in_thread(lambda: use_sandbox("instant", "hold"))
    async with run_proxy() as proxy:
        url = await start_web(processes, proxy)
        processes.worker()
        reply = asyncio.create_task(post(url))
        await asyncio.to_thread(sandbox.wait_for_calls, 1)
        proxy.freeze()
        sandbox.let_go()
        await wait_until(lambda: sql(queue, "SELECT id FROM jobs_job WHERE is_finalized"))
        proxy.thaw()
        assert (await reply).content == developed(jpeg())
    assert len(sandbox.journal) == 1


async def test_what_hangs_at_admission_is_not_admitted_later(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    """The booth has 503 within the bound, and the server, which then gets the COMMIT, has given the transaction up."""
    await in_thread(lambda: use_sandbox("instant"))
    async with run_proxy() as proxy:
        url = await start_web(processes, proxy)
        proxy.freeze_at = ADMISSION_COMMIT
        reply, seconds = await measure(post(url))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "queue_unavailable")
        assert seconds < 6.5
        proxy.thaw()
        await wait_until(has_no_files)
        assert await sql(queue, "SELECT id FROM jobs_job WHERE NOT is_finalized") == []


async def has_no_files() -> bool:
    return stored_files() == []


@with_and_without("withdrawal")
async def test_a_photo_whose_admission_is_unknown_is_not_made(
    queue: Queue, processes: Processes, sandbox: Sandbox, without: str | None
) -> None:
    """The COMMIT is done and its acknowledgement lost: the booth has 503, and nobody waits for this picture."""
    await in_thread(lambda: use_sandbox("instant"))
    processes.without = without
    async with run_proxy() as proxy:
        url = await start_web(processes, proxy)
        proxy.sever_at = ADMISSION_COMMIT
        assert (await post(url, id="one")).status_code == 503
        if without:
            processes.worker()
            await asyncio.to_thread(sandbox.wait_for_calls, 1)
            return
        await wait_until(lambda: sql(queue, "SELECT id FROM jobs_job WHERE failure_reason = 'cancelled'"))
        await wait_until(has_no_files)
        processes.worker()
        assert (await post(url, id="one")).status_code == 200
    assert len(sandbox.journal) == 1


@with_and_without("checked connections")
async def test_the_first_photo_after_an_idle_restart_is_taken(
    queue: Queue, processes: Processes, sandbox: Sandbox, without: str | None
) -> None:
    await in_thread(lambda: use_sandbox("instant"))
    processes.without = without
    async with run_proxy() as proxy:
        url = await start_web(processes, proxy)
        processes.worker()
        refused = 0
        for turn in range(6):
            first = await asyncio.gather(*(post(url, id=f"{turn}-{number}") for number in range(4)))
            assert {reply.status_code for reply in first} == {200}
            proxy.cut()  # all of the connections are idle now
            proxy.mend()
            if (await post(url, id=f"{turn} after")).status_code != 200:
                refused += 1
                break
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.get("/metrics")).status_code == 200
        assert bool(refused) is bool(without)


async def test_the_time_left_is_that_after_a_freeze_during_admission(queue: Queue) -> None:
    loop = asyncio.get_running_loop()
    async with run_proxy() as proxy, open_queue_through(proxy) as slow_queue:
        proxy.freeze_at = (b"jobs_job", b"COMMIT")
        admission = asyncio.create_task(slow_queue.admit(new_job(), 30))
        await proxy.has_frozen.wait()
        loop.call_later(1.0, proxy.thaw)
        ticket = await admission
    remaining = "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds FROM jobs_job"
    (left,) = await sql(queue, remaining)
    assert ticket.seconds_left < left["seconds"] + 0.5
