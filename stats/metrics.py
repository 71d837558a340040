"""Prometheus metrics of what finished, read from the hourly counters: the same answer whichever process gives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connection
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stats.journal import DURATION_BOUNDS, WAIT_BOUNDS

# Test runs are no booth's photos.
TOTALS = """
SELECT slot_id, provider_id, sum(ingest_count) AS ingest_count, sum(success) AS success, sum(timeouts) AS timeouts,
    sum(provider_errors) AS provider_errors, sum(cancelled) AS cancelled, sum(errors) AS errors,
    sum(late_answers) AS late_answers, sum(attempts) AS attempts, sum(attempt_errors) AS attempt_errors,
    sum(provider_seconds) AS provider_seconds, sum(polls) AS polls, sum(duration_seconds) AS duration_seconds,
    sum(wait_seconds) AS wait_seconds,
    (SELECT array_agg(n ORDER BY i) FROM (
        SELECT i, sum(n) AS n FROM stats_hourlycounter AS c, unnest(c.duration_buckets) WITH ORDINALITY AS b (n, i)
        WHERE c.slot_id = t.slot_id AND c.provider_id = t.provider_id AND c.source = 'booth' GROUP BY i
    ) AS sums) AS duration_buckets,
    (SELECT array_agg(n ORDER BY i) FROM (
        SELECT i, sum(n) AS n FROM stats_hourlycounter AS c, unnest(c.wait_buckets) WITH ORDINALITY AS b (n, i)
        WHERE c.slot_id = t.slot_id AND c.provider_id = t.provider_id AND c.source = 'booth' GROUP BY i
    ) AS sums) AS wait_buckets
FROM stats_hourlycounter AS t WHERE source = 'booth' GROUP BY slot_id, provider_id ORDER BY slot_id, provider_id
"""

COUNTERS = {
    "ingest_requests": ("ingest_count", "Photos that were admitted and whose job has ended."),
    "ingest_success": ("success", "Photos answered with a picture."),
    "ingest_timeout": ("timeouts", "Photos whose deadline passed."),
    "ingest_provider_error": ("provider_errors", "Photos whose provider failed for good."),
    "ingest_cancelled": ("cancelled", "Photos cancelled by staff."),
    "ingest_internal_error": ("errors", "Photos lost to a fault of this service."),
    "provider_attempts": ("attempts", "Calls that were to make a picture."),
    "provider_attempt_errors": ("attempt_errors", "Such calls that failed."),
    "provider_seconds": ("provider_seconds", "Time spent in such calls."),
    "provider_polls": ("polls", "Questions to a provider's queue whether the picture is ready."),
    "late_answers_dropped": ("late_answers", "Pictures that came after their job's end."),
}
LABELS = ("slot_id", "provider")


class FinishedJobs(Collector):
    def collect(self) -> Iterator[Metric]:
        with connection.cursor() as cursor:
            cursor.execute(TOTALS)
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        for name, (column, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=LABELS)
            for row in rows:
                counter.add_metric(_labels(row), float(row[column]))
            yield counter
        yield _histogram("ingest_duration_seconds", "From a photo's arrival to its job's end.", "duration", rows)
        yield _histogram("job_claim_wait_seconds", "From a photo's arrival to its first claim.", "wait", rows)


def _histogram(name: str, text: str, kind: str, rows: Sequence[dict[str, Any]]) -> Metric:
    bounds = [*map(str, DURATION_BOUNDS if kind == "duration" else WAIT_BOUNDS), "+Inf"]
    histogram = HistogramMetricFamily(name, text, labels=LABELS)
    for row in rows:
        total, buckets = 0, []
        for bound, count in zip(bounds, row[f"{kind}_buckets"], strict=True):
            total += int(count)
            buckets.append((bound, float(total)))
        histogram.add_metric(_labels(row), buckets, float(row[f"{kind}_seconds"]))
    return histogram


def _labels(row: dict[str, Any]) -> tuple[str, str]:
    return row["slot_id"], row["provider_id"]
