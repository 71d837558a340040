"""The queue's verbs: one method for each step in the life of a job, around one statement each.

What a verb did is written to the processing log and the counters in its own transaction. The NOTIFY comes after it, in
a statement of its own, because at commit it takes a lock that the whole database shares.

Verbs raise `DatabaseUnavailable` when the database does not answer in time. The change may have been committed all the
same; a verb that is asked again does nothing twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from core.database import Database, DatabaseUnavailable, make_storable
from jobs.models import Job
from jobs.queue import log_steps, statements
from jobs.queue.records import (
    CallPermit,
    Claim,
    EncryptedAccount,
    EndedJob,
    Failure,
    JobInput,
    JobOutcome,
    JobReport,
    NewJob,
    Result,
    Ticket,
)
from providers import limits
from providers.base import Reason
from providers.limits import CallEnding, NewCall
from providers.models import ProviderCall
from stats import journal
from stats.journal import Step

logger = logging.getLogger(__name__)

READY_CHANNEL = "photoslot_ready"  # a job waits for a worker
DONE_CHANNEL = "photoslot_done"  # a job has ended; the payload is its id

# A test run's picture is needed only for its response: nobody can fetch it later.
TEST_RETENTION = timedelta(minutes=5)

# Keys of advisory locks: arbitrary numbers that nothing else uses.
ADMISSION_LOCK = 0x70686F746F  # "photo"
CLAIM_LOCK = 0x636C61696D  # "claim"

# How long after its lease an open call of an ended job counts as lost: a worker that was only cut off from the database
# records the ending itself before that.
LOST_CALL_TIME = timedelta(seconds=15)
CAPACITY_RETRY_SECONDS = 0.25  # between two attempts to get a fallback's call past `max_concurrent`


class QueueFull(Exception):
    """QUEUE_MAX_IN_FLIGHT_JOBS jobs are under way."""


class SlotArchived(Exception):
    """The slot was archived after the photo's checks."""


class ClaimLost(Exception):
    """The job has ended, is past its deadline or is another worker's."""


class Queue:
    """The verbs, on one pool of connections."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def admit(self, job: NewJob, wait_seconds: int, *, only_join: bool = False) -> Ticket:
        """Adds the job, or joins the one of an earlier post of its photo. The limit is exact under concurrency. Raises
        `SlotArchived` or `QueueFull`; the second with `only_join` also where there is no earlier post."""
        values = _make_admission_values(job, wait_seconds) | ({"limit": 0} if only_join else {})
        async with self.database.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADMISSION_LOCK,))
            cursor = connection.cursor(row_factory=class_row(Ticket))
            begun = time.monotonic()
            ticket = await (await cursor.execute(statements.ADMIT, values)).fetchone()
            if ticket is None:
                archived = await (await connection.execute(statements.IS_ARCHIVED, (job.slot_id,))).fetchone()
                raise SlotArchived if archived and archived[0] else QueueFull
            await journal.write(connection, [log_steps.make_received(job, ticket)])
        if not ticket.joined:
            await self._notify(READY_CHANNEL)
        # The server may have hung since it said how much time is left; the booth's deadline has come nearer meanwhile.
        return replace(ticket, seconds_left=ticket.seconds_left - (time.monotonic() - begun))

    async def count_posts(self, job_id: UUID) -> int:
        """How many posts the job has, when no admission is half done: an admission of its own whose acknowledgement was
        lost has been committed by then, or rolled back. 0: the job was not admitted."""
        async with self.database.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADMISSION_LOCK,))
            row = await (await connection.execute(statements.COUNT_POSTS, (job_id,))).fetchone()
        assert row
        return int(row[0])

    async def claim(self, providers: Collection[str], limit: int) -> list[Claim]:
        """Claims up to `limit` jobs of these providers that are pending or whose lease has run out, oldest first."""
        values = {
            "providers": list(providers),
            "limit": limit,
            "lease": timedelta(seconds=settings.LEASE_SECONDS),
            "window": limits.WINDOW_SECONDS,
        }
        async with self.database.connection() as connection, connection.transaction():
            await connection.execute(statements.LOCK_CLAIMS, (CLAIM_LOCK,))
            cursor = connection.cursor(row_factory=dict_row)
            rows = await (await cursor.execute(statements.CLAIM, values)).fetchall()
            claims = await _add_earlier_calls(connection, [_build_claim(row) for row in rows])
            await journal.write(connection, [log_steps.make_dispatched(claim) for claim in claims])
        return sorted(claims, key=lambda claim: claim.created_at)

    async def get_account(self, provider_id: str) -> EncryptedAccount:
        """As `Claim.account`, for a provider that a slot falls back to."""
        account = await self.database.fetch_one(EncryptedAccount, statements.GET_ACCOUNT, (provider_id,))
        return account or EncryptedAccount()

    async def begin_call(self, claim: Claim, call: NewCall) -> CallPermit:
        """Records the call, if it may be made now; asked again after a lost answer, returns the same call. Raises
        `PermanentError` and `ClaimLost`: then the call must not be made.

        A claim already counts for its own provider's `max_concurrent`; a fallback's provider must have capacity."""
        async with self.database.connection() as connection, connection.transaction():
            return await begin_call(connection, claim, call)

    async def end_call(self, call_id: int, ending: CallEnding) -> None:
        """Records a call's outcome and cost. The first ending stands."""
        async with self.database.connection() as connection, connection.transaction():
            await limits.end_call(connection, call_id, ending)

    async def extend(self, claims: Collection[Claim]) -> set[UUID]:
        """The heartbeat. Returns the ids still ours; the others have ended or gone to another worker."""
        values = {
            "ids": [claim.id for claim in claims],
            "tokens": [claim.token for claim in claims],
            "lease": timedelta(seconds=settings.LEASE_SECONDS),
        }
        return {*await self.database.fetch_column(statements.EXTEND, values)}

    async def store_provider_reference(self, claim: Claim, reference: str) -> bool:
        """Keeps the provider's reference at once, so that another worker polls instead of paying twice.
        False: the job is no longer ours."""
        values = (reference, claim.id, claim.token)
        return await self.database.execute(statements.STORE_PROVIDER_REFERENCE, values) == 1

    async def fall_back(self, claim: Claim) -> bool:
        """From now on the slot's fallback is called, also by another worker. False: the job is no longer ours."""
        return await self.database.execute(statements.FALL_BACK, (claim.id, claim.token)) == 1

    async def finalize(self, claim: Claim, ending: Result | Failure, report: JobReport) -> EndedJob | None:
        """Ends the job with a picture or a failure, and with it the report's open call. None: the job has ended
        already, is past its deadline or is another worker's; only the call is ended."""
        if isinstance(ending, Result):
            values = _make_result_values(claim, ending)
            statement, step, outcome = statements.SUCCEED, log_steps.make_succeeded(claim, ending), "success"
        else:
            values = {"reason": ending.reason.value, "message": make_storable(ending.message)[: journal.ERROR_LENGTH]}
            outcome = "errors" if ending.reason is Reason.INTERNAL else "provider_errors"
            statement, step = statements.FAIL, log_steps.make_failed(claim, ending)
        identity = {"id": claim.id, "token": claim.token}
        return await self._end(statement, values | identity, [*report.steps, step], outcome, report)

    async def expire(self, job_id: UUID, report: JobReport | None = None) -> EndedJob | None:
        """Ends the job as a timeout if its deadline has passed. None: it has ended already or is not due."""
        report = report or JobReport()
        return await self._end(statements.EXPIRE, {"id": job_id}, report.steps, "timeouts", report)

    async def cancel(self, job_id: UUID, by: str | None) -> EndedJob | None:
        """Ends the job for staff, or (`by` is None) because no booth waits for it. Its worker and its booth are
        notified at once. None: it has ended already."""
        return await self._end(statements.CANCEL, {"id": job_id}, [], "cancelled", JobReport(), by)

    async def list_overdue(self) -> list[UUID]:
        """Jobs past their deadline that nobody has ended yet."""
        return await self.database.fetch_column(statements.LIST_OVERDUE)

    async def close_lost_calls(self) -> None:
        """Ends the calls that killed workers left open, as ones that may have been billed."""
        await self.database.execute(statements.CLOSE_LOST_CALLS, (LOST_CALL_TIME,))

    async def release(self, claims: Collection[Claim]) -> None:
        """Releases unfinished jobs to other workers."""
        ids, tokens = [claim.id for claim in claims], [claim.token for claim in claims]
        if await self.database.execute(statements.RELEASE, (ids, tokens)):
            await self._notify(READY_CHANNEL)

    async def get_outcome(self, job_id: UUID) -> JobOutcome | None:
        return await self.database.fetch_one(JobOutcome, statements.GET_OUTCOME, (job_id,))

    async def get_job_input(self, job_id: UUID) -> JobInput:
        """The job's photo, provider, operation and settings."""
        job_input = await self.database.fetch_one(JobInput, statements.GET_JOB_INPUT, (job_id,))
        assert job_input, "jobs are removed long after their booths have gone"
        return job_input

    async def list_finished(self, job_ids: Collection[UUID]) -> set[UUID]:
        """Which of these jobs have ended. Polling calls this once for all that wait in a process."""
        return {*await self.database.fetch_column(statements.LIST_FINISHED, (list(job_ids),))}

    async def mark_delivered(self, job_id: UUID) -> None:
        """The booth has its response: drops the inline copy. Posting the photo again now starts another job."""
        await self.database.execute(statements.MARK_DELIVERED, (job_id,))

    async def write_log(self, steps: Sequence[Step]) -> None:
        """Writes steps that change no state of the job, such as a failed attempt that will be repeated."""
        async with self.database.connection() as connection, connection.transaction():
            await journal.write(connection, steps)

    async def drop_late_answer(self, claim: Claim, steps: Sequence[Step]) -> None:
        """Records a provider's answer that came after the job's end."""
        async with self.database.connection() as connection, connection.transaction():
            await journal.write(connection, [*steps, log_steps.make_late_answer(claim)])
            await journal.count_late_answer(
                connection, claim.created_at, claim.slot_id, claim.provider_id, claim.source
            )

    async def add_late_result(self, claim: Claim, result: Result, steps: Sequence[Step]) -> bool:
        """Puts a picture that came after the deadline under the job's public link. False: the job has not timed out,
        or has another one; nothing was changed. Asked again after a lost answer, returns True."""
        values = _make_result_values(claim, result) | {"id": claim.id, "token": claim.token}
        async with self.database.connection() as connection, connection.transaction():
            if (await connection.execute(statements.ADD_LATE_RESULT, values)).rowcount == 0:
                return (await connection.execute(statements.HAS_RESULT, values)).rowcount == 1
            await journal.write(connection, [*steps, log_steps.make_late_result(claim, result)])
        return True

    async def record_process(self, **process: Any) -> None:
        """Records that this process is running (`jobs.models.Process`)."""
        await self.database.execute(statements.RECORD_PROCESS, process)

    async def remove_process(self, process_id: UUID) -> None:
        await self.database.execute(statements.REMOVE_PROCESS, (process_id,))

    async def _end(
        self,
        statement: str,
        values: Mapping[str, Any],
        steps: Sequence[Step],
        outcome: str,
        report: JobReport,
        by: str | None = None,
    ) -> EndedJob | None:
        async with self.database.connection() as connection, connection.transaction():
            if report.call_id is not None:  # before the job: `begin_call` locks account and job in this order
                ending = report.call_ending or CallEnding(ProviderCall.Outcome.AMBIGUOUS, Reason.INTERNAL)
                await limits.end_call(connection, report.call_id, ending)
            cursor = connection.cursor(row_factory=class_row(EndedJob))
            ended = await (await cursor.execute(statement, values)).fetchone()
            if ended is None:
                return None
            last = [log_steps.make_ended(ended, outcome, by)] if outcome in ("timeouts", "cancelled") else []
            await journal.write(connection, [*steps, *last])
            await journal.count(connection, log_steps.make_tally(ended, outcome, report))
        await self._notify(DONE_CHANNEL, str(ended.id))
        return ended

    async def _notify(self, channel: str, payload: str = "") -> None:
        """Best effort, after the commit that it reports: a failure here must not look like a failure of that.
        Whoever misses the notification finds the change by polling."""
        try:
            await self.database.execute("SELECT pg_notify(%s, %s)", (channel, payload))
        except DatabaseUnavailable as error:
            logger.warning("Nobody could be notified on %s: %s", channel, error)


async def begin_call(connection: AsyncConnection[Any], claim: Claim, call: NewCall) -> CallPermit:
    """`Queue.begin_call` in the caller's transaction."""
    if (call_id := await _find_call(connection, call)) is not None:
        return CallPermit(call_id)
    if call.provider_id != claim.provider_id:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (CLAIM_LOCK,))
        capacity = await (await connection.execute(statements.HAS_CAPACITY, (call.provider_id,))).fetchone()
        if capacity is not None and not capacity[0]:
            return CallPermit(None, CAPACITY_RETRY_SECONDS)
    check = await limits.check_call(connection, call)
    if check.wait_seconds:
        return CallPermit(None, check.wait_seconds)
    call_id = await _insert_call(connection, claim, call)
    if check.is_probe:
        await limits.start_probe(connection, call.provider_id, call_id)
    return CallPermit(call_id)


async def _find_call(connection: AsyncConnection[Any], call: NewCall) -> int | None:
    row = await (await connection.execute(statements.GET_CALL, (call.idempotency_key,))).fetchone()
    return row[0] if row else None


async def _insert_call(connection: AsyncConnection[Any], claim: Claim, call: NewCall) -> int:
    """Raises `ClaimLost`."""
    values = {
        "job_id": claim.id,
        "token": claim.token,
        "lease": timedelta(seconds=settings.LEASE_SECONDS),
        "provider_id": call.provider_id,
        "is_fallback": call.is_fallback,
        "key": call.idempotency_key,
    }
    row = await (await connection.execute(statements.BEGIN_CALL, values)).fetchone()
    # No row also where a transaction that seemed lost has committed meanwhile.
    call_id = row[0] if row else await _find_call(connection, call)
    if call_id is None:
        raise ClaimLost
    return call_id


def _build_claim(row: dict[str, Any]) -> Claim:
    """From the statement's row; where there is no account, its columns are all None."""
    account = {name: row.pop(name) for name in EncryptedAccount.__slots__}
    return Claim(**row, account=EncryptedAccount() if account["is_enabled"] is None else EncryptedAccount(**account))


def _make_result_values(claim: Claim, result: Result) -> dict[str, Any]:
    is_test = claim.source == Job.Source.TEST
    retention = TEST_RETENTION if is_test else timedelta(hours=settings.RESULT_RETENTION_HOURS)
    return {name: getattr(result, name) for name in Result.__slots__} | {"retention": retention}


async def _add_earlier_calls(connection: AsyncConnection[Any], claims: list[Claim]) -> list[Claim]:
    """Completes claims of jobs that an earlier worker had with what came of its calls."""
    reclaimed = [claim.id for claim in claims if claim.claims > 1]
    if not reclaimed:
        return claims
    cursor = connection.cursor(row_factory=dict_row)
    known = {
        row.pop("job_id"): row
        for row in await (await cursor.execute(statements.GET_EARLIER_CALLS, (reclaimed,))).fetchall()
    }
    return [replace(claim, **known.get(claim.id, {})) for claim in claims]


def _make_admission_values(job: NewJob, wait_seconds: int) -> dict[str, Any]:
    limit = settings.QUEUE_MAX_IN_FLIGHT_JOBS
    if job.source == Job.Source.TEST:  # half the queue stays for booths
        limit = (limit + 1) // 2
    return {name: getattr(job, name) for name in NewJob.__slots__} | {
        "settings_json": Jsonb(job.settings_json),
        "template_media": Jsonb(job.template_media),
        "metadata": Jsonb(job.metadata),
        "wait": timedelta(seconds=wait_seconds),
        "dedupe": timedelta(seconds=settings.INGEST_DEDUPE_SECONDS),
        "limit": limit,
    }
