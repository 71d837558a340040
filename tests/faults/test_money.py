"""A photo is paid for once and its job ends once, whatever becomes of the worker, the database or the disk."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.core.files.base import ContentFile

from core.database import in_thread
from jobs import lifecycle
from jobs.queue.records import Claim, Failure, JobReport
from jobs.queue.verbs import LOST_CALL_TIME, ClaimLost, Queue
from jobs.storage import files
from jobs.worker.concurrency import JobSemaphore
from jobs.worker.job_run import JobRun, JobRunner
from providers.base import Reason
from providers.limits import CallEnding, NewCall
from providers.models import ProviderAccount, ProviderCall
from tests.conftest import Processes, stored_files
from tests.faults.guards import with_and_without
from tests.faults.unguarded import remove
from tests.queue_helpers import (
    admit_job,
    claim_job,
    counters,
    end_lease,
    make_overdue,
    post_job,
    row,
    run_proxy,
    sql,
    steps,
    wait_for_end,
    wait_until,
)
from tests.sandbox.server import Sandbox
from tests.settings import LOGS

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("alone")]

CALLS = "SELECT outcome, ended_at IS NULL AS is_open FROM providers_providercall ORDER BY id"
FINALIZING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%%is_finalized = true%%'
"""
# Whatever it is that Postgres refuses: only the picture's ending fails.
REFUSE_PICTURES = """
CREATE FUNCTION refuse_picture() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no pictures today'; END $$;
CREATE TRIGGER refuse_picture BEFORE UPDATE ON jobs_job FOR EACH ROW
WHEN (new.result_checksum IS NOT NULL) EXECUTE FUNCTION refuse_picture();
"""


def build_call(provider_id: str = "instant", *, is_fallback: bool = False) -> NewCall:
    return NewCall(provider_id, "slot-001", is_fallback, daily_budget=None)


async def outcomes(queue: Queue) -> list[str | None]:
    return [call["outcome"] for call in await sql(queue, CALLS)]


def count_paid(sandbox: Sandbox) -> int:
    return len([call for call in sandbox.journal if call.method == "POST"])


@asynccontextmanager
async def job_locked(queue: Queue, job_id: UUID) -> AsyncIterator[None]:
    """Meanwhile nobody can end the job."""
    async with queue.database.connection() as connection, connection.transaction():
        await connection.execute("SELECT FROM jobs_job WHERE id = %s FOR UPDATE", (job_id,))
        yield


async def wait_for_finalize(queue: Queue) -> None:
    """Returns once a worker tries to end a job, and waits for its lock."""
    await wait_until(lambda: sql(queue, FINALIZING))


async def wait_for_worker(queue: Queue) -> None:
    """Returns once a worker has started, so that a short deadline does not pass before."""
    await wait_until(lambda: sql(queue, "SELECT id FROM jobs_process"))


def begin_run(queue: Queue, claim: Claim) -> tuple[JobRun, JobRunner]:
    runner = JobRunner(queue)
    return runner.begin(claim, JobSemaphore(1, lambda: None).acquire_all()[0]), runner


async def run_to_end(queue: Queue, claim: Claim) -> None:
    run, runner = begin_run(queue, claim)
    try:
        await run.run()
    finally:
        await runner.aclose()


# Between the call's answer and the job's end.


@with_and_without("earlier calls")
async def test_a_worker_killed_between_picture_and_end_is_not_paid_again(
    queue: Queue, processes: Processes, sandbox: Sandbox, without: str | None
) -> None:
    processes.without = without
    worker = processes.worker()
    job_id = await post_job(queue, "instant", "hold")
    await asyncio.to_thread(sandbox.wait_for_calls, 1)
    async with job_locked(queue, job_id):
        sandbox.let_go()
        await wait_for_finalize(queue)
        worker.kill()
        worker.wait()
    await end_lease(queue, job_id)
    processes.worker()
    outcome = await wait_for_end(queue, job_id)
    if without:
        assert count_paid(sandbox) == 2
        return
    assert (outcome.failure_reason, outcome.error_reason) == ("provider_error", "internal")
    assert count_paid(sandbox) == 1
    assert await outcomes(queue) == ["ambiguous"]


@pytest.mark.parametrize("outcome", ["made", "late", "refused"])
@with_and_without("earlier calls' outcomes")
async def test_a_call_that_ended_before_its_worker_was_lost_is_not_repeated(
    queue: Queue, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, outcome: str, without: str | None
) -> None:
    if without:
        remove(without, monkeypatch.setattr)
    await post_job(queue)
    (claim,) = await queue.claim(["instant"], 1)
    permit = await queue.begin_call(claim, build_call())
    assert permit.call_id
    await queue.end_call(permit.call_id, CallEnding(ProviderCall.Outcome(outcome)))
    await end_lease(queue, claim.id)
    await run_to_end(queue, (await queue.claim(["instant"], 1))[0])
    assert (await wait_for_end(queue, claim.id)).failure_reason == (None if without else "provider_error")
    assert count_paid(sandbox) == (1 if without else 0)


@with_and_without("end before leaving")
async def test_a_run_that_is_cancelled_ends_the_job_whose_picture_it_has(
    queue: Queue, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    """So does the worker's shutdown, after its grace period."""
    if without:
        remove(without, monkeypatch.setattr)
    await post_job(queue, "instant", "hold")
    (claim,) = await queue.claim(["instant"], 1)
    run, runner = begin_run(queue, claim)
    task = asyncio.create_task(run.run())
    await asyncio.to_thread(sandbox.wait_for_calls, 1)
    async with job_locked(queue, claim.id):
        sandbox.let_go()
        await wait_for_finalize(queue)
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await runner.aclose()
    await queue.release([claim])
    if without:
        assert not (await row(queue, claim.id))["is_finalized"]
        return
    assert (await wait_for_end(queue, claim.id)).failure_reason is None
    assert await outcomes(queue) == ["made"]


def test_the_default_grace_period_covers_the_longest_wait() -> None:
    environment = {"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "photoslot.settings"}
    command = [sys.executable, "-c", "from django.conf import settings; print(settings.WORKER_GRACE_SECONDS)"]
    shown = subprocess.run(command, env=environment, cwd=settings.BASE_DIR, capture_output=True, check=True)
    assert int(shown.stdout) >= 60


async def test_what_a_shutdown_cuts_off_is_said(queue: Queue, processes: Processes, sandbox: Sandbox) -> None:
    worker = processes.worker(WORKER_GRACE_SECONDS="0")
    job_id = await post_job(queue, "instant", "hold")
    await asyncio.to_thread(sandbox.wait_for_calls, 1)
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 30) == 0
    assert await outcomes(queue) == ["ambiguous"]
    logged = await sql(queue, "SELECT details FROM stats_processinglog WHERE status = 'provider_responded'")
    assert [(step["details"]["may_have_been_billed"], step["details"]["error_class"]) for step in logged] == [
        (True, "AmbiguousError")
    ]
    processes.worker()
    assert "billed" in (await row(queue, (await wait_for_end(queue, job_id)).id))["error_message"]
    assert count_paid(sandbox) == 1


# A call is recorded by the job's holder alone.


@with_and_without("claim of a call")
async def test_a_finished_job_is_not_paid_for(
    queue: Queue, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    """The worker was cut off from the database before its call, and has not heard of the end."""
    if without:
        remove(without, monkeypatch.setattr)
    await post_job(queue)
    (claim,) = await queue.claim(["instant"], 1)
    await lifecycle.cancel(queue, claim.id, "igor")
    await asyncio.to_thread(files.save, claim.payload_path, b"still here")
    await run_to_end(queue, claim)
    if without:
        assert count_paid(sandbox) == 1
        return
    assert count_paid(sandbox) == 0
    assert await outcomes(queue) == []
    assert (await counters(queue))["late_answers"] == 0


@pytest.mark.parametrize("change", ["cancelled", "overdue", "taken over"])
async def test_no_call_begins_for_a_job_that_is_not_ours(queue: Queue, change: str) -> None:
    claim = await claim_job(queue)
    if change == "cancelled":
        await queue.cancel(claim.id, "igor")
    elif change == "overdue":
        await make_overdue(queue, claim.id)
    else:
        await end_lease(queue, claim.id)
        await queue.claim(["instant"], 1)
    with pytest.raises(ClaimLost):
        await queue.begin_call(claim, build_call())
    assert await outcomes(queue) == []


async def test_a_lease_that_ran_out_unnoticed_holds_again_when_the_call_begins(queue: Queue) -> None:
    claim = await claim_job(queue)
    await end_lease(queue, claim.id)
    assert (await queue.begin_call(claim, build_call())).call_id
    assert await queue.claim(["instant"], 1) == []


# Whatever our own fault is, the job ends once.


@with_and_without("end as our fault")
async def test_an_ending_that_postgres_refuses_ends_the_job_as_our_fault(
    queue: Queue, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    if without:
        remove(without, monkeypatch.setattr)
    await sql(queue, REFUSE_PICTURES)
    try:
        await post_job(queue)
        (claim,) = await queue.claim(["instant"], 1)
        with pytest.raises(psycopg.errors.RaiseException) if without else nullcontext():
            await run_to_end(queue, claim)
    finally:
        await sql(queue, "DROP FUNCTION refuse_picture CASCADE")
    if without:
        assert not (await row(queue, claim.id))["is_finalized"]  # and each lease would call the provider anew
        return
    outcome = await wait_for_end(queue, claim.id)
    assert (outcome.failure_reason, outcome.error_reason) == ("provider_error", "internal")
    assert count_paid(sandbox) == 1
    assert await outcomes(queue) == ["made"]
    assert (await counters(queue))["errors"] == 1


async def test_words_that_postgres_cannot_store_end_the_job_all_the_same(queue: Queue) -> None:
    claim = await claim_job(queue)
    assert await queue.finalize(claim, Failure(Reason.REFUSED, "no\0 \ud800way"), JobReport())
    assert (await row(queue, claim.id))["error_message"] == "no ?way"
    assert (await steps(queue, claim.id))[-1] == "failed"


# The acknowledgement of a COMMIT is lost.


@with_and_without("idempotency key")
async def test_a_call_whose_commit_was_not_acknowledged_is_recorded_once(
    queue: Queue, processes: Processes, sandbox: Sandbox, without: str | None
) -> None:
    processes.without = without
    async with run_proxy() as proxy:
        proxy.sever_at = (b"INSERT INTO providers_providercall", b"COMMIT")
        worker = processes.worker(**proxy.environment)
        job_id = await post_job(queue)
        assert (await wait_for_end(queue, job_id)).failure_reason is None
        assert not proxy.sever_at  # the connection was severed
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 30) == 0
    assert await outcomes(queue) == ([None, "made"] if without else ["made"])
    assert count_paid(sandbox) == 1


@pytest.mark.parametrize("limits", [{"max_concurrent": 1}, {"per_minute": 1}, {"per_day": 1}])
async def test_a_call_that_is_asked_for_again_does_not_count_against_itself(
    queue: Queue, limits: dict[str, int]
) -> None:
    await in_thread(lambda: ProviderAccount.objects.create(provider_id="queued", **limits))
    claim = await claim_job(queue)
    call = build_call("queued", is_fallback=True)
    first = await queue.begin_call(claim, call)
    assert first.call_id
    assert await queue.begin_call(claim, call) == first
    assert len(await outcomes(queue)) == 1


@with_and_without("lease of an open call")
async def test_an_open_call_of_an_ended_job_counts_no_longer_than_its_workers_lease(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    if without:
        remove(without, monkeypatch.setattr)
    await in_thread(lambda: ProviderAccount.objects.create(provider_id="instant", max_concurrent=1))
    claim = await claim_job(queue)
    await queue.begin_call(claim, build_call())
    await make_overdue(queue, claim.id)
    await queue.expire(claim.id)
    following = await admit_job(queue)
    assert await queue.claim(["instant"], 1) == []  # its call may still be under way
    await queue.extend([claim])
    assert await queue.claim(["instant"], 1) == []
    await end_lease(queue, claim.id)
    assert [claim.id for claim in await queue.claim(["instant"], 1)] == ([] if without else [following])


async def test_a_call_that_a_killed_worker_left_open_may_have_been_billed(queue: Queue) -> None:
    lost, living = await claim_job(queue), await claim_job(queue)
    for claim in (lost, living):
        await queue.begin_call(claim, build_call())
        await make_overdue(queue, claim.id)
        await queue.expire(claim.id)
    long_ago = "UPDATE jobs_job SET lease_expires_at = lease_expires_at - %s WHERE id = %s"
    await sql(queue, long_ago, LOST_CALL_TIME + timedelta(seconds=settings.LEASE_SECONDS), lost.id)
    await queue.close_lost_calls()
    assert await outcomes(queue) == ["ambiguous", None]


async def test_a_calls_ending_is_recorded_when_the_database_is_back(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    async with run_proxy() as proxy:
        worker = processes.worker(**proxy.environment)
        await wait_for_worker(queue)
        job_id = await post_job(queue, "instant", "hold", wait_seconds=5)
        await asyncio.to_thread(sandbox.wait_for_calls, 1)
        proxy.cut()
        log = LOGS / f"{worker.pid}.log"

        async def has_given_up() -> bool:
            return f"{job_id} is left to its deadline" in log.read_text()

        await wait_until(has_given_up)
        await lifecycle.expire(queue, job_id)
        proxy.mend()

        async def is_ended() -> bool:
            return await outcomes(queue) == ["late"]

        await wait_until(is_ended)


# Storing the picture.


@contextmanager
def results_blocked() -> Iterator[None]:
    """No result can be stored: something else has the folder's name."""
    folder = Path(settings.MEDIA_ROOT) / "results"
    shutil.rmtree(folder, ignore_errors=True)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()


@with_and_without("storing again")
async def test_a_picture_waits_for_room_on_the_disk(
    queue: Queue,
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    without: str | None,
) -> None:
    if without:
        remove(without, monkeypatch.setattr)
    caplog.set_level(logging.WARNING)
    await post_job(queue)
    (claim,) = await queue.claim(["instant"], 1)
    run, runner = begin_run(queue, claim)

    async def has_failed_to_store() -> bool:
        return "cannot be stored" in caplog.text

    with results_blocked():
        task = asyncio.create_task(run.run())
        await wait_until(has_failed_to_store)
    await task
    await runner.aclose()
    assert (await wait_for_end(queue, claim.id)).failure_reason is None
    assert count_paid(sandbox) == 1
    path = (await row(queue, claim.id))["result_file_path"]
    assert path is None if without else files.size(path)


def test_what_a_full_disk_left_of_a_file_is_removed(database: None) -> None:
    class FullDisk(ContentFile):  # type: ignore[type-arg]
        def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
            yield b"the beginning"
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.save("results/x.jpg", FullDisk(b"whatever"))
    assert stored_files() == []
    files.save("results/x.jpg", BytesIO(b"later"))
    assert stored_files() == ["results/x.jpg"]


# Rule 15.


@with_and_without("lost workers")
async def test_a_photo_that_was_lost_with_two_workers_is_given_up(
    queue: Queue, processes: Processes, sandbox: Sandbox, without: str | None
) -> None:
    processes.without = without
    job_id = await post_job(queue, "instant", "hold", changes=REPEATED)
    for number in (1, 2):
        worker = processes.worker()
        await asyncio.to_thread(sandbox.wait_for_calls, number)
        worker.kill()
        worker.wait()
        await end_lease(queue, job_id)
    processes.worker()
    if without:
        await asyncio.to_thread(sandbox.wait_for_calls, 3)
        return
    outcome = await wait_for_end(queue, job_id)
    assert (outcome.failure_reason, outcome.error_reason) == ("provider_error", "internal")
    assert count_paid(sandbox) == 2
    assert await outcomes(queue) == ["ambiguous", "ambiguous"]


REPEATED = {"settings_json": {"scenario": "hold", "retry": {"repeat_ambiguous": True}}}


async def test_a_job_that_was_handed_back_is_not_given_up(queue: Queue, sandbox: Sandbox) -> None:
    await post_job(queue)
    for _ in range(3):
        (claim,) = await queue.claim(["instant"], 1)
        await queue.release([claim])
    (claim,) = await queue.claim(["instant"], 1)
    await run_to_end(queue, claim)
    assert (await wait_for_end(queue, claim.id)).failure_reason is None


# The wait for a place.


@with_and_without("deadline of a place")
async def test_a_job_that_waits_for_a_place_ends_at_its_deadline(
    queue: Queue, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    """It gave its place away while it backed off, and the other job does not give it back."""
    if without:
        remove(without, monkeypatch.setattr)
    await post_job(queue, "instant", "overloaded_first:1", wait_seconds=5)
    (claim,) = await queue.claim(["instant"], 1)
    semaphore = JobSemaphore(1, lambda: None)
    runner = JobRunner(queue)
    task = asyncio.create_task(runner.begin(claim, semaphore.acquire_all()[0]).run())

    async def is_free() -> bool:
        return semaphore.free == 1

    await wait_until(is_free)
    semaphore.acquire_all()
    if without:
        await wait_until(queue.list_overdue)
        await asyncio.wait([task], timeout=1)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.aclose()
        return
    outcome = await wait_for_end(queue, claim.id)
    assert outcome.failure_reason == "timeout"
    await task
    await runner.aclose()


async def test_the_sweep_ends_overdue_jobs_that_a_worker_holds(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    """With `finish_late` their run goes on; nobody else may be there to end them."""
    processes.worker()
    await wait_for_worker(queue)
    changes = {"settings_json": {"scenario": "hold", "finish_late": True}}
    job_id = await post_job(queue, wait_seconds=5, changes=changes)
    await asyncio.to_thread(sandbox.wait_for_calls, 1)
    assert (await wait_for_end(queue, job_id)).failure_reason == "timeout"
    sandbox.let_go()

    async def has_result() -> bool:
        return bool((await row(queue, job_id))["result_checksum"])

    await wait_until(has_result)
    assert await outcomes(queue) == ["made"]
