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

from jobs import entries
from jobs.models import Job
from jobs.records import (
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
from photoslot.database import connection_kwargs
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


# One statement, under the advisory lock, so that count and insert see the same queue. The photo's twin is looked for
# first: joining needs no place. Jobs past their deadline hold no place, whether swept yet or not.
ADMIT = """
WITH twin AS (
    SELECT id, expires_at FROM jobs_job
    WHERE payload_digest = %(payload_digest)s AND delivered_at IS NULL AND failure_reason IS NULL
      AND slot_id = %(slot_id)s AND booth_id = %(booth_id)s AND source = %(source)s AND source = 'booth'
      AND created_at > clock_timestamp() - %(dedupe)s
      AND CASE WHEN is_finalized THEN result_file_path IS NOT NULL AND result_expires_at > clock_timestamp()
               ELSE expires_at > clock_timestamp() END
    ORDER BY created_at DESC LIMIT 1
), made AS (
    INSERT INTO jobs_job (
        id, slot_id, source, provider_id, operation_id, settings_json, template_media, payload_path, payload_mime_type,
        payload_digest, booth_id, metadata, created_at, updated_at, expires_at)
    SELECT %(id)s, %(slot_id)s, %(source)s, %(provider_id)s, %(operation_id)s, %(settings_json)s, %(template_media)s,
        %(payload_path)s, %(payload_mime_type)s, %(payload_digest)s, %(booth_id)s, %(metadata)s,
        clock.now, clock.now, clock.now + %(wait)s
    FROM (SELECT clock_timestamp() AS now) AS clock
    WHERE NOT EXISTS (SELECT FROM twin)
      AND (SELECT count(*) FROM jobs_job WHERE NOT is_finalized AND expires_at > clock_timestamp()) < %(limit)s
    RETURNING id, expires_at
)
SELECT id AS job_id, expires_at, extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds_left, joined
FROM (SELECT *, false AS joined FROM made UNION ALL SELECT *, true FROM twin) AS ticket
"""

CLAIM_LOCK = 0x636C61696D  # "claim"
# Claims take turns where an account or a waiting job's slot has a limit, so that two never see the same free place.
CLAIM_TURN = """
SELECT pg_advisory_xact_lock(%s) WHERE EXISTS (
    SELECT FROM providers_provideraccount WHERE max_concurrent IS NOT NULL OR per_minute IS NOT NULL
) OR EXISTS (
    SELECT FROM jobs_job WHERE NOT is_finalized AND settings_json ? 'max_concurrent'
)
"""

# Calls at once are the jobs under way and the guests' calls; a killed worker's jobs do not count.
_BUSY = """(
        SELECT count(*) FROM jobs_job AS busy
        WHERE NOT is_finalized AND status = 'processing' AND lease_expires_at >= clock_timestamp()
          AND busy.provider_id = account.provider_id
      ) + (
        SELECT count(*) FROM providers_providercall AS call JOIN jobs_job AS caller ON caller.id = call.job_id
        WHERE call.ended_at IS NULL AND call.provider_id = account.provider_id
          AND (caller.is_finalized OR caller.provider_id <> call.provider_id)
          AND call.at > statement_timestamp() - interval '3 minutes'
      )
"""
# Oldest first, of each provider and of each slot as many as have room: one that is full holds up no other's jobs.
#   room     of each account that has a limit, reckoned once. `statement_timestamp`, for no index goes by the clock
#   waiting  what waits, or whose worker is gone, with its turn in its slot
#   ready    what its slot has room for, with its turn at its provider
#   next     what is taken; MATERIALIZED, because a plan that ran the subquery twice would lock and claim more than
#            LIMIT. The conditions stand again, for a row that somebody else has changed meanwhile.
CLAIM = (
    """
WITH room AS MATERIALIZED (
    SELECT account.*, coalesce(max_concurrent, per_minute, per_day) IS NOT NULL AS is_limited,
        CASE WHEN max_concurrent IS NOT NULL THEN max_concurrent - (
"""
    + _BUSY
    + """
        ) END AS places,
        CASE WHEN per_minute IS NOT NULL THEN per_minute - (
            SELECT count(*) FROM providers_providercall AS call
            WHERE call.provider_id = account.provider_id
              AND call.at > statement_timestamp() - make_interval(secs => %(window)s)
        ) END AS calls
    FROM providers_provideraccount AS account WHERE provider_id = ANY(%(providers)s)
), busy AS MATERIALIZED (
    SELECT slot_id, count(*) AS jobs FROM jobs_job
    WHERE NOT is_finalized AND status = 'processing' AND lease_expires_at >= clock_timestamp() GROUP BY slot_id
), waiting AS MATERIALIZED (
    SELECT id, slot_id, provider_id, created_at, (settings_json ->> 'max_concurrent')::int AS slot_places,
        row_number() OVER (PARTITION BY slot_id ORDER BY created_at) AS turn_in_slot
    FROM jobs_job
    WHERE NOT is_finalized AND expires_at > clock_timestamp() AND provider_id = ANY(%(providers)s)
      AND (status = 'pending' OR lease_expires_at < clock_timestamp())
), ready AS MATERIALIZED (
    SELECT id, row_number() OVER (PARTITION BY provider_id ORDER BY created_at) AS turn
    FROM waiting LEFT JOIN busy USING (slot_id)
    WHERE slot_places IS NULL OR turn_in_slot <= slot_places - coalesce(busy.jobs, 0)
), next AS MATERIALIZED (
    SELECT job.id, is_enabled, encrypted_key, base_url, encrypted_proxy_url, coalesce(is_limited, false) AS is_limited
    FROM jobs_job AS job JOIN ready ON ready.id = job.id LEFT JOIN room ON room.provider_id = job.provider_id
    WHERE NOT job.is_finalized AND (job.status = 'pending' OR job.lease_expires_at < clock_timestamp())
      AND (places IS NULL OR turn <= places)
      AND (calls IS NULL OR job.provider_job_reference IS NOT NULL OR turn <= calls)
    ORDER BY job.created_at
    LIMIT %(limit)s
    FOR UPDATE OF job SKIP LOCKED
)
UPDATE jobs_job AS job SET
    status = 'processing', claim_token = gen_random_uuid(), claims = claims + 1,
    lease_expires_at = clock_timestamp() + %(lease)s,
    claimed_at = coalesce(claimed_at, clock_timestamp()), updated_at = clock_timestamp()
FROM next WHERE job.id = next.id
RETURNING job.id, claim_token AS token, slot_id, source, provider_id, operation_id, settings_json, template_media,
    metadata, payload_path, payload_mime_type, provider_job_reference, used_fallback, claims, created_at, expires_at,
    extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds_left,
    is_enabled, encrypted_key, base_url, encrypted_proxy_url, is_limited
"""
)

# Whether a fallback's call may be one more of those at once.
HAS_ROOM = (
    """
SELECT account.max_concurrent IS NULL OR account.max_concurrent > (
"""
    + _BUSY
    + ") FROM providers_provideraccount AS account WHERE provider_id = %s"
)
ROOM_SECONDS = 0.25  # between two looks for it

ACCOUNT = """
SELECT is_enabled, encrypted_key, base_url, encrypted_proxy_url,
    coalesce(max_concurrent, per_minute, per_day) IS NOT NULL AS is_limited
FROM providers_provideraccount WHERE provider_id = %s
"""

EARLIER_CALLS = """
SELECT job_id, count(*) FILTER (WHERE ended_at IS NOT NULL) AS earlier_calls,
    max(call.id) FILTER (WHERE ended_at IS NULL) AS open_call,
    bool_or(ended_at IS NULL OR outcome = 'ambiguous') AS may_have_been_billed
FROM providers_providercall AS call JOIN jobs_job AS job ON job.id = call.job_id AND used_fallback = is_fallback
WHERE job_id = ANY(%s) GROUP BY job_id
"""

EXTEND = """
UPDATE jobs_job SET lease_expires_at = clock_timestamp() + %(lease)s
WHERE id = ANY(%(ids)s) AND claim_token = ANY(%(tokens)s) AND NOT is_finalized
RETURNING id
"""

REFER = """
UPDATE jobs_job SET provider_job_reference = %s, updated_at = clock_timestamp()
WHERE id = %s AND claim_token = %s AND NOT is_finalized
"""

FALL_BACK = """
UPDATE jobs_job SET used_fallback = true, provider_job_reference = NULL, updated_at = clock_timestamp()
WHERE id = %s AND claim_token = %s AND NOT is_finalized
"""

RELEASE = """
UPDATE jobs_job SET status = 'pending', claim_token = NULL, lease_expires_at = NULL, updated_at = clock_timestamp()
WHERE id = ANY(%s) AND claim_token = ANY(%s) AND NOT is_finalized
RETURNING id
"""

# The four ends. Each leaves the lease and the hand-off of a result as its kind of end wants them.
# A job that failed leaves its photo to the booth's answer where the slot says so (`on_failure`).
_PHOTO_IS_WANTED = """
    coalesce(settings_json ->> 'on_failure' = 'original' AND failure_reason IN ('timeout', 'provider_error'), false)
        AS photo_is_wanted
"""
_CLOSED = (
    """
RETURNING id, slot_id, source, provider_id, created_at, claimed_at, finalized_at, expires_at, payload_path,
    provider_job_reference, used_fallback,
"""
    + _PHOTO_IS_WANTED
)

SUCCEED = (
    """
UPDATE jobs_job SET
    is_finalized = true, finalized_at = statement_timestamp(), updated_at = statement_timestamp(),
    result_expires_at = statement_timestamp() + %(retention)s,
    result_file_path = %(path)s, result_mime_type = %(mime_type)s, result_size_bytes = %(size_bytes)s,
    result_checksum = %(checksum)s, result_inline_base64 = %(inline_base64)s
WHERE id = %(id)s AND claim_token = %(token)s AND NOT is_finalized AND expires_at > statement_timestamp()
"""
    + _CLOSED
)

FAIL = (
    """
UPDATE jobs_job SET
    is_finalized = true, finalized_at = statement_timestamp(), updated_at = statement_timestamp(),
    failure_reason = 'provider_error', error_reason = %(reason)s, error_message = %(message)s
WHERE id = %(id)s AND claim_token = %(token)s AND NOT is_finalized AND expires_at > statement_timestamp()
"""
    + _CLOSED
)

EXPIRE = (
    """
UPDATE jobs_job SET
    is_finalized = true, finalized_at = statement_timestamp(), updated_at = statement_timestamp(),
    failure_reason = 'timeout', error_reason = 'slow'
WHERE id = %(id)s AND NOT is_finalized AND expires_at <= statement_timestamp()
"""
    + _CLOSED
)

CANCEL = (
    """
UPDATE jobs_job SET
    is_finalized = true, finalized_at = statement_timestamp(), updated_at = statement_timestamp(),
    failure_reason = 'cancelled'
WHERE id = %(id)s AND NOT is_finalized
"""
    + _CLOSED
)

# A picture that came after the deadline, for a slot with `finish_late`: the job stays a timeout.
ADD_LATE_RESULT = """
UPDATE jobs_job SET
    updated_at = statement_timestamp(), result_expires_at = statement_timestamp() + %(retention)s,
    result_file_path = %(path)s, result_mime_type = %(mime_type)s, result_size_bytes = %(size_bytes)s,
    result_checksum = %(checksum)s
WHERE id = %(id)s AND claim_token = %(token)s AND failure_reason = 'timeout' AND result_checksum IS NULL
"""

OVERDUE = "SELECT id FROM jobs_job WHERE NOT is_finalized AND expires_at <= clock_timestamp() ORDER BY created_at"

LOOK = (
    """
SELECT id, slot_id, source, provider_id, payload_path, is_finalized, failure_reason, error_reason, result_file_path,
    result_inline_base64, result_mime_type, result_size_bytes, result_expires_at, expires_at, claim_token,
    provider_job_reference, used_fallback, settings_json ->> 'reply' AS reply,
"""
    + _PHOTO_IS_WANTED
    + "FROM jobs_job WHERE id = %s"
)

RECIPE = """
SELECT provider_id, operation_id, settings_json, template_media, payload_path, payload_mime_type
FROM jobs_job WHERE id = %s
"""

FINISHED_OF = "SELECT id FROM jobs_job WHERE id = ANY(%s) AND is_finalized"

DELIVERED = """
UPDATE jobs_job SET delivered_at = coalesce(delivered_at, clock_timestamp()), result_inline_base64 = NULL
WHERE id = %s
"""

SEEN = """
INSERT INTO jobs_process (id, kind, name, capacity, busy, is_listening)
VALUES (%(id)s, %(kind)s, %(name)s, %(capacity)s, %(busy)s, %(is_listening)s)
ON CONFLICT (id) DO UPDATE SET busy = excluded.busy, is_listening = excluded.is_listening, seen_at = clock_timestamp()
"""

GONE = "DELETE FROM jobs_process WHERE id = %s"


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
            ticket = await (await cursor.execute(ADMIT, values)).fetchone()
            if ticket is None:
                raise QueueFull
            await journal.write(connection, [entries.received(job, ticket)])
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
            await connection.execute(CLAIM_TURN, (CLAIM_LOCK,))
            cursor = connection.cursor(row_factory=dict_row)
            rows = await (await cursor.execute(CLAIM, values)).fetchall()
            claims = await _with_earlier_calls(connection, [_claim(row) for row in rows])
            await journal.write(connection, [entries.dispatched(claim) for claim in claims])
        return sorted(claims, key=lambda claim: claim.created_at)

    async def account(self, provider_id: str) -> SealedAccount:
        """As `Claim.account`, for a provider that a slot falls back to."""
        async with self.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(SealedAccount))
            return await (await cursor.execute(ACCOUNT, (provider_id,))).fetchone() or SealedAccount()

    async def begin_call(self, claim: Claim, call: NewCall) -> Permit:
        """Writes the call down, if it may be made now. Raises `PermanentError`.

        The claim holds a place at the slot's own provider; at another, which its fallback names, one must be free."""
        async with self.connection() as connection, connection.transaction():
            if call.provider_id != claim.provider_id:
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (CLAIM_LOCK,))
                room = await (await connection.execute(HAS_ROOM, (call.provider_id,))).fetchone()
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
            return {row[0] for row in await (await connection.execute(EXTEND, values)).fetchall()}

    async def refer(self, claim: Claim, reference: str) -> bool:
        """Keeps the provider's reference at once, so that another worker polls instead of paying twice.
        False: the job is no longer ours."""
        async with self.connection() as connection:
            return (await connection.execute(REFER, (reference, claim.id, claim.token))).rowcount == 1

    async def fall_back(self, claim: Claim) -> bool:
        """From now on it is the turn of the slot's fallback, also for another worker. False: no longer ours."""
        async with self.connection() as connection:
            return (await connection.execute(FALL_BACK, (claim.id, claim.token))).rowcount == 1

    async def finalize(self, claim: Claim, ending: Result | Failure, report: Report) -> Closed | None:
        """Ends the job with a picture or a failure. None: it has ended already, is past its deadline or is another
        worker's; nothing was changed."""
        if isinstance(ending, Result):
            values = _result_values(claim, ending)
            statement, step, outcome = SUCCEED, entries.succeeded(claim, ending), "success"
        else:
            values = {"reason": ending.reason.value, "message": ending.message[: journal.ERROR_LENGTH]}
            outcome = "errors" if ending.reason is Reason.INTERNAL else "provider_errors"
            statement, step = FAIL, entries.failed(claim, ending)
        identity = {"id": claim.id, "token": claim.token}
        return await self._close(statement, values | identity, [*report.steps, step], outcome, report)

    async def expire(self, job_id: UUID, report: Report | None = None) -> Closed | None:
        """Ends the job as a timeout if its deadline has passed. None: it has ended already or is not due."""
        report = report or Report()
        return await self._close(EXPIRE, {"id": job_id}, report.steps, "timeouts", report)

    async def cancel(self, job_id: UUID, by: str | None) -> Closed | None:
        """Ends the job for staff, or (`by` is None) because nobody waits for it; its booth and its worker learn of it
        at once. None: it has ended already."""
        return await self._close(CANCEL, {"id": job_id}, [], "cancelled", Report(), by)

    async def overdue(self) -> list[UUID]:
        """Jobs past their deadline that nobody has ended yet."""
        async with self.connection() as connection:
            return [row[0] for row in await (await connection.execute(OVERDUE)).fetchall()]

    async def release(self, claims: Collection[Claim]) -> None:
        """Hands unfinished jobs back for other workers."""
        ids, tokens = [claim.id for claim in claims], [claim.token for claim in claims]
        async with self.connection() as connection:
            released = (await connection.execute(RELEASE, (ids, tokens))).rowcount
        if released:
            await self._notify(READY_CHANNEL)

    async def look(self, job_id: UUID) -> Outcome | None:
        async with self.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(Outcome))
            return await (await cursor.execute(LOOK, (job_id,))).fetchone()

    async def recipe(self, job_id: UUID) -> JobRecipe:
        """The job's photo and what was to be made of it."""
        async with self.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(JobRecipe))
            recipe = await (await cursor.execute(RECIPE, (job_id,))).fetchone()
        assert recipe, "jobs are removed long after their booths have gone"
        return recipe

    async def finished_of(self, job_ids: Collection[UUID]) -> set[UUID]:
        """Which of these jobs have ended: what polling asks, once for all that wait in a process."""
        async with self.connection() as connection:
            return {row[0] for row in await (await connection.execute(FINISHED_OF, (list(job_ids),))).fetchall()}

    async def delivered(self, job_id: UUID) -> None:
        """The booth has its answer: the hand-off copy goes, and posting the photo again means another try."""
        async with self.connection() as connection:
            await connection.execute(DELIVERED, (job_id,))

    async def log(self, steps: Sequence[Step]) -> None:
        """Steps that belong to no move of the job, such as a failed attempt that will be repeated."""
        async with self.connection() as connection, connection.transaction():
            await journal.write(connection, steps)

    async def drop_late_answer(self, claim: Claim, steps: Sequence[Step]) -> None:
        """Records a provider's answer that came after the job's end."""
        async with self.connection() as connection, connection.transaction():
            await journal.write(connection, [*steps, entries.late(claim)])
            await journal.count_late_answer(
                connection, claim.created_at, claim.slot_id, claim.provider_id, claim.source
            )

    async def add_late_result(self, claim: Claim, result: Result, steps: Sequence[Step]) -> bool:
        """Puts a picture that came after the deadline under the job's public link. False: the job has not timed out,
        or has one; nothing was changed."""
        values = _result_values(claim, result) | {"id": claim.id, "token": claim.token}
        async with self.connection() as connection, connection.transaction():
            if (await connection.execute(ADD_LATE_RESULT, values)).rowcount == 0:
                return False
            await journal.write(connection, [*steps, entries.finished_late(claim, result)])
        return True

    async def seen(self, **process: Any) -> None:
        """This process lives (`jobs.models.Process`)."""
        async with self.connection() as connection:
            await connection.execute(SEEN, process)

    async def gone(self, process_id: UUID) -> None:
        async with self.connection() as connection:
            await connection.execute(GONE, (process_id,))

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
            last = [entries.ended(closed, outcome, by)] if outcome in ("timeouts", "cancelled") else []
            await journal.write(connection, [*steps, *last])
            await journal.count(connection, entries.tally(closed, outcome, report))
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
    known = {row.pop("job_id"): row for row in await (await cursor.execute(EARLIER_CALLS, (again,))).fetchall()}
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
