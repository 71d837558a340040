"""The statements that count calls read only the rows they need, however large the table."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from jobs.queue.statements import CLAIM, GET_EARLIER_CALLS, HAS_CAPACITY
from jobs.queue.verbs import Queue
from providers.limits import COUNT_CALLS, SUM_SPENT_TODAY, WINDOW_SECONDS
from tests.providers.account_factories import create_account
from tests.queue_helpers import sql

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

# One every ten seconds for 23 days, to three providers; one in a thousand is still open, as killed workers leave them.
CALLS = """
INSERT INTO providers_providercall (provider_id, slot_id, job_id, at, ended_at, outcome, cost_usd)
SELECT (ARRAY['gemini', 'openai', 'turbotext'])[1 + mod(n, 3)], 'slot-' || lpad(mod(n, 15)::text, 3, '0'),
    gen_random_uuid(), at, CASE WHEN ended THEN at + '9 s' END, CASE WHEN ended THEN 'made' END, 0.04
FROM generate_series(1, 200000) AS n, LATERAL (
    SELECT now() - n * interval '10 s' AS at, mod(n, 1000) > 0 AS ended
) AS made
"""
# A claim counts an account's calls once, not for each waiting job.
WAITING = """
INSERT INTO jobs_job (id, slot_id, provider_id, operation_id, settings_json, payload_mime_type, payload_digest,
    created_at, expires_at, is_finalized, status)
SELECT gen_random_uuid(), 'slot-001', 'gemini', 'image_edit', '{}', 'image/jpeg', sha256(i::text::bytea),
    now(), now() + interval '48 s', false, 'pending'
FROM generate_series(1, 1000) AS i
"""
READ = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
MINUTE = {"provider_id": "gemini", "window": WINDOW_SECONDS}
CLAIM_VALUES = {"providers": ["gemini"], "limit": 4, "lease": "8 s", "window": WINDOW_SECONDS}
# Statement, its values, and the calls that it may read: a minute has 7 calls, a day 8,640; 67 of Gemini's are open.
STATEMENTS: dict[str, tuple[str, Any, int]] = {
    "the minute": (COUNT_CALLS, MINUTE | {"by_day": False}, 8),
    "the day": (COUNT_CALLS, MINUTE | {"by_day": True}, 8_700),
    "the slot's money": (SUM_SPENT_TODAY, ("slot-001",), 8_700),
    "earlier calls": (GET_EARLIER_CALLS, ([uuid4()],), 0),
    "capacity for a fallback": (HAS_CAPACITY, ("gemini",), 70),
    "claim": (CLAIM, CLAIM_VALUES, 80),
}


def count_calls_read(node: dict[str, Any]) -> int:
    """The calls read by this node of a plan and those below it."""
    count = 0
    if node.get("Relation Name") == "providers_providercall":
        count = round(sum(node.get(kind, 0) for kind in READ) * node["Actual Loops"])
    return count + sum(count_calls_read(below) for below in node.get("Plans", []))


def create_calls() -> None:
    create_account(max_concurrent=3, per_minute=30, per_day=1000)
    with connection.cursor() as cursor:
        cursor.execute(CALLS)
        cursor.execute("ANALYZE providers_providercall, providers_provideraccount")
    connection.close()


async def test_two_hundred_thousand_calls_are_not_read(queue: Queue) -> None:
    await asyncio.to_thread(create_calls)
    await sql(queue, WAITING)
    await sql(queue, "ANALYZE jobs_job")
    for name, (statement, values, most) in STATEMENTS.items():
        async with queue.database.connection() as pooled, pooled.transaction(force_rollback=True):
            explained = await pooled.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, values)
            ((plan,),) = await explained.fetchall()
        assert count_calls_read(plan[0]["Plan"]) <= most, name
