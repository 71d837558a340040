"""The queue's statements go through its partial indexes, however many finished jobs the table holds."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.database import in_thread
from jobs.queue.statements import ADMIT, CLAIM, GET_OUTCOME, LIST_OVERDUE
from jobs.queue.verbs import Queue, _make_admission_values
from jobs.retention.purge import KINDS, purge
from tests.jobs.test_purge import put_file
from tests.queue_helpers import admit_job, new_job, sql

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

FINISHED = """
INSERT INTO jobs_job (id, slot_id, provider_id, operation_id, settings_json, payload_mime_type, payload_digest,
    created_at, expires_at, is_finalized, finalized_at, status, delivered_at, result_checksum, result_mime_type,
    result_size_bytes, result_expires_at)
SELECT gen_random_uuid(), 'slot-001', 'instant', 'image_edit', '{}', 'image/jpeg', sha256(i::text::bytea),
    now() - i * interval '1 s', now() - i * interval '1 s' + interval '48 s', true, now(), 'processing', now(), 'c',
    'image/jpeg', 1, now()
FROM generate_series(1, 20000) AS i
"""
# Statement, its values, and the indexes it must go by.
STATEMENTS: dict[str, tuple[str, Any, set[str]]] = {
    "admit": (ADMIT, _make_admission_values(new_job(), 30), {"job_unfinished", "job_undelivered_photo"}),
    "claim": (CLAIM, {"providers": ["instant"], "limit": 4, "lease": "8 s", "window": 61}, {"job_unfinished"}),
    "overdue": (LIST_OVERDUE, None, {"job_unfinished"}),
    "look": (GET_OUTCOME, (uuid4(),), {"jobs_job_pkey"}),
}


async def test_twenty_thousand_finished_jobs_are_not_read(queue: Queue) -> None:
    await sql(queue, FINISHED)
    for _ in range(4):
        await admit_job(queue)
    await sql(queue, "ANALYZE jobs_job")
    for name, (statement, values, indexes) in STATEMENTS.items():
        async with queue.database.connection() as connection:
            lines = await (await connection.execute("EXPLAIN " + statement, values)).fetchall()
        plan = "\n".join(line[0] for line in lines)
        assert "Seq Scan on jobs_job" not in plan, f"{name}:\n{plan}"
        assert all(index in plan for index in indexes), f"{name}:\n{plan}"


def purge_all() -> list[str]:
    """The statements on jobs of a purge of all kinds."""
    for folder in ("payloads", "results", "thumbnails"):
        put_file(f"{folder}/{uuid4()}.jpg")
    with CaptureQueriesContext(connection) as queries:
        purge(KINDS)
    return [query["sql"] for query in queries if '"jobs_job"' in query["sql"]]


async def test_a_purge_reads_no_finished_jobs(queue: Queue) -> None:
    await sql(queue, FINISHED)
    await sql(queue, "ANALYZE jobs_job")
    statements = await in_thread(purge_all)
    assert len(statements) >= 9
    for statement in statements:
        plan = "\n".join(line["QUERY PLAN"] for line in await sql(queue, "EXPLAIN " + statement.replace("%", "%%")))
        assert "Seq Scan on jobs_job" not in plan, f"{statement}:\n{plan}"


async def test_a_claim_writes_into_no_index(queue: Queue) -> None:
    await admit_job(queue)
    async with queue.database.connection() as connection, connection.transaction():
        await connection.execute(CLAIM, STATEMENTS["claim"][1])
        hot = "SELECT pg_stat_get_xact_tuples_updated(t), pg_stat_get_xact_tuples_hot_updated(t)"
        updated = await connection.execute(f"{hot} FROM (SELECT 'jobs_job'::regclass AS t) AS job")
        assert await updated.fetchone() == (1, 1)  # in its page, beside its old version
