"""Prometheus metrics of the current state: queue, processes, disk, purges. Read from their source at each scrape."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.db.models import Count
from django.db.models.functions import Now
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobs.models import Job, MediaObject, Process, PurgeTotal
from jobs.retention.purge import KINDS

SEEN_SECONDS = 15  # the contract's: a process not seen for longer does not count as alive
# Results are purged every 15 minutes, temporary media every minute; an artefact twice that late shows a fault.
OVERDUE_RESULT = timedelta(minutes=30)
OVERDUE_MEDIA = timedelta(minutes=2)
PURGE_COUNTERS = {
    "runs": "Purges so far.",
    "removed_files": "Files that they removed.",
    "removed_bytes": "What these took.",
    "removed_rows": "Database rows that they removed.",
}


class JobsCollector(Collector):
    def collect(self) -> Iterator[Metric]:
        yield from _collect_queue()
        yield from _collect_processes()
        yield from _collect_disk()
        yield from _collect_purges()


def _collect_queue() -> Iterator[Metric]:
    depth = GaugeMetricFamily("queue_depth", "Unfinished jobs by status.", labels=["status"])
    counts = dict(Job.objects.filter(is_finalized=False).values_list("status").annotate(Count("pk")).order_by())
    for status in Job.Status.values:
        depth.add_metric([status], counts.get(status, 0))
    yield depth
    yield GaugeMetricFamily(
        "queue_limit", "Unfinished jobs that are admitted at most.", settings.QUEUE_MAX_IN_FLIGHT_JOBS
    )


def _collect_processes() -> Iterator[Metric]:
    since = Now() - timedelta(seconds=SEEN_SECONDS)
    alive = GaugeMetricFamily("processes_alive", "Processes seen in the last 15 seconds.", labels=["kind"])
    listening = GaugeMetricFamily("processes_listening", "Those of them that hear notifications.", labels=["kind"])
    for kind in Process.Kind.values:
        processes = Process.objects.filter(kind=kind, seen_at__gte=since)
        alive.add_metric([kind], processes.count())
        listening.add_metric([kind], processes.filter(is_listening=True).count())
    yield alive
    yield listening


def _collect_disk() -> Iterator[Metric]:
    text = "What photos, results and template images took when media were last purged."
    stored = GaugeMetricFamily("media_storage_bytes", text, labels=[])
    for size in PurgeTotal.objects.filter(kind="media").values_list("stored_bytes", flat=True):
        if size is not None:
            stored.add_metric([], size)
    yield stored
    disk = shutil.disk_usage(settings.MEDIA_ROOT)
    yield GaugeMetricFamily("media_disk_capacity_bytes", "Size of the disk that they are on.", disk.total)
    yield GaugeMetricFamily("media_disk_used_bytes", "What is used of that disk, by whatever.", disk.used)


def _collect_purges() -> Iterator[Metric]:
    totals = {total.kind: total for total in PurgeTotal.objects.all()}
    for name, text in PURGE_COUNTERS.items():
        counter = CounterMetricFamily(f"purge_{name}", text, labels=["kind"])
        for kind in KINDS:
            counter.add_metric([kind], getattr(totals.get(kind), name.removeprefix("removed_"), 0))
        yield counter
    last = GaugeMetricFamily("purge_last_run_timestamp_seconds", "When such a purge last ended.", labels=["kind"])
    for kind in KINDS:
        last.add_metric([kind], totals[kind].last_run_at.timestamp() if kind in totals else 0)
    yield last
    overdue = GaugeMetricFamily("overdue_artefacts", "Expired, and should be gone by now. Must be 0.", labels=["kind"])
    results = Job.objects.filter(result_file_path__isnull=False, result_expires_at__lt=Now() - OVERDUE_RESULT)
    overdue.add_metric(["results"], results.count())
    overdue.add_metric(["media"], MediaObject.objects.filter(expires_at__lt=Now() - OVERDUE_MEDIA).count())
    yield overdue
