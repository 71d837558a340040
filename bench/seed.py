"""A full database for experiments (`python -m bench.seed_load`): slots, jobs, their log and their counters, as the
service would write them in months. By SQL, with the indexes created last, so that a million jobs take minutes.

There are no files: links to pictures lead to a 404.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from math import inf

from django.conf import settings
from django.db import connection, models, transaction

from jobs.models import Job
from slots.models import Slot
from stats.journal import DURATION_BOUNDS, WAIT_BOUNDS
from stats.models import CounterTotal, HourlyCounter, HourlyTotal, ProcessingLog, SlotFigures

FILLED = (Job, ProcessingLog, HourlyCounter, HourlyTotal, CounterTotal, SlotFigures)
SLOTS = 215  # a new database has fifteen of them
BATCH = 50_000  # jobs in one statement, and in one line of the output
SLOT_SETTINGS = (
    ("Film noir", "studio", {"look": "noir", "strength": 80}),
    ("Watercolour", "gemini", {"prompt": "Paint the people in this photo in watercolours."}),
    ("Comic", "openai", {"prompt": "Draw the people in this photo as heroes of a comic."}),
    ("Oil painting", "turbotext", {"prompt": "An oil painting of the people in this photo."}),
)

# Jobs number `first` to `last`, and ten steps of each. They arrive evenly over the days; a slot is in use for eight
# hours of the day, some more than others.
#   outcomes      how jobs end; for those that no worker claimed, no provider was called
#   arrivals      when each arrives, and the random numbers that decide its outcome and its duration
#   planned_jobs  its slot's provider, operation and settings, and its times
#   steps         posted, claimed, posted again twice, five attempts of which at most one succeeds, the end; or posted
#                 nine times, and the end
FILL = """
WITH outcomes (low, high, failure_reason, error_reason, is_claimed) AS (VALUES
    (0.000, 0.930, NULL, NULL, true),
    (0.930, 0.955, 'timeout', 'slow', true),
    (0.955, 0.960, 'timeout', 'slow', false),
    (0.960, 0.980, 'provider_error', 'overloaded', true),
    (0.980, 0.990, 'provider_error', 'internal', true),
    (0.990, 0.995, 'cancelled', NULL, true),
    (0.995, 1.001, 'cancelled', NULL, false)
), slots AS (
    SELECT row_number() OVER (ORDER BY id) - 1 AS number, count(*) OVER () AS slots, id AS slot_id, provider_id,
        operation_id, settings_json
    FROM slots_slot WHERE archived_at IS NULL
), arrivals AS (
    SELECT n, gen_random_uuid() AS id, random() AS draw, random() AS effort,
        floor(random() * 8)::int + 24 * floor(random() * random() * 9)::int AS slot_offset,
        now() - interval '2 minutes' - (%(jobs)s - n) * (interval '1 day' * %(days)s / %(jobs)s) AS created_at
    FROM generate_series(%(first)s, %(last)s) AS n
), planned_jobs AS (
    SELECT id, draw, slot_id, CASE WHEN n %% 200 = 0 THEN 'test' ELSE 'booth' END AS source, provider_id, operation_id,
        settings_json, failure_reason, error_reason, is_claimed, created_at, created_at + interval '48 s' AS expires_at,
        CASE WHEN is_claimed THEN created_at + interval '1 s' * (0.003 + 2 * effort ^ 8) END AS claimed_at,
        created_at + interval '1 s'
            * CASE failure_reason WHEN 'timeout' THEN 48.004 ELSE 4 + 40 * effort ^ 3 END AS ended_at,
        failure_reason IS NULL AS has_picture
    FROM arrivals JOIN outcomes ON draw >= low AND draw < high
        JOIN slots ON number = (extract(hour FROM created_at AT TIME ZONE 'UTC')::int + slot_offset) %% slots
    ORDER BY created_at
), jobs AS (
    INSERT INTO jobs_job (id, slot_id, source, provider_id, operation_id, settings_json, template_media, status,
        is_finalized, failure_reason, error_reason, error_message, claim_token, lease_expires_at, claims, used_fallback,
        payload_path, payload_mime_type, payload_digest, booth_id, metadata, result_file_path, result_mime_type,
        result_size_bytes, result_checksum, result_expires_at, created_at, updated_at, claimed_at, expires_at,
        finalized_at, delivered_at)
    SELECT id, slot_id, source, provider_id, operation_id, settings_json, '{}',
        CASE WHEN is_claimed THEN 'processing' ELSE 'pending' END, true, failure_reason, error_reason,
        CASE failure_reason WHEN 'provider_error' THEN 'HTTP 503: the model is overloaded' ELSE '' END,
        CASE WHEN is_claimed THEN gen_random_uuid() END, CASE WHEN is_claimed THEN ended_at + interval '5 s' END,
        is_claimed::int, false, 'payloads/' || id || '.jpg', 'image/jpeg', sha256(id::text::bytea), 'seed-' || id,
        jsonb_build_object('name', 'BOOTH-' || right(slot_id, 3), 'model', 'Windows', 'profile', 'seed'),
        CASE WHEN has_picture AND ended_at + %(kept)s > now() THEN 'results/' || id || '.jpg' END,
        CASE WHEN has_picture THEN 'image/jpeg' END, CASE WHEN has_picture THEN 200000 + (draw * 1000000)::int END,
        CASE WHEN has_picture THEN encode(sha256(id::text::bytea), 'hex') END,
        CASE WHEN has_picture THEN ended_at + %(kept)s END, created_at, ended_at, claimed_at, expires_at, ended_at,
        ended_at + interval '0.05 s'
    FROM planned_jobs
)
INSERT INTO stats_processinglog (job_id, slot_id, status, message, provider_latency_ms, details, occurred_at)
SELECT id, slot_id,
    CASE kind WHEN 'ended' THEN CASE failure_reason WHEN 'timeout' THEN 'timeout' ELSE 'failed' END ELSE kind END,
    CASE kind
        WHEN 'received' THEN CASE step WHEN 1 THEN 'Photo received' ELSE 'Posted again; joins the job under way' END
        WHEN 'dispatched' THEN 'Taken up by a worker'
        WHEN 'provider_responded' THEN
            CASE WHEN is_good THEN 'The provider answered with a picture' ELSE 'The attempt failed' END
        WHEN 'succeeded' THEN 'Picture made'
        ELSE CASE failure_reason
            WHEN 'timeout' THEN 'The deadline passed before there was a picture'
            WHEN 'cancelled' THEN 'Cancelled by staff'
            ELSE 'No picture could be made' END
    END,
    CASE kind WHEN 'provider_responded' THEN extract(epoch FROM ended_at - claimed_at) * 200 END,
    json_strip_nulls(CASE kind
        WHEN 'received' THEN json_build_object('provider_id', provider_id, 'expires_at', expires_at,
            'payload_path', CASE step WHEN 1 THEN 'payloads/' || id || '.jpg' END)
        WHEN 'dispatched' THEN json_build_object('provider_id', provider_id, 'claim', 1)
        WHEN 'provider_responded' THEN
            CASE WHEN is_good THEN json_build_object('provider_id', provider_id, 'attempt', step - 4)
            ELSE json_build_object('provider_id', provider_id, 'attempt', step - 4,
                'error', 'HTTP 503: the model is overloaded', 'reason', 'overloaded', 'error_class', 'RetryableError')
            END
        WHEN 'succeeded' THEN json_build_object('provider_id', provider_id, 'claim', 1,
            'result_file_path', 'results/' || id || '.jpg',
            'result_checksum', encode(sha256(id::text::bytea), 'hex'), 'inline_preview', false)
        ELSE CASE failure_reason
            WHEN 'provider_error' THEN json_build_object('provider_id', provider_id, 'claim', 1,
                'error', 'HTTP 503: the model is overloaded', 'failure_reason', failure_reason, 'reason', error_reason)
            ELSE json_build_object('provider_id', provider_id, 'failure_reason', failure_reason,
                'cancelled_by', CASE failure_reason WHEN 'cancelled' THEN 'serg' END, 'expires_at', expires_at) END
    END),
    CASE step WHEN 1 THEN created_at WHEN 2 THEN began_at WHEN 10 THEN ended_at
        ELSE began_at + (ended_at - began_at) * greatest(0.01 * step, 0.2 * (step - 4)) END
FROM planned_jobs CROSS JOIN generate_series(1, 10) AS step
CROSS JOIN LATERAL (SELECT
    coalesce(claimed_at, created_at + interval '1 s') AS began_at, step = 9 AND has_picture AS is_good,
    CASE WHEN step = 10 THEN CASE WHEN has_picture THEN 'succeeded' ELSE 'ended' END
         WHEN step = 1 OR NOT is_claimed THEN 'received' WHEN step = 2 THEN 'dispatched' WHEN step < 5 THEN 'received'
         ELSE 'provider_responded' END AS kind) AS about
"""

# What `jobs.queue.log_steps.make_tally` gives for one job at a time. The buckets are filled in below.
COUNT = """
INSERT INTO stats_hourlycounter (hour, slot_id, provider_id, source, ingest_count, success, timeouts, provider_errors,
    cancelled, errors, duration_seconds, duration_buckets, wait_seconds, wait_buckets, attempts, attempt_errors,
    provider_seconds, polls)
SELECT date_trunc('hour', created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS hour, slot_id, provider_id, source,
    count(*), count(*) FILTER (WHERE failure_reason IS NULL), count(*) FILTER (WHERE failure_reason = 'timeout'),
    count(*) FILTER (WHERE failure_reason = 'provider_error' AND error_reason <> 'internal'),
    count(*) FILTER (WHERE failure_reason = 'cancelled'), count(*) FILTER (WHERE error_reason = 'internal'),
    sum(duration), ARRAY[{duration_buckets}], coalesce(sum(wait), 0), ARRAY[{wait_buckets}],
    5 * count(*) FILTER (WHERE was_called),
    5 * count(*) FILTER (WHERE was_called) - count(*) FILTER (WHERE failure_reason IS NULL),
    coalesce(sum(duration - wait) FILTER (WHERE was_called), 0), 0
FROM jobs_job CROSS JOIN LATERAL (SELECT
    extract(epoch FROM finalized_at - created_at)::float8 AS duration,
    extract(epoch FROM claimed_at - created_at)::float8 AS wait,
    claimed_at IS NOT NULL AND failure_reason IS DISTINCT FROM 'cancelled' AS was_called) AS times
GROUP BY 1, 2, 3, 4 ORDER BY 1
"""

SUM_UP = """
INSERT INTO stats_hourlytotal (hour, provider_id, ingest_count, success, timeouts, provider_errors, cancelled, errors)
SELECT hour, provider_id, sum(ingest_count), sum(success), sum(timeouts), sum(provider_errors), sum(cancelled),
    sum(errors)
FROM stats_hourlycounter WHERE source = 'booth' GROUP BY 1, 2 ORDER BY 1;
INSERT INTO stats_slotfigures (slot_id) SELECT DISTINCT slot_id FROM stats_hourlycounter
"""


class InUseError(Exception):
    """The database has rows, which must not be mixed with invented ones."""


def seed(jobs: int, days: int, report: Callable[[str], object]) -> None:
    """Fills an empty database. Raises `InUseError`; then, or if it is interrupted, nothing was changed."""
    with transaction.atomic():
        _refuse_in_use()
        _add_slots()
        with _without_indexes(report):
            _fill(jobs, days, report)
    with connection.cursor() as cursor:
        for table in (Slot, *FILLED):
            cursor.execute(f"VACUUM (ANALYZE) {_table_name(table)}")
    report("Vacuumed and analysed.")


def _refuse_in_use() -> None:
    """Locks the tables until the transaction ends. Raises `InUseError` if one has rows."""
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {', '.join(_table_name(table) for table in FILLED)}")
        for table in FILLED:
            cursor.execute(f"SELECT FROM {_table_name(table)} LIMIT 1")
            if cursor.rowcount:
                raise InUseError(f"{_table_name(table)} has rows already: only a database without any is filled.")


def _add_slots() -> None:
    for number in range(Slot.objects.count(), SLOTS):
        name, provider_id, slot_settings = SLOT_SETTINGS[number % len(SLOT_SETTINGS)]
        Slot.objects.create(
            id=Slot.next_id(),
            name=f"{name} {number}",
            provider_id=provider_id,
            operation_id="image_edit",
            settings_json=slot_settings,
        )


@contextmanager
def _without_indexes(report: Callable[[str], object]) -> Iterator[None]:
    """Drops the indexes and creates them again at the end, in a third of the time. Those of constraints stay."""
    indexes = [(table, index) for table in FILLED for index in table._meta.indexes]  # noqa: SLF001 - as below
    with connection.schema_editor() as editor:
        for table, index in indexes:
            editor.remove_index(table, index)
        yield
        editor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a table with pending foreign key checks cannot be altered
        editor.execute("SET LOCAL maintenance_work_mem = '512MB'")
        for table, index in indexes:
            began = time.monotonic()
            editor.add_index(table, index)
            report(f"{index.name}: {time.monotonic() - began:.0f} s")


def _fill(jobs: int, days: int, report: Callable[[str], object]) -> None:
    began = time.monotonic()
    with connection.cursor() as cursor:
        kept = f"{settings.RESULT_RETENTION_HOURS} hours"
        for first in range(1, jobs + 1, BATCH):
            last = min(first + BATCH - 1, jobs)
            cursor.execute(FILL, {"jobs": jobs, "days": days, "first": first, "last": last, "kept": kept})
            rows = 11 * last
            report(f"{last:,} jobs, {rows:,} rows, {rows / (time.monotonic() - began):,.0f} rows/s")
        buckets = {
            "duration_buckets": _buckets("duration", DURATION_BOUNDS),
            "wait_buckets": _buckets("wait", WAIT_BOUNDS),
        }
        cursor.execute(COUNT.format(**buckets))
        report(f"{cursor.rowcount:,} hours of a slot")
        cursor.execute(SUM_UP)
        cursor.execute(import_module("stats.migrations.0003_counter_totals").FILL)


def _buckets(column: str, bounds: Sequence[float]) -> str:
    """As in `journal`: a value equal to a bound falls into the bucket below it."""
    between = pairwise([-inf, *bounds, inf])
    return ", ".join(f"count(*) FILTER (WHERE {column} > '{low}' AND {column} <= '{high}')" for low, high in between)


def _table_name(table: type[models.Model]) -> str:
    return table._meta.db_table  # noqa: SLF001 - Django documents it
