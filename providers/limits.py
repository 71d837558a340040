"""Limits of an account that hold for all workers together, through Postgres: calls a minute and a day, and a circuit
breaker that stops calls to a failing provider, so that booths are refused at once. (The queue's claim limits concurrent
calls.)

The functions run on the caller's connection, and so in its transaction. The account's row lock makes them exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from core.database import make_storable
from providers.base import AmbiguousError, PermanentError, ProviderError, Reason, Usage
from providers.models import ProviderCall

# Seconds: a minute, and one more for the time that a call may take to reach the provider.
WINDOW_SECONDS = 61

# By reason: the number of failures in a row that opens the breaker, and the seconds it stays open. An overloaded
# provider may recover soon; a key or a balance has to be corrected by a person.
BREAKER = {Reason.OVERLOADED: (5, 30), Reason.AUTH: (2, 300), Reason.QUOTA: (2, 300)}
# Then (half-open) one call, the probe, is permitted; others are refused until it has ended, but no longer than this. No
# booth waits longer for a call, so after it the probe's worker must be dead.
PROBE_SECONDS = 60
# Endings that close the breaker. Errors about one photo or one slot's settings count too: the provider works.
CLOSING_OUTCOMES = {ProviderCall.Outcome.MADE, ProviderCall.Outcome.REFUSED}
CLOSING_REASONS = {Reason.NO_IMAGE, Reason.BAD_PHOTO, Reason.BAD_TEMPLATE, Reason.BAD_SETTINGS}

MODEL_LENGTH = 80  # the column's

LOCK_ACCOUNT = """
SELECT is_enabled, per_minute, per_day, open_reason,
    extract(epoch FROM open_until - clock_timestamp())::float8 AS open_seconds
FROM providers_provideraccount WHERE provider_id = %s FOR UPDATE
"""

# `statement_timestamp`, not `clock_timestamp`: it is the same for all rows, so an index can be used. The statement
# starts after the lock was acquired.
COUNT_CALLS = """
SELECT count(*) FILTER (WHERE at > since.window_start) AS in_window,
    count(*) FILTER (WHERE at >= since.day_start) AS today,
    extract(epoch FROM min(at) FILTER (WHERE at > since.window_start)
        + make_interval(secs => %(window)s) - clock_timestamp())::float8 AS until_free
FROM providers_providercall, (
    SELECT statement_timestamp() - make_interval(secs => %(window)s) AS window_start,
        CASE WHEN %(by_day)s THEN
            date_trunc('day', statement_timestamp() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' END AS day_start
) AS since
WHERE provider_id = %(provider_id)s AND at >= least(since.window_start, since.day_start)
"""

START_PROBE = """
UPDATE providers_provideraccount SET
    open_until = clock_timestamp() + make_interval(secs => %(seconds)s), probe_call_id = %(id)s
WHERE provider_id = %(provider_id)s
"""

# Calls of unknown cost count as 0; calls under way are not stopped when the budget is used up.
SUM_SPENT_TODAY = """
SELECT coalesce(sum(cost_usd), 0) FROM providers_providercall
WHERE slot_id = %s AND at >= date_trunc('day', statement_timestamp() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
"""

END_CALL = """
UPDATE providers_providercall SET
    ended_at = clock_timestamp(), outcome = %(outcome)s, reason = %(reason)s, model = %(model)s, units = %(units)s,
    cost_usd = %(cost)s
WHERE id = %(id)s AND ended_at IS NULL
RETURNING provider_id
"""

# Only the probe moves an open breaker: calls that were under way when it opened are ignored.
RECORD_FAILURE = """
UPDATE providers_provideraccount SET
    failures = failures + 1,
    open_until = CASE WHEN probe_call_id = %(id)s OR failures + 1 >= %(most)s
        THEN clock_timestamp() + make_interval(secs => %(seconds)s) END,
    open_reason = CASE WHEN probe_call_id = %(id)s OR failures + 1 >= %(most)s THEN %(reason)s END,
    probe_call_id = NULL
WHERE provider_id = %(provider_id)s AND (open_until IS NULL OR probe_call_id = %(id)s)
"""

CLOSE_BREAKER = """
UPDATE providers_provideraccount SET failures = 0, open_until = NULL, open_reason = NULL, probe_call_id = NULL
WHERE provider_id = %(provider_id)s AND (failures > 0 OR open_until IS NOT NULL)
"""

# The probe ended without a result that counts.
END_PROBE = """
UPDATE providers_provideraccount SET
    open_until = clock_timestamp() + make_interval(secs => %(seconds)s), probe_call_id = NULL
WHERE provider_id = %(provider_id)s AND probe_call_id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call that a job is about to make."""

    provider_id: str
    slot_id: str
    is_fallback: bool
    daily_budget: float | None  # US dollars that the slot's calls may cost in a day (UTC)
    idempotency_key: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class CallCheck:
    """A call that may be made now, or only after `wait_seconds`. `is_probe`: the breaker is half-open."""

    wait_seconds: float = 0
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class CallEnding:
    """How a call ended."""

    outcome: ProviderCall.Outcome
    reason: Reason | None = None
    usage: Usage | None = None

    @classmethod
    def of(cls, error: ProviderError | None, usage: Usage | None) -> CallEnding:
        match error:
            case None:
                return cls(ProviderCall.Outcome.MADE, usage=usage)
            case AmbiguousError():
                return cls(ProviderCall.Outcome.AMBIGUOUS, error.reason, error.usage)
            case ProviderError(reason=Reason.REFUSED):
                return cls(ProviderCall.Outcome.REFUSED, error.reason, error.usage)
        return cls(ProviderCall.Outcome.FAILED, error.reason, error.usage)

    @property
    def closes_breaker(self) -> bool:
        """Whether the ending shows that the provider works, even if it refused this photo."""
        has_failed = self.outcome == ProviderCall.Outcome.FAILED
        return self.outcome in CLOSING_OUTCOMES or (has_failed and self.reason in CLOSING_REASONS)


async def check_call(connection: AsyncConnection[Any], call: NewCall) -> CallCheck:
    """Whether the call may be made now; the account stays locked until the caller's transaction has recorded the call.
    Raises `PermanentError` if the account is disabled, its breaker is open, its daily limit is reached or the slot's
    budget is used up."""
    await _check_budget(connection, call)
    cursor = connection.cursor(row_factory=namedtuple_row)
    account: Any = await (await cursor.execute(LOCK_ACCOUNT, (call.provider_id,))).fetchone()
    if account is None:
        return CallCheck()
    _check_account(account)
    wait_seconds = await _find_wait_seconds(connection, call.provider_id, account)
    return CallCheck(wait_seconds, is_probe=account.open_seconds is not None)


async def start_probe(connection: AsyncConnection[Any], provider_id: str, call_id: int) -> None:
    """Makes the call the probe of a half-open breaker: others are refused until it has ended."""
    await connection.execute(START_PROBE, {"provider_id": provider_id, "id": call_id, "seconds": PROBE_SECONDS})


async def end_call(connection: AsyncConnection[Any], call_id: int, ending: CallEnding) -> None:
    """Records how the call ended and moves the breaker. A second ending of the same call is ignored."""
    usage = ending.usage
    values = {
        "id": call_id,
        "outcome": ending.outcome.value,
        "reason": ending.reason and ending.reason.value,
        "model": make_storable(usage.model)[:MODEL_LENGTH] if usage else "",
        "units": Jsonb(dict(usage.units) if usage else {}),
        "cost": usage.cost if usage else None,
    }
    row = await (await connection.execute(END_CALL, values)).fetchone()
    if row is not None:
        await _move_breaker(connection, row[0], call_id, ending)


async def _move_breaker(connection: AsyncConnection[Any], provider_id: str, call_id: int, ending: CallEnding) -> None:
    """Counts a failure, or closes the breaker; any other ending only ends the call if it was the probe."""
    values: dict[str, Any] = {"provider_id": provider_id, "id": call_id}
    if ending.outcome == ProviderCall.Outcome.FAILED and ending.reason in BREAKER:
        most, seconds = BREAKER[ending.reason]
        values |= {"most": most, "seconds": seconds, "reason": ending.reason.value}
        await connection.execute(RECORD_FAILURE, values)
    elif ending.closes_breaker:
        await connection.execute(CLOSE_BREAKER, values)
    else:
        is_cancelled = ending.outcome == ProviderCall.Outcome.CANCELLED  # then the next call is the probe
        await connection.execute(END_PROBE, values | {"seconds": 0 if is_cancelled else BREAKER[Reason.OVERLOADED][1]})


async def _check_budget(connection: AsyncConnection[Any], call: NewCall) -> None:
    if call.daily_budget is None:
        return
    row = await (await connection.execute(SUM_SPENT_TODAY, (call.slot_id,))).fetchone()
    assert row
    if row[0] >= call.daily_budget:
        raise PermanentError(Reason.QUOTA, f"Not asked: the slot's budget of {call.daily_budget} USD a day is used up")


def _check_account(account: Any) -> None:
    if not account.is_enabled:
        raise PermanentError(Reason.OVERLOADED, "The provider is switched off in its account")
    if account.open_seconds is not None and account.open_seconds > 0:
        reason = Reason(account.open_reason or Reason.OVERLOADED)
        raise PermanentError(reason, "Not asked: the provider failed several times in a row")


async def _find_wait_seconds(connection: AsyncConnection[Any], provider_id: str, account: Any) -> float:
    if account.per_minute is None and account.per_day is None:
        return 0
    cursor = connection.cursor(row_factory=namedtuple_row)
    values = {"provider_id": provider_id, "window": WINDOW_SECONDS, "by_day": account.per_day is not None}
    used: Any = await (await cursor.execute(COUNT_CALLS, values)).fetchone()
    assert used
    if account.per_day is not None and used.today >= account.per_day:
        raise PermanentError(Reason.QUOTA, "Not asked: the account's own limit of calls a day is reached")
    if account.per_minute is not None and used.in_window >= account.per_minute:
        return used.until_free or 0.1
    return 0
