"""What an account allows, held by all workers together through Postgres: calls a minute and a day, and a circuit
breaker that spares a provider which does not work, and booths the waiting for it. (Calls at once are held by the
queue's claim.)

Verbs on the connection, and so in the transaction, of the caller. The account's row lock makes them exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from providers.base import AmbiguousError, PermanentError, ProviderError, Reason, Usage
from providers.models import ProviderCall

# Seconds. A minute, and how much later one call may reach the provider than another.
WINDOW_SECONDS = 61

# After how many failures in a row an account is not asked any more, and for how many seconds. A provider that is
# overloaded may be well again soon; a key or a balance is mended by a person.
BREAKER = {Reason.OVERLOADED: (5, 30), Reason.AUTH: (2, 300), Reason.QUOTA: (2, 300)}
# Then one call, the probe, is let through to see; the others go on being refused until it has ended, or for this long:
# a booth waits for no call longer, so after it the probe's worker is gone.
PROBE_SECONDS = 60
# Answers, also those about one photo or one recipe: whoever gives them is at work.
ANSWERED_OUTCOMES = {ProviderCall.Outcome.MADE, ProviderCall.Outcome.REFUSED}
ANSWERED_REASONS = {Reason.NO_IMAGE, Reason.BAD_PHOTO, Reason.BAD_TEMPLATE, Reason.BAD_SETTINGS}

MODEL_LENGTH = 80  # the column's

ACCOUNT = """
SELECT is_enabled, per_minute, per_day, open_reason,
    extract(epoch FROM open_until - clock_timestamp())::float8 AS open_seconds
FROM providers_provideraccount WHERE provider_id = %s FOR UPDATE
"""

# `statement_timestamp` here, and not the clock: it is the same for all rows, so an index goes by it. The statement
# comes after the lock.
USED = """
SELECT count(*) FILTER (WHERE at > since.window_start) AS in_window,
    count(*) FILTER (WHERE at >= since.day_start) AS today,
    extract(epoch FROM min(at) FILTER (WHERE at > since.window_start)
        + make_interval(secs => %(window)s) - clock_timestamp())::float8 AS until_room
FROM providers_providercall, (
    SELECT statement_timestamp() - make_interval(secs => %(window)s) AS window_start,
        CASE WHEN %(by_day)s THEN
            date_trunc('day', statement_timestamp() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' END AS day_start
) AS since
WHERE provider_id = %(provider_id)s AND at >= least(since.window_start, since.day_start)
"""

PROBE = """
UPDATE providers_provideraccount SET
    open_until = clock_timestamp() + make_interval(secs => %(rest)s), probe_call_id = %(id)s
WHERE provider_id = %(provider_id)s
"""

# Calls whose cost is not known count nothing; those under way are made all the same when the budget is used up.
SPENT_TODAY = """
SELECT coalesce(sum(cost_usd), 0) FROM providers_providercall
WHERE slot_id = %s AND at >= date_trunc('day', statement_timestamp() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
"""

BEGIN = """
INSERT INTO providers_providercall (provider_id, slot_id, job_id, is_fallback, at)
VALUES (%s, %s, %s, %s, clock_timestamp())
RETURNING id
"""

END = """
UPDATE providers_providercall SET
    ended_at = clock_timestamp(), outcome = %(outcome)s, reason = %(reason)s, model = %(model)s, units = %(units)s,
    cost_usd = %(cost)s
WHERE id = %(id)s AND ended_at IS NULL
RETURNING provider_id
"""

# Of an open breaker only the probe decides: calls that were under way when it opened say nothing new.
FAILED = """
UPDATE providers_provideraccount SET
    failures = failures + 1,
    open_until = CASE WHEN probe_call_id = %(id)s OR failures + 1 >= %(most)s
        THEN clock_timestamp() + make_interval(secs => %(rest)s) END,
    open_reason = CASE WHEN probe_call_id = %(id)s OR failures + 1 >= %(most)s THEN %(reason)s END,
    probe_call_id = NULL
WHERE provider_id = %(provider_id)s AND (open_until IS NULL OR probe_call_id = %(id)s)
"""

ANSWERED = """
UPDATE providers_provideraccount SET failures = 0, open_until = NULL, open_reason = NULL, probe_call_id = NULL
WHERE provider_id = %(provider_id)s AND (failures > 0 OR open_until IS NOT NULL)
"""

# The probe ended without an answer.
PROBE_OVER = """
UPDATE providers_provideraccount SET
    open_until = clock_timestamp() + make_interval(secs => %(rest)s), probe_call_id = NULL
WHERE provider_id = %(provider_id)s AND probe_call_id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call that a job is about to make."""

    provider_id: str
    slot_id: str
    job_id: UUID
    is_fallback: bool
    daily_budget: float | None  # US dollars that the slot's calls may cost in a day (UTC)


@dataclass(frozen=True, slots=True)
class CallPermit:
    """A call that may be made now, or not before `wait_seconds` have passed."""

    call_id: int | None
    wait_seconds: float = 0


@dataclass(frozen=True, slots=True)
class _Account:
    is_enabled: bool
    per_minute: int | None
    per_day: int | None
    open_reason: str | None
    open_seconds: float | None


@dataclass(frozen=True, slots=True)
class _Used:
    in_window: int
    today: int
    until_room: float | None


@dataclass(frozen=True, slots=True)
class CallEnding:
    """How a call came out."""

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
    def is_answer(self) -> bool:
        """Whether the provider is at work, whatever it said."""
        has_failed = self.outcome == ProviderCall.Outcome.FAILED
        return self.outcome in ANSWERED_OUTCOMES or (has_failed and self.reason in ANSWERED_REASONS)


async def begin_call(connection: AsyncConnection[Any], call: NewCall) -> CallPermit:
    """Writes the call down if it may be made now. Raises `PermanentError` when the account is off, its breaker is open,
    its day is used up or the slot's money is spent."""
    await _refuse_spent(connection, call)
    cursor = connection.cursor(row_factory=class_row(_Account))
    account = await (await cursor.execute(ACCOUNT, (call.provider_id,))).fetchone()
    if account is not None:
        _refuse_closed(account)
        if wait := await _wait(connection, call.provider_id, account):
            return CallPermit(None, wait)
    values = call.provider_id, call.slot_id, call.job_id, call.is_fallback
    row = await (await connection.execute(BEGIN, values)).fetchone()
    assert row
    if account is not None and account.open_seconds is not None:
        probe = {"provider_id": call.provider_id, "id": row[0], "rest": PROBE_SECONDS}
        await connection.execute(PROBE, probe)
    return CallPermit(row[0])


async def end_call(connection: AsyncConnection[Any], call_id: int, ending: CallEnding) -> None:
    """Writes down how the call came out, and moves the breaker. The first ending stands."""
    usage = ending.usage
    values = {
        "id": call_id,
        "outcome": ending.outcome.value,
        "reason": ending.reason and ending.reason.value,
        "model": usage.model[:MODEL_LENGTH] if usage else "",
        "units": Jsonb(dict(usage.units) if usage else {}),
        "cost": usage.cost if usage else None,
    }
    row = await (await connection.execute(END, values)).fetchone()
    if row is not None:
        await _move_breaker(connection, row[0], call_id, ending)


async def _move_breaker(connection: AsyncConnection[Any], provider_id: str, call_id: int, ending: CallEnding) -> None:
    """A failure counts, an answer closes it; what was torn down or lost says nothing, except that a probe is over."""
    values = {"provider_id": provider_id, "id": call_id}
    if ending.outcome == ProviderCall.Outcome.FAILED and ending.reason in BREAKER:
        most, rest = BREAKER[ending.reason]
        await connection.execute(FAILED, values | {"most": most, "rest": rest, "reason": ending.reason.value})
    elif ending.is_answer:
        await connection.execute(ANSWERED, values)
    else:
        is_cancelled = ending.outcome == ProviderCall.Outcome.CANCELLED  # then the next call is the probe
        await connection.execute(PROBE_OVER, values | {"rest": 0 if is_cancelled else BREAKER[Reason.OVERLOADED][1]})


async def _refuse_spent(connection: AsyncConnection[Any], call: NewCall) -> None:
    if call.daily_budget is None:
        return
    row = await (await connection.execute(SPENT_TODAY, (call.slot_id,))).fetchone()
    assert row
    if row[0] >= call.daily_budget:
        raise PermanentError(Reason.QUOTA, f"Not asked: the slot's budget of {call.daily_budget} USD a day is used up")


def _refuse_closed(account: _Account) -> None:
    if not account.is_enabled:
        raise PermanentError(Reason.OVERLOADED, "The provider is switched off in its account")
    if account.open_seconds is not None and account.open_seconds > 0:
        reason = Reason(account.open_reason or Reason.OVERLOADED)
        raise PermanentError(reason, "Not asked: the provider failed several times in a row")


async def _wait(connection: AsyncConnection[Any], provider_id: str, account: _Account) -> float:
    if account.per_minute is None and account.per_day is None:
        return 0
    cursor = connection.cursor(row_factory=class_row(_Used))
    values = {"provider_id": provider_id, "window": WINDOW_SECONDS, "by_day": account.per_day is not None}
    used = await (await cursor.execute(USED, values)).fetchone()
    assert used
    if account.per_day is not None and used.today >= account.per_day:
        raise PermanentError(Reason.QUOTA, "Not asked: the account's own limit of calls a day is reached")
    if account.per_minute is not None and used.in_window >= account.per_minute:
        return used.until_room or 0.1
    return 0
