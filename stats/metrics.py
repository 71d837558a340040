"""Prometheus metrics of finished jobs, read from the hourly counters, so that every process reports the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db.models import Sum
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stats.journal import DURATION_BOUNDS, WAIT_BOUNDS
from stats.models import HourlyCounter

COUNTERS = {
    "ingest_requests": ("ingest_count", "Photos that were admitted and whose job has ended."),
    "ingest_success": ("success", "Photos answered with a picture."),
    "ingest_timeout": ("timeouts", "Photos whose deadline passed."),
    "ingest_provider_error": ("provider_errors", "Photos whose provider failed for good."),
    "ingest_cancelled": ("cancelled", "Photos cancelled by staff."),
    "ingest_internal_error": ("errors", "Photos lost to a fault of this service."),
    "provider_attempts": ("attempts", "Calls that were to make a picture."),
    "provider_attempt_errors": ("attempt_errors", "Such calls that failed."),
    "provider_attempt_seconds": ("provider_seconds", "Time spent in such calls."),
    "provider_polls": ("polls", "Questions to a provider's queue whether the picture is ready."),
    "late_answers_dropped": ("late_answers", "Pictures that came after their job's end."),
}
LABELS = ("slot_id", "provider")
Row = dict[str, Any]


class FinishedJobs(Collector):
    def collect(self) -> Iterator[Metric]:
        rows = _sum_counters()
        for name, (column, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=LABELS)
            for row in rows:
                counter.add_metric(_get_labels(row), float(row[f"sum_{column}"]))
            yield counter
        text = "From a photo's arrival to its job's end."
        yield _make_histogram("ingest_duration_seconds", text, "duration", DURATION_BOUNDS, rows)
        yield _make_histogram(
            "job_claim_wait_seconds", "From a photo's arrival to its first claim.", "wait", WAIT_BOUNDS, rows
        )


def _sum_counters() -> list[Row]:
    """All sums by slot and provider, in one query. Test runs are not counted."""
    columns = [column for column, _ in COUNTERS.values()] + ["duration_seconds", "wait_seconds"]
    columns += [f"duration_buckets__{i}" for i in range(len(DURATION_BOUNDS) + 1)]
    columns += [f"wait_buckets__{i}" for i in range(len(WAIT_BOUNDS) + 1)]
    sums = {f"sum_{column}": Sum(column) for column in columns}
    counters = HourlyCounter.objects.filter(source="booth").order_by("slot_id", "provider_id")
    return [dict(row) for row in counters.values("slot_id", "provider_id").annotate(**sums)]


def _make_histogram(name: str, text: str, kind: str, bounds: Sequence[float], rows: Sequence[Row]) -> Metric:
    histogram = HistogramMetricFamily(name, text, labels=LABELS)
    for row in rows:
        total, buckets = 0, []
        for i, bound in enumerate([*map(str, bounds), "+Inf"]):
            total += row[f"sum_{kind}_buckets__{i}"]
            buckets.append((bound, float(total)))
        histogram.add_metric(_get_labels(row), buckets, row[f"sum_{kind}_seconds"])
    return histogram


def _get_labels(row: Row) -> tuple[str, str]:
    return row["slot_id"], row["provider_id"]
