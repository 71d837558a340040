"""Prometheus metrics of the slots' budgets, read afresh at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slots import budget
from slots.models import Slot


class Budgets(Collector):
    def collect(self) -> Iterator[Metric]:
        text = "Spent today (UTC) of the slot's daily_budget; at 1 its photos are refused."
        gauge = GaugeMetricFamily("slot_budget_used_ratio", text, labels=["slot_id"])
        slots = Slot.objects.filter(archived_at=None, settings_json__has_key="daily_budget")
        for slot_id, spending in budget.load_budgets(slots).items():
            gauge.add_metric([slot_id], spending.share)
        yield gauge
