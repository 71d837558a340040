"""Prometheus metrics of finished jobs, read from the counters' totals, so that every process reports the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stats.journal import DURATION_BOUNDS, WAIT_BOUNDS
from stats.models import CounterTotal

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


class FinishedJobs(Collector):
    """Test runs are not counted."""

    def collect(self) -> Iterator[Metric]:
        totals = list(CounterTotal.objects.order_by("slot_id", "provider_id"))
        for name, (column, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=LABELS)
            for total in totals:
                counter.add_metric(_get_labels(total), float(getattr(total, column)))
            yield counter
        durations = HistogramMetricFamily(
            "ingest_duration_seconds", "From a photo's arrival to its job's end.", labels=LABELS
        )
        waits = HistogramMetricFamily(
            "job_claim_wait_seconds", "From a photo's arrival to its first claim.", labels=LABELS
        )
        for total in totals:
            buckets = _make_buckets(DURATION_BOUNDS, total.duration_buckets)
            durations.add_metric(_get_labels(total), buckets, total.duration_seconds)
            waits.add_metric(_get_labels(total), _make_buckets(WAIT_BOUNDS, total.wait_buckets), total.wait_seconds)
        yield durations
        yield waits


def _make_buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Prometheus's, each with what is below its bound in all."""
    return list(zip([*map(str, bounds), "+Inf"], map(float, accumulate(counts)), strict=True))


def _get_labels(total: CounterTotal) -> tuple[str, str]:
    return total.slot_id, total.provider_id
