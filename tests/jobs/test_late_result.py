"""A picture that comes after the deadline (`finish_late`): which jobs accept it, and what stays unchanged."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from jobs.queue.records import Claim, Failure, JobReport
from jobs.queue.verbs import Queue
from providers.base import Reason
from tests.queue_helpers import PICTURE, claim_job, counters, make_overdue, row, sql, steps

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]


async def time_out_job(queue: Queue) -> Claim:
    claim = await claim_job(queue)
    await make_overdue(queue, claim.id)
    assert await queue.expire(claim.id)
    return claim


async def test_a_job_that_has_timed_out_accepts_it_once_and_stays_a_timeout(queue: Queue) -> None:
    claim = await time_out_job(queue)
    assert await queue.add_late_result(claim, PICTURE, [])
    assert not await queue.add_late_result(claim, replace(PICTURE, checksum="d" * 64), [])
    job = await row(queue, claim.id)
    assert (job["failure_reason"], job["result_checksum"]) == ("timeout", PICTURE.checksum)
    assert (job["result_expires_at"] - job["updated_at"]).total_seconds() == 72 * 60 * 60
    assert job["result_inline_base64"] is None  # no booth waits for it
    assert (await steps(queue, claim.id))[-2:] == ["timeout", "provider_responded"]
    counted = await counters(queue)
    assert (counted["timeouts"], counted["success"], counted["late_answers"]) == (1, 0, 0)


async def test_another_workers_claim_is_refused(queue: Queue) -> None:
    claim = await time_out_job(queue)
    assert not await queue.add_late_result(replace(claim, token=uuid4()), PICTURE, [])
    assert (await row(queue, claim.id))["result_checksum"] is None


@pytest.mark.parametrize("end", ["unfinished", "cancelled", "failed", "made"])
async def test_no_other_job_accepts_it(queue: Queue, end: str) -> None:
    claim = await claim_job(queue)
    if end == "cancelled":
        await queue.cancel(claim.id, "serg")
    elif end == "failed":
        await queue.finalize(claim, Failure(Reason.REFUSED, "no"), JobReport())
    elif end == "made":
        await queue.finalize(claim, PICTURE, JobReport())
    before = await sql(queue, "SELECT * FROM jobs_job")
    assert not await queue.add_late_result(claim, replace(PICTURE, checksum="d" * 64), [])
    assert await sql(queue, "SELECT * FROM jobs_job") == before
