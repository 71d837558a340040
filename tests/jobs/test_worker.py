"""Workers as real processes: killed, stopped by signals, and cut off from the database."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from core.database import in_thread
from jobs import lifecycle
from jobs.queue.verbs import Queue
from jobs.retention import requests
from tests.conftest import Booth, Processes, in_background, jpeg, stored_files, use_sandbox
from tests.queue_helpers import (
    DatabaseProxy,
    counters,
    end_lease,
    post_job,
    row,
    run_proxy,
    sql,
    steps,
    wait_for_end,
    wait_until,
)
from tests.sandbox.server import Call, Sandbox, developed

pytestmark = pytest.mark.e2e

Process = subprocess.Popen[bytes]


async def wait_for_calls(sandbox: Sandbox, count: int, method: str = "POST") -> list[Call]:
    """Returns once `count` calls have come in."""
    return await asyncio.to_thread(sandbox.wait_for_calls, count, method)


async def wait_for_exit(worker: Process) -> int:
    return await asyncio.to_thread(worker.wait, 30)


async def is_pending(queue: Queue, job_id: UUID) -> bool:
    job = await row(queue, job_id)
    return (job["status"], job["claim_token"], job["is_finalized"]) == ("pending", None, False)


# A killed worker costs a lease, not a photo.

MAY_REPEAT = {"repeat_ambiguous": True}


@pytest.mark.parametrize(("provider", "posts"), [("instant", 2), ("queued", 1)])
async def test_the_booth_of_a_killed_worker_gets_its_picture(
    queue: Queue, processes: Processes, sandbox: Sandbox, provider: str, posts: int
) -> None:
    """The provider with a queue is not paid twice: the second worker polls the first one's reference. The other is, as
    this slot allows."""
    setup = asyncio.to_thread(use_sandbox, provider, "hold", retry=MAY_REPEAT)
    processes.web()
    worker = processes.worker(LEASE_SECONDS="2")
    await setup
    reply = in_background(lambda: Booth(processes.url).post(jpeg()))
    await wait_for_calls(sandbox, 1, "POST" if provider == "instant" else "GET")
    worker.kill()
    processes.worker()
    (job,) = await sql(queue, "SELECT id FROM jobs_job")

    async def is_claimed_again() -> bool:
        return bool((await row(queue, job["id"]))["claims"] == 2)

    await wait_until(is_claimed_again)
    sandbox.let_go()
    answer = await asyncio.to_thread(reply)
    assert (answer.status, answer.body) == (200, developed(jpeg()))
    assert len(await wait_for_calls(sandbox, posts)) == posts


async def test_a_stalled_worker_does_not_cancel_what_another_continues(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    stalled = processes.worker()
    job_id = await post_job(queue, "queued", "hold")
    await wait_for_calls(sandbox, 1, "GET")
    stalled.send_signal(signal.SIGSTOP)
    await end_lease(queue, job_id)
    processes.worker()

    async def is_claimed_again() -> bool:
        return bool((await row(queue, job_id))["claims"] == 2)

    await wait_until(is_claimed_again)
    (clock,) = await sql(queue, "SELECT clock_timestamp() AS now")
    stalled.send_signal(signal.SIGCONT)
    await wait_until(lambda: is_idle(queue, stalled, clock["now"]))
    sandbox.let_go()
    assert (await wait_for_end(queue, job_id)).failure_reason is None
    assert {call.method for call in sandbox.journal} == {"POST", "GET"}


async def is_idle(queue: Queue, worker: Process, since: datetime) -> bool:
    """Whether the worker has recorded itself since then, without a job."""
    shown = "SELECT busy FROM jobs_process WHERE name LIKE %s AND seen_at > %s AND busy = 0"
    return bool(await sql(queue, shown, f"% {worker.pid}", since))


# Shutdown: the first signal drains, the second releases.


async def test_after_a_signal_it_finishes_its_jobs_and_claims_no_more(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    worker = processes.worker("--concurrency", "1")
    running = await post_job(queue, "instant", "hold")
    await wait_for_calls(sandbox, 1)
    waiting = await post_job(queue)
    worker.send_signal(signal.SIGTERM)
    sandbox.let_go()
    assert await wait_for_exit(worker) == 0
    assert (await wait_for_end(queue, running)).failure_reason is None
    assert await steps(queue, waiting) == ["received"]
    assert await sql(queue, "SELECT id FROM jobs_process WHERE name LIKE %s", f"% {worker.pid}") == []


async def test_after_the_grace_period_unfinished_jobs_are_released(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    worker = processes.worker(WORKER_GRACE_SECONDS="1")
    job_id = await post_job(queue, "instant", "hold")
    await wait_for_calls(sandbox, 1)
    signalled_at = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert await wait_for_exit(worker) == 0
    assert time.monotonic() - signalled_at >= 1
    assert await is_pending(queue, job_id)


async def test_a_second_signal_releases_at_once(queue: Queue, processes: Processes, sandbox: Sandbox) -> None:
    worker = processes.worker(WORKER_GRACE_SECONDS="300")
    job_id = await post_job(queue, changes={"settings_json": {"scenario": "hold", "retry": MAY_REPEAT}})
    await wait_for_calls(sandbox, 1)
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)
    assert await wait_for_exit(worker) == 0
    assert await is_pending(queue, job_id)
    sandbox.let_go()
    processes.worker()  # needs no lease to run out
    assert (await wait_for_end(queue, job_id)).failure_reason is None


# Arguments.


async def test_once_runs_what_waits_for_these_providers_and_exits(queue: Queue, processes: Processes) -> None:
    wanted = [await post_job(queue, "queued"), await post_job(queue, "fetching"), await post_job(queue, "queued")]
    other = await post_job(queue, "instant")
    worker = processes.worker("--once", "--concurrency", "1", "--provider", "queued", "--provider", "fetching")
    assert await wait_for_exit(worker) == 0
    assert all([(await row(queue, job_id))["result_checksum"] for job_id in wanted])
    assert await is_pending(queue, other)


async def test_once_without_a_database_is_a_failure(processes: Processes) -> None:
    async with run_proxy() as proxy:
        proxy.cut()
        assert await wait_for_exit(processes.worker("--once", **proxy.environment)) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"concurrency": 0}, "at least 1"),
        ({"concurrency": -3}, "at least 1"),
        ({"provider": ["instant", "mystery"]}, "No such provider: mystery. There are: studio, gemini"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        call_command("run_workers", **arguments)


async def test_four_jobs_at_once(queue: Queue, processes: Processes, sandbox: Sandbox) -> None:
    worker = processes.worker()
    jobs = [await post_job(queue, "instant", "hold") for _ in range(6)]
    await wait_for_calls(sandbox, 4)

    async def is_recorded() -> bool:
        name = f"% {worker.pid}"
        (found,) = await sql(queue, "SELECT capacity, busy FROM jobs_process WHERE name LIKE %s", name)
        return (found["capacity"], found["busy"]) == (4, 4)

    await wait_until(is_recorded)
    assert len(sandbox.journal) == 4
    sandbox.let_go()
    assert {(await wait_for_end(queue, job_id)).failure_reason for job_id in jobs} == {None}


# A job that has ended elsewhere frees its permit.


@pytest.mark.parametrize(("provider", "method"), [("instant", "POST"), ("queued", "GET")])
async def test_cancelling_cancels_the_call(
    queue: Queue, processes: Processes, sandbox: Sandbox, provider: str, method: str
) -> None:
    processes.worker("--concurrency", "1")
    job_id = await post_job(queue, provider, "hold")
    await wait_for_calls(sandbox, 1, method)
    cancelled = await queue.cancel(job_id, "igor")
    assert cancelled
    await lifecycle.clean_up(cancelled)
    assert (await wait_for_end(queue, await post_job(queue))).failure_reason is None  # the permit is free
    if provider == "queued":
        assert len(await wait_for_calls(sandbox, 1, "DELETE")) == 1
    assert (await row(queue, job_id))["failure_reason"] == "cancelled"


async def test_a_cancellation_frees_the_permit_at_once(queue: Queue, processes: Processes, sandbox: Sandbox) -> None:
    """Not at the next heartbeat, which may be two seconds away."""
    processes.worker("--concurrency", "1")
    jobs = [await post_job(queue, "instant", "hold") for _ in range(4)]
    for count, job_id in enumerate(jobs[:3], 1):
        await wait_for_calls(sandbox, count)
        await queue.cancel(job_id, "igor")
    await wait_for_calls(sandbox, 4)
    rows = [await row(queue, job_id) for job_id in jobs]
    waits = [(after["claimed_at"] - before["finalized_at"]).total_seconds() for before, after in pairwise(rows)]
    assert sorted(waits)[1] < 0.5, waits
    sandbox.let_go()  # or the worker would wait for the last one through its grace period


@pytest.mark.parametrize(("provider", "scenario"), [("instant", "hold"), ("queued", "never")])
async def test_the_deadline_cancels_the_call(
    queue: Queue, processes: Processes, sandbox: Sandbox, provider: str, scenario: str
) -> None:
    processes.worker("--concurrency", "1")
    job_id = await post_job(queue, provider, scenario, wait_seconds=3)
    next_id = await post_job(queue)
    assert (await wait_for_end(queue, job_id)).failure_reason == "timeout"  # no booth waits for it: the worker ends it
    assert (await wait_for_end(queue, next_id)).failure_reason is None
    if provider == "queued":
        assert len(await wait_for_calls(sandbox, 1, "DELETE")) == 1

    async def is_removed() -> bool:
        return not [path for path in stored_files() if str(job_id) in path]

    await wait_until(is_removed)


async def test_jobs_that_no_worker_has_are_swept(queue: Queue, processes: Processes) -> None:
    job_id = await post_job(queue, "studio", wait_seconds=1)
    processes.worker("--provider", "instant")
    assert (await wait_for_end(queue, job_id)).failure_reason == "timeout"

    async def photo_is_gone() -> bool:
        return stored_files() == []

    await wait_until(photo_is_gone)


# A side task that fails ends the worker with an error.

BREAK_HEARTBEAT = """
CREATE FUNCTION break_heartbeat() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
CREATE TRIGGER break_heartbeat BEFORE UPDATE ON jobs_process FOR EACH ROW WHEN (NEW.capacity = 77)
    EXECUTE FUNCTION break_heartbeat();
"""


@asynccontextmanager
async def break_heartbeat(queue: Queue) -> AsyncIterator[None]:
    await sql(queue, BREAK_HEARTBEAT)
    try:
        yield
    finally:
        await sql(queue, "DROP FUNCTION break_heartbeat CASCADE")


async def test_a_dead_side_task_ends_the_worker_and_its_jobs_go_on(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    async with break_heartbeat(queue):
        worker = processes.worker("--concurrency", "77", LEASE_SECONDS="2")
        job_id = await post_job(queue, "instant", "hold")
        await wait_for_calls(sandbox, 1)
        assert await wait_for_exit(worker) != 0
    assert await is_pending(queue, job_id)


BREAK_PURGE = """
CREATE FUNCTION break_purge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
CREATE TRIGGER break_purge BEFORE UPDATE ON jobs_purgerun FOR EACH ROW EXECUTE FUNCTION break_purge();
"""


async def test_a_purge_that_cannot_be_claimed_ends_the_worker(queue: Queue, processes: Processes) -> None:
    await in_thread(requests.request_purge, "full", None)
    await sql(queue, BREAK_PURGE)
    try:
        assert await wait_for_exit(processes.worker()) != 0
    finally:
        await sql(queue, "DROP FUNCTION break_purge CASCADE")


async def test_a_worker_that_starts_before_the_migration_waits_for_it(queue: Queue, processes: Processes) -> None:
    await in_thread(requests.request_purge, "full", None)
    await sql(queue, "ALTER TABLE jobs_purgerun RENAME TO not_there_yet")
    try:
        processes.worker()
        assert (await wait_for_end(queue, await post_job(queue))).failure_reason is None
    finally:
        await sql(queue, "ALTER TABLE not_there_yet RENAME TO jobs_purgerun")

    async def is_purged() -> bool:
        return await sql(queue, "SELECT FROM jobs_purgerun WHERE finished_at IS NULL") == []

    await wait_until(is_purged)


# The database goes away and comes back.


async def cut_off(queue: Queue, job_id: UUID, proxy: DatabaseProxy) -> None:
    """Returns when the lease has run out, by the worker's clock too."""
    proxy.cut()
    over = "SELECT id FROM jobs_job WHERE id = %s AND lease_expires_at < clock_timestamp() - interval '0.5 s'"
    await wait_until(lambda: sql(queue, over, job_id))


@pytest.mark.parametrize("answered", ["meanwhile", "afterwards"])
async def test_an_outage_of_the_database_costs_neither_the_picture_nor_a_second_call(
    queue: Queue, processes: Processes, sandbox: Sandbox, answered: str
) -> None:
    async with run_proxy() as proxy:
        worker = processes.worker(LEASE_SECONDS="2", **proxy.environment)
        job_id = await post_job(queue, "instant", "hold")
        await wait_for_calls(sandbox, 1)
        await cut_off(queue, job_id, proxy)
        if answered == "meanwhile":
            sandbox.let_go()
            for _ in range(3):  # attempts to reach the database, one every half second
                proxy.was_refused.clear()
                await proxy.was_refused.wait()
        proxy.mend()
        if answered == "afterwards":
            await wait_until(lambda: sql(queue, "SELECT id FROM jobs_job WHERE lease_expires_at > clock_timestamp()"))
            sandbox.let_go()
        assert (await wait_for_end(queue, job_id)).failure_reason is None
        worker.send_signal(signal.SIGTERM)
        assert await wait_for_exit(worker) == 0
    assert len(sandbox.journal) == 1
    assert (await row(queue, job_id))["claims"] == 1


async def test_a_reference_is_stored_when_the_database_is_back(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    """The connection breaks as the provider's reference is written."""
    async with run_proxy() as proxy:
        proxy.sever_at = (b"SET provider_job_reference",)
        processes.worker(**proxy.environment)
        job_id = await post_job(queue, "queued", "hold")
        await wait_for_calls(sandbox, 1, "GET")
        sandbox.let_go()
        assert (await wait_for_end(queue, job_id)).failure_reason is None
        assert not proxy.sever_at  # the connection was severed
    assert len(await wait_for_calls(sandbox, 1)) == 1
    assert (await row(queue, job_id))["claims"] == 1


@pytest.mark.parametrize("broken_at", [(b"result_inline_base64 =", b"COMMIT"), (b"pg_notify",)])
async def test_an_end_whose_acknowledgement_is_lost_is_no_late_answer(
    queue: Queue, processes: Processes, broken_at: tuple[bytes, ...]
) -> None:
    async with run_proxy() as proxy:
        proxy.sever_at = broken_at
        worker = processes.worker(**proxy.environment)
        job_id = await post_job(queue)
        assert (await wait_for_end(queue, job_id)).failure_reason is None
        assert not proxy.sever_at  # the connection was severed
        worker.send_signal(signal.SIGTERM)
        assert await wait_for_exit(worker) == 0
    assert await steps(queue, job_id) == ["received", "dispatched", "provider_responded", "succeeded"]
    assert (await counters(queue))["late_answers"] == 0
    assert stored_files() == [(await row(queue, job_id))["result_file_path"]]


async def test_a_worker_that_starts_before_its_database_waits_for_it(queue: Queue, processes: Processes) -> None:
    job_id = await post_job(queue)
    async with run_proxy() as proxy:
        proxy.cut()
        processes.worker(**proxy.environment)
        await proxy.was_refused.wait()
        proxy.mend()
        assert (await wait_for_end(queue, job_id)).failure_reason is None
