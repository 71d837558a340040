"""What the queue's verbs record: the steps of a job in the processing log, and its tally in the hourly counters."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_noop

from jobs.queue.records import Claim, EndedJob, Failure, JobReport, NewJob, Result, Ticket
from stats.journal import Step, Tally


def make_tally(ended: EndedJob, outcome: str, report: JobReport) -> Tally:
    wait = (ended.claimed_at - ended.created_at).total_seconds() if ended.claimed_at else None
    return Tally(
        slot_id=ended.slot_id,
        provider_id=ended.provider_id,
        source=ended.source,
        received_at=ended.created_at,
        outcome=outcome,
        duration_seconds=(ended.finalized_at - ended.created_at).total_seconds(),
        wait_seconds=wait,
        attempts=report.attempts,
        attempt_errors=report.attempt_errors,
        provider_seconds=report.provider_seconds,
        polls=report.polls,
    )


def make_received(job: NewJob, ticket: Ticket) -> Step:
    again = gettext_noop("Posted again; joins the job under way")
    return Step(
        job_id=ticket.job_id,
        slot_id=job.slot_id,
        status="received",
        message=again if ticket.joined else gettext_noop("Photo received"),
        details={
            "provider_id": job.provider_id,
            "expires_at": ticket.expires_at.isoformat(),
            "payload_path": None if ticket.joined else job.payload_path,
            "asked_by": job.asked_by,
        },
    )


def _make_step(claim: Claim, status: str, message: str, **details: Any) -> Step:
    common = {"provider_id": claim.provider_id, "claim": claim.claims}
    return Step(claim.id, claim.slot_id, status, message, details=common | details)


def make_dispatched(claim: Claim) -> Step:
    again = gettext_noop("Taken up again by a worker")
    message = gettext_noop("Taken up by a worker") if claim.claims == 1 else again
    return _make_step(claim, "dispatched", message, provider_reference=claim.provider_job_reference)


def make_succeeded(claim: Claim, result: Result) -> Step:
    return _make_step(
        claim,
        "succeeded",
        gettext_noop("Picture made"),
        result_file_path=result.path,
        result_checksum=result.checksum,
        inline_preview=result.inline_base64 is not None,
    )


def make_late_result(claim: Claim, result: Result) -> Step:
    message = gettext_noop("The picture came after the deadline; it is under the job's public link")
    details = {"result_file_path": result.path, "result_checksum": result.checksum}
    return _make_step(claim, "provider_responded", message, **details)


def make_late_answer(claim: Claim) -> Step:
    return _make_step(claim, "provider_responded", gettext_noop("The answer came after the job's end and was dropped"))


def make_failed(claim: Claim, failure: Failure) -> Step:
    return _make_step(
        claim,
        "failed",
        gettext_noop("No picture could be made"),
        error=failure.message,
        failure_reason="provider_error",
        reason=failure.reason.value,
    )


def make_ended(ended: EndedJob, outcome: str, by: str | None) -> Step:
    """The last step of a job that its worker did not end."""
    status, reason = ("timeout", "timeout") if outcome == "timeouts" else ("failed", "cancelled")
    if outcome == "timeouts":
        message = gettext_noop("The deadline passed before there was a picture")
    elif by:
        message = gettext_noop("Cancelled by staff")
    else:
        message = gettext_noop("Cancelled: nobody waits for the picture any more")
    return Step(
        job_id=ended.id,
        slot_id=ended.slot_id,
        status=status,
        message=message,
        details={
            "provider_id": ended.provider_id,
            "provider_reference": ended.provider_job_reference,
            "failure_reason": reason,
            "cancelled_by": by,
            "expires_at": ended.expires_at.isoformat(),
        },
    )
