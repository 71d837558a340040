"""The state machine as jobs/models.py draws it: every move from every state; and the database's own invariants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import psycopg
import pytest

from jobs.queue.records import Claim, Failure
from jobs.queue.verbs import Queue
from providers.base import Reason
from tests.queue_helpers import PICTURE, REPORT, admit_job, claim_job, end_lease, make_overdue, row, sql

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

Action = Callable[[Queue, Claim], Awaitable[object]]


async def do_nothing(queue: Queue, claim: Claim) -> None:
    """It is in the state."""


async def pass_deadline(queue: Queue, claim: Claim) -> None:
    await make_overdue(queue, claim.id)


async def release_and_pass_deadline(queue: Queue, claim: Claim) -> None:
    await queue.release([claim])
    await make_overdue(queue, claim.id)


async def time_out(queue: Queue, claim: Claim) -> None:
    await make_overdue(queue, claim.id)
    await queue.expire(claim.id)


async def lose_lease(queue: Queue, claim: Claim) -> None:
    await end_lease(queue, claim.id)


async def succeed(queue: Queue, claim: Claim) -> object:
    return await queue.finalize(claim, PICTURE, REPORT)


async def fail(queue: Queue, claim: Claim) -> object:
    return await queue.finalize(claim, Failure(Reason.REFUSED, "no"), REPORT)


async def cancel(queue: Queue, claim: Claim) -> object:
    return await queue.cancel(claim.id, "igor")


async def release(queue: Queue, claim: Claim) -> object:
    before = await row(queue, claim.id)
    await queue.release([claim])
    return before != await row(queue, claim.id)


# How a claimed job gets into the state, and which moves lead out of it.
STATES: dict[str, tuple[Action, str]] = {
    "pending": (release, "claim cancel"),
    "processing": (do_nothing, "extend refer succeed fail cancel release"),
    "processing, lease run out": (lose_lease, "claim extend refer succeed fail cancel release"),
    "pending, overdue": (release_and_pass_deadline, "cancel expire"),
    "processing, overdue": (pass_deadline, "extend refer cancel release expire"),
    "succeeded": (succeed, ""),
    "failed": (fail, ""),
    "cancelled": (cancel, ""),
    "timed out": (time_out, ""),
}
# Each move, and what it leaves in the row.
MOVES: dict[str, tuple[Action, dict[str, object]]] = {
    "claim": (lambda queue, claim: queue.claim(["instant"], 9), {"status": "processing", "claims": 2}),
    "extend": (lambda queue, claim: queue.extend([claim]), {"status": "processing", "claims": 1}),
    "refer": (lambda queue, claim: queue.store_provider_reference(claim, "q-1"), {"provider_job_reference": "q-1"}),
    "succeed": (succeed, {"is_finalized": True, "failure_reason": None, "result_checksum": PICTURE.checksum}),
    "fail": (fail, {"is_finalized": True, "failure_reason": "provider_error", "error_reason": "refused"}),
    "cancel": (cancel, {"is_finalized": True, "failure_reason": "cancelled", "result_checksum": None}),
    "release": (release, {"status": "pending", "claim_token": None, "is_finalized": False}),
    "expire": (
        lambda queue, claim: queue.expire(claim.id),
        {"is_finalized": True, "failure_reason": "timeout", "error_reason": "slow"},
    ),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("state", STATES)
async def test_every_move_from_every_state(queue: Queue, state: str, move: str) -> None:
    claim = await claim_job(queue)
    await STATES[state][0](queue, claim)
    before = await row(queue, claim.id)
    reports_a_move = bool(await MOVES[move][0](queue, claim))
    after = await row(queue, claim.id)
    is_allowed = move in STATES[state][1].split()
    if before["is_finalized"]:
        after |= {"lease_expires_at": before["lease_expires_at"]}  # of a call that outlives its job
    assert reports_a_move == (after != before) == is_allowed
    if is_allowed:
        assert after | MOVES[move][1] == after
        assert (after["finalized_at"] is not None) == after["is_finalized"]


@pytest.mark.parametrize(
    ("constraint", "change"),
    [
        ("job_finalized_has_time", "finalized_at = now()"),
        ("job_finalized_has_time", "is_finalized = true, failure_reason = 'timeout'"),
        ("job_failure_is_final", "failure_reason = 'timeout'"),
        ("job_result_is_whole", "result_checksum = 'c'"),
        ("job_result_is_whole", "result_file_path = 'results/x.jpg'"),
        (
            "job_result_is_whole",
            """is_finalized = true, finalized_at = now(), failure_reason = 'cancelled', result_checksum = 'c',
               result_mime_type = 'image/jpeg', result_size_bytes = 1, result_expires_at = now()""",
        ),
        ("job_success_has_result", "is_finalized = true, finalized_at = now()"),
        ("job_lease_follows_status", "status = 'processing'"),
        ("job_lease_follows_status", "claim_token = gen_random_uuid()"),
        ("job_expires_after_creation", "expires_at = created_at"),
    ],
)
async def test_the_database_refuses_what_cannot_be(queue: Queue, constraint: str, change: str) -> None:
    job_id = await admit_job(queue)
    with pytest.raises(psycopg.errors.CheckViolation) as refusal:
        await sql(queue, f"UPDATE jobs_job SET {change} WHERE id = %s", job_id)  # noqa: S608 - the changes above
    assert refusal.value.diag.constraint_name == constraint
