"""The end of a job: exactly one, with its log and its counters in the same transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from pytest_django import Settings

from jobs.queue.records import Claim, EndedJob, Failure, JobReport
from jobs.queue.verbs import Queue
from providers.base import Reason
from stats.journal import OUTCOMES, Step
from tests.queue_helpers import PICTURE, REPORT, claim_job, counters, make_overdue, row, sql, steps, wait_for_blocked

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

End = Callable[[Queue, Claim], Coroutine[Any, Any, EndedJob | None]]


async def succeed(queue: Queue, claim: Claim) -> EndedJob | None:
    return await queue.finalize(claim, PICTURE, REPORT)


async def fail(queue: Queue, claim: Claim) -> EndedJob | None:
    return await queue.finalize(claim, Failure(Reason.REFUSED, "no"), REPORT)


async def fail_by_our_fault(queue: Queue, claim: Claim) -> EndedJob | None:
    return await queue.finalize(claim, Failure(Reason.INTERNAL, "no"), REPORT)


async def cancel(queue: Queue, claim: Claim) -> EndedJob | None:
    return await queue.cancel(claim.id, "igor")


async def expire(queue: Queue, claim: Claim) -> EndedJob | None:
    return await queue.expire(claim.id)


async def time_out(queue: Queue, claim: Claim) -> EndedJob | None:
    await make_overdue(queue, claim.id)
    return await queue.expire(claim.id)


ENDS: dict[str, tuple[End, str]] = {
    "success": (succeed, "succeeded"),
    "timeouts": (time_out, "timeout"),
    "provider_errors": (fail, "failed"),
    "cancelled": (cancel, "failed"),
    "errors": (fail_by_our_fault, "failed"),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_each_end_is_counted_and_logged_as_what_it_is(queue: Queue, outcome: str) -> None:
    claim = await claim_job(queue)
    end, step = ENDS[outcome]
    assert await end(queue, claim)
    counted = await counters(queue)
    assert {name: counted[name] for name in OUTCOMES} == {name: int(name == outcome) for name in OUTCOMES}
    assert counted["ingest_count"] == sum(counted["duration_buckets"]) == sum(counted["wait_buckets"]) == 1
    assert await steps(queue, claim.id) == ["received", "dispatched", step]


async def test_the_sum_of_the_outcomes_is_the_number_of_photos(queue: Queue) -> None:
    for end, _ in [*ENDS.values(), *ENDS.values()]:
        assert await end(queue, await claim_job(queue))
    found = await sql(queue, "SELECT * FROM stats_hourlycounter")  # two: overdue ones were moved by an hour
    assert sum(hour["ingest_count"] for hour in found) == 10
    assert all(hour["ingest_count"] == sum(hour[name] for name in OUTCOMES) for hour in found)


async def test_the_report_is_counted(queue: Queue) -> None:
    for _ in range(2):
        await succeed(queue, await claim_job(queue))
    counted = await counters(queue)
    assert (counted["attempts"], counted["attempt_errors"], counted["polls"]) == (4, 2, 6)
    assert counted["provider_seconds"] == 3.0


async def test_a_job_counts_in_the_hour_it_came_in(queue: Queue) -> None:
    claim = await claim_job(queue)
    await sql(queue, "UPDATE jobs_job SET created_at = created_at - interval '3 hours'")
    assert await succeed(queue, claim)
    counted = await counters(queue)
    assert counted["hour"] == (await row(queue, claim.id))["created_at"].replace(minute=0, second=0, microsecond=0)


async def test_what_cannot_be_counted_has_not_ended(queue: Queue) -> None:
    claim = await claim_job(queue)
    before = await row(queue, claim.id)
    with pytest.raises(psycopg.errors.CheckViolation):
        await queue.finalize(claim, PICTURE, JobReport(attempts=-1))
    assert await row(queue, claim.id) == before
    assert await steps(queue, claim.id) == ["received", "dispatched"]


@pytest.mark.parametrize("hours", [1, 72])
async def test_a_result_is_kept_for_the_retention_from_its_end_on(queue: Queue, settings: Settings, hours: int) -> None:
    settings.RESULT_RETENTION_HOURS = hours
    claim = await claim_job(queue)
    await queue.finalize(claim, replace(PICTURE, inline_base64="AAAA"), REPORT)
    job = await row(queue, claim.id)
    assert job["result_expires_at"] == job["finalized_at"] + timedelta(hours=hours)
    assert (job["result_file_path"], job["result_inline_base64"]) == (PICTURE.path, "AAAA")
    await queue.mark_delivered(claim.id)
    assert (await row(queue, claim.id))["result_inline_base64"] is None


@pytest.mark.parametrize("end", [succeed, fail, fail_by_our_fault])
async def test_after_the_deadline_only_a_timeout_is_left(queue: Queue, end: End) -> None:
    claim = await claim_job(queue)
    await make_overdue(queue, claim.id)
    assert await end(queue, claim) is None
    assert await expire(queue, claim)
    assert (await row(queue, claim.id))["failure_reason"] == "timeout"


async def test_a_late_answer_is_logged_and_counted(queue: Queue) -> None:
    claim = await claim_job(queue)
    await make_overdue(queue, claim.id)
    created = (await row(queue, claim.id))["created_at"]
    await expire(queue, claim)
    answer = Step(claim.id, claim.slot_id, "provider_responded", "late")
    await queue.drop_late_answer(replace(claim, created_at=created), [answer])
    assert (await counters(queue))["late_answers"] == 1
    assert (await steps(queue, claim.id))[-3:] == ["timeout", "provider_responded", "provider_responded"]
    assert (await row(queue, claim.id))["failure_reason"] == "timeout"


async def test_a_long_error_is_cut_to_the_contracts_length(queue: Queue) -> None:
    claim = await claim_job(queue)
    await queue.finalize(claim, Failure(Reason.REFUSED, "x" * 5000), REPORT)
    assert (await row(queue, claim.id))["error_message"] == "x" * 2048


async def run_race(queue: Queue, claim: Claim, before: list[End], after: list[End]) -> list[EndedJob | None]:
    """Runs all at once: they wait for the row in this order; the deadline passes between `before` and `after`."""
    rivals: list[asyncio.Task[EndedJob | None]] = []
    async with queue.database.connection() as connection, connection.transaction():
        await connection.execute("SELECT id FROM jobs_job WHERE id = %s FOR UPDATE", (claim.id,))
        for number, end in enumerate([*before, *after], 1):
            if number == len(before) + 1:
                wait = "SELECT pg_sleep(extract(epoch FROM expires_at - clock_timestamp())) FROM jobs_job WHERE id = %s"
                await sql(queue, wait, claim.id)
            rivals.append(asyncio.create_task(end(queue, claim)))
            await wait_for_blocked(queue, number)
    return list(await asyncio.gather(*rivals))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([succeed, cancel, fail], []),
        ([cancel, succeed, succeed], []),
        ([fail, succeed, cancel], []),
        ([succeed], [expire, expire]),
        ([succeed], [cancel, expire]),
        ([], [expire, cancel, expire]),
        ([], [cancel, expire]),
    ],
)
async def test_of_all_who_end_a_job_together_one_does(queue: Queue, before: list[End], after: list[End]) -> None:
    claim = await claim_job(queue, wait_seconds=1 if after else 30)
    winners = [ended for ended in await run_race(queue, claim, before, after) if ended]
    assert len(winners) == 1
    counted = await counters(queue)
    assert counted["ingest_count"] == sum(counted[name] for name in OUTCOMES) == 1
    assert len(await steps(queue, claim.id)) == 3


async def test_together_without_any_order(queue: Queue) -> None:
    for _ in range(15):
        claim = await claim_job(queue)
        ends = await asyncio.gather(*(end(queue, claim) for end in (succeed, cancel, fail, expire, cancel)))
        assert len([ended for ended in ends if ended]) == 1
    counted = await counters(queue)
    assert counted["ingest_count"] == sum(counted[name] for name in OUTCOMES) == 15
