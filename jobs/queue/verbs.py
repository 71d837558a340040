"""The whole life of a job in SQL: admit, claim, extend, refer, finalize, cancel, release, expire.

Every move is one conditional UPDATE, so of all who try to end a job exactly one succeeds. The database's clock decides
deadlines and leases. What a move did is written to the log and the counters in its own transaction; the NOTIFY comes
after it in a statement of its own, because at commit it takes a lock that the whole database shares.

    QueueError
    ├── QueueFull           as many jobs are under way as may be
    └── QueueUnavailable    the database did not answer
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings
from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from core.database import connection_kwargs
from jobs.models import Job
from jobs.queue import log_steps, statements
from jobs.queue.records import (
    Claim,
    Closed,
    Failure,
    JobRecipe,
    NewJob,
    Outcome,
    Report,
    Result,
    SealedAccount,
    Ticket,
)
from providers import limits
from providers.base import Reason
from providers.limits import Ending, NewCall, Permit
from stats import journal
from stats.journal import Step

logger = logging.getLogger(__name__)

READY_CHANNEL = "photoslot_ready"  # a job waits for a worker

DONE_CHANNEL = "photoslot_done"  # a job has ended; the payload is its id

# Seconds a claim holds without a heartbeat: what a killed worker costs its jobs, of the 48 that a booth waits.
LEASE_SECONDS = 8

# A test run's picture is of use for as long as its answer takes: nobody can come back for it.
TEST_RETENTION = timedelta(minutes=5)

ADMISSION_LOCK = 0x70686F746F  # any number that nobody else takes; this one reads "photo"

# Seconds to wait for one new connection. A server that runs needs milliseconds; the booth should hear of one that
# does not at once.
CONNECT_SECONDS = 1.0

# What it looks like when the database cannot serve: gone, overloaded, or not migrated to this version yet.
AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    PoolTimeout,
    PoolClosed,
    TimeoutError,
)


class QueueError(Exception):
    """A verb of the queue could not do its work; nothing was changed."""


class QueueFull(QueueError):
    """QUEUE_MAX_IN_FLIGHT_JOBS jobs are under way."""


class QueueUnavailable(QueueError):
    """The database did not answer in time."""


ROOM_SECONDS = 0.25  # between two looks for it


class Queue:
    """The verbs. Bound to the event loop that opened it (`open_queue`)."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
        self._pool = pool
        # Waiting for one's turn at a connection is fair and may last; waiting for the pool to make one may not.
        self._turn = asyncio.Semaphore(pool.max_size)
        self._repair: asyncio.Task[None] | None = None

    async def admit(self, job: NewJob, wait_seconds: int, *, only_join: bool = False) -> Ticket:
        """Gives the photo a place, or its earlier post's job. Exact however many ask at once. Raises `QueueFull`; with
        `only_join` also where there is no earlier post."""
        values = _admission(job, wait_seconds) | ({"limit": 0} if only_join else {})
        async with self.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADMISSION_LOCK,))
            cursor = connection.cursor(row_factory=class_row(Ticket))
            ticket = await (await cursor.execute(statements.ADMIT, values)).fetchone()
            if ticket is None:
                raise QueueFull
            await journal.write(connection, [log_steps.received(job, ticket)])
        if not ticket.joined:
            await self._notify(READY_CHANNEL)
        return ticket

    async def claim(self, providers: Collection[str], limit: int) -> list[Claim]:
        """Takes up to `limit` jobs that wait for one of the providers, or whose worker is gone, oldest first."""
        values = {
            "providers": list(providers),
            "limit": limit,
            "lease": timedelta(seconds=LEASE_SECONDS),
            "window": limits.WINDOW_SECONDS,
        }
        async with self.connection() as connection, connection.transaction():
            await connection.execute(statements.CLAIM_TURN, (statements.CLAIM_LOCK,))
            cursor = connection.cursor(row_factory=dict_row)
            rows = await (await cursor.execute(statements.CLAIM, values)).fetchall()
            claims = await _with_earlier_calls(connection, [_claim(row) for row in rows])
            await journal.write(connection, [log_steps.dispatched(claim) for claim in claims])
        return sorted(claims, key=lambda claim: claim.created_at)

    async def account(self, provider_id: str) -> SealedAccount:
        """As `Claim.account`, for a provider that a slot falls back to."""
        async with self.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(SealedAccount))
            return await (await cursor.execute(statements.ACCOUNT, (provider_id,))).fetchone() or SealedAccount()

    async def begin_call(self, claim: Claim, call: NewCall) -> Permit:
        """Writes the call down, if it may be made now. Raises `PermanentError`.

        The claim holds a place at the slot's own provider; at another, which its fallback names, one must be free."""
        async with self.connection() as connection, connection.transaction():
            if call.provider_id != claim.provider_id:
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (statements.CLAIM_LOCK,))
                room = await (await connection.execute(statements.HAS_ROOM, (call.provider_id,))).fetchone()
                if room is not None and not room[0]:
                    return Permit(None, ROOM_SECONDS)
            return await limits.begin_call(connection, call)

    async def end_call(self, call_id: int, ending: Ending) -> None:
        """What came of it, and what it cost. The first ending stands."""
        async with self.connection() as connection, connection.transaction():
            await limits.end_call(connection, call_id, ending)

    async def extend(self, claims: Collection[Claim]) -> set[UUID]:
        """The heartbeat. Returns the ids still ours; the others have ended or gone to another worker."""
        values = {
            "ids": [claim.id for claim in claims],
            "tokens": [claim.token for claim in claims],
            "lease": timedelta(seconds=LEASE_SECONDS),
        }
        async with self.connection() as connection:
            return {row[0] for row in await (await connection.execute(statements.EXTEND, values)).fetchall()}

    async def refer(self, claim: Claim, reference: str) -> bool:
        """Keeps the provider's reference at once, so that another worker polls instead of paying twice.
        False: the job is no longer ours."""
        async with self.connection() as connection:
            return (await connection.execute(statements.REFER, (reference, claim.id, claim.token))).rowcount == 1

    async def fall_back(self, claim: Claim) -> bool:
        """From now on it is the turn of the slot's fallback, also for another worker. False: no longer ours."""
        async with self.connection() as connection:
            return (await connection.execute(statements.FALL_BACK, (claim.id, claim.token))).rowcount == 1

    async def finalize(self, claim: Claim, ending: Result | Failure, report: Report) -> Closed | None:
        """Ends the job with a picture or a failure. None: it has ended already, is past its deadline or is another
        worker's; nothing was changed."""
        if isinstance(ending, Result):
            values = _result_values(claim, ending)
            statement, step, outcome = statements.SUCCEED, log_steps.succeeded(claim, ending), "success"
        else:
            values = {"reason": ending.reason.value, "message": ending.message[: journal.ERROR_LENGTH]}
            outcome = "errors" if ending.reason is Reason.INTERNAL else "provider_errors"
            statement, step = statements.FAIL, log_steps.failed(claim, ending)
        identity = {"id": claim.id, "token": claim.token}
        return await self._close(statement, values | identity, [*report.steps, step], outcome, report)

    async def expire(self, job_id: UUID, report: Report | None = None) -> Closed | None:
        """Ends the job as a timeout if its deadline has passed. None: it has ended already or is not due."""
        report = report or Report()
        return await self._close(statements.EXPIRE, {"id": job_id}, report.steps, "timeouts", report)

    async def cancel(self, job_id: UUID, by: str | None) -> Closed | None:
        """Ends the job for staff, or (`by` is None) because nobody waits for it; its booth and its worker learn of it
        at once. None: it has ended already."""
        return await self._close(statements.CANCEL, {"id": job_id}, [], "cancelled", Report(), by)

    async def overdue(self) -> list[UUID]:
        """Jobs past their deadline that nobody has ended yet."""
        async with self.connection() as connection:
            return [row[0] for row in await (await connection.execute(statements.OVERDUE)).fetchall()]

    async def release(self, claims: Collection[Claim]) -> None:
        """Hands unfinished jobs back for other workers."""
        ids, tokens = [claim.id for claim in claims], [claim.token for claim in claims]
        async with self.connection() as connection:
            released = (await connection.execute(statements.RELEASE, (ids, tokens))).rowcount
        if released:
            await self._notify(READY_CHANNEL)

    async def look(self, job_id: UUID) -> Outcome | None:
        async with self.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(Outcome))
            return await (await cursor.execute(statements.LOOK, (job_id,))).fetchone()

    async def recipe(self, job_id: UUID) -> JobRecipe:
        """The job's photo and what was to be made of it."""
        async with self.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(JobRecipe))
            recipe = await (await cursor.execute(statements.RECIPE, (job_id,))).fetchone()
        assert recipe, "jobs are removed long after their booths have gone"
        return recipe

    async def finished_of(self, job_ids: Collection[UUID]) -> set[UUID]:
        """Which of these jobs have ended: what polling asks, once for all that wait in a process."""
        async with self.connection() as connection:
            return {
                row[0] for row in await (await connection.execute(statements.FINISHED_OF, (list(job_ids),))).fetchall()
            }

    async def delivered(self, job_id: UUID) -> None:
        """The booth has its answer: the hand-off copy goes, and posting the photo again means another try."""
        async with self.connection() as connection:
            await connection.execute(statements.DELIVERED, (job_id,))

    async def log(self, steps: Sequence[Step]) -> None:
        """Steps that belong to no move of the job, such as a failed attempt that will be repeated."""
        async with self.connection() as connection, connection.transaction():
            await journal.write(connection, steps)

    async def drop_late_answer(self, claim: Claim, steps: Sequence[Step]) -> None:
        """Records a provider's answer that came after the job's end."""
        async with self.connection() as connection, connection.transaction():
            await journal.write(connection, [*steps, log_steps.late(claim)])
            await journal.count_late_answer(
                connection, claim.created_at, claim.slot_id, claim.provider_id, claim.source
            )

    async def add_late_result(self, claim: Claim, result: Result, steps: Sequence[Step]) -> bool:
        """Puts a picture that came after the deadline under the job's public link. False: the job has not timed out,
        or has one; nothing was changed."""
        values = _result_values(claim, result) | {"id": claim.id, "token": claim.token}
        async with self.connection() as connection, connection.transaction():
            if (await connection.execute(statements.ADD_LATE_RESULT, values)).rowcount == 0:
                return False
            await journal.write(connection, [*steps, log_steps.finished_late(claim, result)])
        return True

    async def seen(self, **process: Any) -> None:
        """This process lives (`jobs.models.Process`)."""
        async with self.connection() as connection:
            await connection.execute(statements.SEEN, process)

    async def gone(self, process_id: UUID) -> None:
        async with self.connection() as connection:
            await connection.execute(statements.GONE, (process_id,))

    async def _close(
        self,
        statement: str,
        values: Mapping[str, Any],
        steps: Sequence[Step],
        outcome: str,
        report: Report,
        by: str | None = None,
    ) -> Closed | None:
        async with self.connection() as connection, connection.transaction():
            cursor = connection.cursor(row_factory=class_row(Closed))
            closed = await (await cursor.execute(statement, values)).fetchone()
            if closed is None:
                return None
            last = [log_steps.ended(closed, outcome, by)] if outcome in ("timeouts", "cancelled") else []
            await journal.write(connection, [*steps, *last])
            await journal.count(connection, log_steps.tally(closed, outcome, report))
        await self._notify(DONE_CHANNEL, str(closed.id))
        return closed

    async def _notify(self, channel: str, payload: str = "") -> None:
        """Best effort, in a turn of its own: the move it tells of is committed, so it must not seem to have failed.
        Whoever does not hear of it finds it by polling."""
        try:
            async with self.connection() as connection:
                await connection.execute("SELECT pg_notify(%s, %s)", (channel, payload))
        except QueueUnavailable as error:
            logger.warning("Nobody could be notified on %s: %s", channel, error)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection for one verb, bounded in time once its turn has come. Raises `QueueUnavailable`."""
        bound = settings.QUEUE_STATEMENT_TIMEOUT_MS / 1000
        try:
            async with asyncio.timeout(bound):
                await self._turn.acquire()
            try:
                async with asyncio.timeout(bound), self._pool.connection(timeout=CONNECT_SECONDS) as connection:
                    yield connection
            finally:
                self._turn.release()
        except AWAY as error:
            self._replace_dead_connections()
            raise QueueUnavailable(type(error).__name__) from error

    def _replace_dead_connections(self) -> None:
        if self._repair is None or self._repair.done():
            self._repair = asyncio.create_task(self._pool.check(), name="repair the pool")


@asynccontextmanager
async def open_queue(connections: int = 8) -> AsyncIterator[Queue]:
    """The queue for the running event loop. Does not wait for the database: verbs raise while it is away."""
    pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
        kwargs=connection_kwargs() | {"autocommit": True},
        min_size=1,
        max_size=connections,
        reconnect_timeout=CONNECT_SECONDS,  # then the next verb tries anew, so recovery is never a back-off away
        open=False,
    )
    await pool.open()
    try:
        yield Queue(pool)
    finally:
        await pool.close()


def _claim(row: dict[str, Any]) -> Claim:
    """The statement's row; without an account, the columns of one are all None."""
    sealed = {name: row.pop(name) for name in SealedAccount.__slots__}
    return Claim(**row, account=SealedAccount() if sealed["is_enabled"] is None else SealedAccount(**sealed))


def _result_values(claim: Claim, result: Result) -> dict[str, Any]:
    is_test = claim.source == Job.Source.TEST
    retention = TEST_RETENTION if is_test else timedelta(hours=settings.RESULT_RETENTION_HOURS)
    return {name: getattr(result, name) for name in Result.__slots__} | {"retention": retention}


async def _with_earlier_calls(connection: AsyncConnection[Any], claims: list[Claim]) -> list[Claim]:
    """Those that were in a worker's hands before learn what came of that."""
    again = [claim.id for claim in claims if claim.claims > 1]
    if not again:
        return claims
    cursor = connection.cursor(row_factory=dict_row)
    known = {
        row.pop("job_id"): row for row in await (await cursor.execute(statements.EARLIER_CALLS, (again,))).fetchall()
    }
    return [replace(claim, **known.get(claim.id, {})) for claim in claims]


def _admission(job: NewJob, wait_seconds: int) -> dict[str, Any]:
    limit = settings.QUEUE_MAX_IN_FLIGHT_JOBS
    if job.source == Job.Source.TEST:  # not the places that booths may need: while fewer than half are taken
        limit = (limit + 1) // 2
    return {name: getattr(job, name) for name in NewJob.__slots__} | {
        "settings_json": Jsonb(job.settings_json),
        "template_media": Jsonb(job.template_media),
        "metadata": Jsonb(job.metadata),
        "wait": timedelta(seconds=wait_seconds),
        "dedupe": timedelta(seconds=settings.INGEST_DEDUPE_SECONDS),
        "limit": limit,
    }
