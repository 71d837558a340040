"""Records what happened: the steps of a job and the counters of its hour.

The functions use the connection, and so the transaction, of the queue's verb that they record.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from core.database import make_storable
from stats.models import ProcessingLog

# Upper bounds in seconds. The first are given by contract §7; a claim takes milliseconds normally, seconds in trouble.
DURATION_BOUNDS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 40, 48, 60)
WAIT_BOUNDS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30)

MESSAGE_LENGTH = 1024
ERROR_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Step:
    """An entry of the processing log. `details` keeps its order; values are scalars."""

    job_id: UUID
    slot_id: str
    status: str
    message: str = ""
    provider_latency_ms: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    occurred_at: datetime | None = None  # None: now


@dataclass(frozen=True, slots=True)
class Tally:
    """What one finished job adds to its hour."""

    slot_id: str
    provider_id: str
    source: str
    received_at: datetime
    outcome: str  # the counter's name: success, timeouts, provider_errors, cancelled, errors
    duration_seconds: float
    wait_seconds: float | None  # None: never claimed
    attempts: int = 0
    attempt_errors: int = 0
    provider_seconds: float = 0
    polls: int = 0


# A step with a time of its own is written once, though its writer asks again after a lost answer.
WRITE_STEP = """
INSERT INTO stats_processinglog (job_id, slot_id, status, message, provider_latency_ms, details, occurred_at)
SELECT %(job_id)s, %(slot_id)s, %(status)s, %(message)s, %(latency)s, %(details)s,
    coalesce(%(at)s, clock_timestamp())
WHERE NOT EXISTS (
    SELECT FROM stats_processinglog WHERE job_id = %(job_id)s AND status = %(status)s::varchar AND occurred_at = %(at)s
)
"""

# The columns of `Counters`, a finished job's values for them, and how they are added to those of an earlier row, `old`.
_COUNTERS = """
    ingest_count, success, timeouts, provider_errors, cancelled, errors,
    duration_seconds, duration_buckets, wait_seconds, wait_buckets, attempts, attempt_errors, provider_seconds, polls
"""
_VALUES = """
    1, %(success)s, %(timeouts)s, %(provider_errors)s, %(cancelled)s, %(errors)s,
    %(duration)s, %(duration_buckets)s, %(wait)s, %(wait_buckets)s,
    %(attempts)s, %(attempt_errors)s, %(provider_seconds)s, %(polls)s
"""
_ADD_OUTCOME = """
    ingest_count = old.ingest_count + 1,
    success = old.success + excluded.success,
    timeouts = old.timeouts + excluded.timeouts,
    provider_errors = old.provider_errors + excluded.provider_errors,
    cancelled = old.cancelled + excluded.cancelled,
    errors = old.errors + excluded.errors
"""
_ADD = (
    _ADD_OUTCOME
    + """,
    duration_seconds = old.duration_seconds + excluded.duration_seconds,
    duration_buckets[%(duration_bucket)s] = old.duration_buckets[%(duration_bucket)s] + 1,
    wait_seconds = old.wait_seconds + excluded.wait_seconds,
    wait_buckets[%(wait_bucket)s] = old.wait_buckets[%(wait_bucket)s] + excluded.wait_buckets[%(wait_bucket)s],
    attempts = old.attempts + excluded.attempts,
    attempt_errors = old.attempt_errors + excluded.attempt_errors,
    provider_seconds = old.provider_seconds + excluded.provider_seconds,
    polls = old.polls + excluded.polls
"""
)

# The upsert locks the slot's row first, so that a count and a reset never interleave: a photo that arrived before the
# last reset counts for the generation before it.
COUNT = f"""
WITH figures AS (
    INSERT INTO stats_slotfigures AS old (slot_id) VALUES (%(slot_id)s)
    ON CONFLICT (slot_id) DO UPDATE SET version = old.version + 1
    RETURNING reset_generation - coalesce(%(received_at)s < last_reset_at, false)::int AS reset_generation,
        date_trunc('hour', %(received_at)s AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS hour
), hourly_total AS (
    INSERT INTO stats_hourlytotal AS old (
        hour, provider_id, ingest_count, success, timeouts, provider_errors, cancelled, errors)
    SELECT hour, %(provider_id)s, 1, %(success)s, %(timeouts)s, %(provider_errors)s, %(cancelled)s, %(errors)s
    FROM figures WHERE %(source)s = 'booth'
    ON CONFLICT (hour, provider_id) DO UPDATE SET {_ADD_OUTCOME}
), total AS (
    INSERT INTO stats_countertotal AS old (slot_id, provider_id, {_COUNTERS})
    SELECT %(slot_id)s, %(provider_id)s, {_VALUES} FROM figures WHERE %(source)s = 'booth'
    ON CONFLICT (slot_id, provider_id) DO UPDATE SET {_ADD}
)
INSERT INTO stats_hourlycounter AS old (hour, slot_id, provider_id, source, reset_generation, {_COUNTERS})
SELECT hour, %(slot_id)s, %(provider_id)s, %(source)s, reset_generation, {_VALUES} FROM figures
ON CONFLICT (hour, slot_id, provider_id, source, reset_generation) DO UPDATE SET {_ADD}
"""

# Locks the hour's row before the total's, as `COUNT` does: Postgres runs the parts of a WITH that nothing reads last.
COUNT_LATE_ANSWER = """
WITH counter AS (
    UPDATE stats_hourlycounter SET late_answers = late_answers + 1
    WHERE id = (
        SELECT id FROM stats_hourlycounter
        WHERE hour = date_trunc('hour', %s AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
          AND slot_id = %s AND provider_id = %s AND source = %s
        ORDER BY reset_generation LIMIT 1)
    RETURNING slot_id, provider_id, source
)
UPDATE stats_countertotal AS total SET late_answers = late_answers + 1
FROM counter WHERE source = 'booth' AND total.slot_id = counter.slot_id AND total.provider_id = counter.provider_id
"""

OUTCOMES = ("success", "timeouts", "provider_errors", "cancelled", "errors")


async def write(connection: AsyncConnection[Any], steps: Sequence[Step]) -> None:
    """Appends the steps to the processing log, in their order."""
    cursor = connection.cursor()
    for step in steps:
        values = {
            "job_id": step.job_id,
            "slot_id": step.slot_id,
            "status": ProcessingLog.Status(step.status).value,
            "message": make_storable(step.message)[:MESSAGE_LENGTH],
            "latency": step.provider_latency_ms,
            "details": json.dumps(_drop_unknown(step.details), default=str),
            "at": step.occurred_at,
        }
        await cursor.execute(WRITE_STEP, values)


async def count(connection: AsyncConnection[Any], tally: Tally) -> None:
    """Adds one finished job to its hour. Call it last in a transaction: it locks rows that the slot's jobs share."""
    await connection.execute(
        COUNT,
        {
            "received_at": tally.received_at,
            "slot_id": tally.slot_id,
            "provider_id": tally.provider_id,
            "source": tally.source,
            "duration": tally.duration_seconds,
            "duration_buckets": _make_buckets(tally.duration_seconds, DURATION_BOUNDS),
            "duration_bucket": 1 + bisect_left(DURATION_BOUNDS, tally.duration_seconds),  # SQL's indexes begin with 1
            "wait": tally.wait_seconds or 0,
            "wait_buckets": _make_buckets(tally.wait_seconds, WAIT_BOUNDS),
            "wait_bucket": 1 + bisect_left(WAIT_BOUNDS, tally.wait_seconds or 0),
            "attempts": tally.attempts,
            "attempt_errors": tally.attempt_errors,
            "provider_seconds": tally.provider_seconds,
            "polls": tally.polls,
        }
        | {name: int(name == tally.outcome) for name in OUTCOMES},
    )


async def count_late_answer(
    connection: AsyncConnection[Any], received_at: datetime, slot_id: str, provider_id: str, source: str
) -> None:
    """Counts a provider's response that came after the job's end and was dropped."""
    await connection.execute(COUNT_LATE_ANSWER, (received_at, slot_id, provider_id, source))


def _make_buckets(seconds: float | None, bounds: Sequence[float]) -> list[int]:
    """Zeros, and 1 for the bucket of the value; the last bucket is for values above every bound."""
    hit = -1 if seconds is None else bisect_left(bounds, seconds)
    return [int(i == hit) for i in range(len(bounds) + 1)]


def _drop_unknown(details: Mapping[str, Any]) -> dict[str, Any]:
    """Drops values that are None, cleans texts, and cuts `error` to the contract's length."""
    cleaned = {key: make_storable(value) if isinstance(value, str) else value for key, value in details.items()}
    return {
        key: value[:ERROR_LENGTH] if key == "error" and isinstance(value, str) else value
        for key, value in cleaned.items()
        if value is not None
    }
