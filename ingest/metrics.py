"""Prometheus metric of the booths' waiting time, for alerts to compare with."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ingest.models import IngestSettings


class BoothSettings(Collector):
    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily("sync_response_seconds", "How long a booth is kept waiting at most.")
        for seconds in IngestSettings.objects.values_list("sync_response_seconds", flat=True):
            gauge.add_metric([], seconds)
        yield gauge
