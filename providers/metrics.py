"""Prometheus metrics of provider accounts and today's calls. Read from the database at each scrape, so every process
reports the same values."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.db.models import Count, Q, Sum
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from providers import registry
from providers.models import ProviderAccount, ProviderCall

Row = dict[str, Any]


class Accounts(Collector):
    def collect(self) -> Iterator[Metric]:
        yield from _collect_accounts()
        yield _collect_calls_under_way()
        yield from _collect_today()


def _collect_accounts() -> Iterator[Metric]:
    """For all providers: one without an account counts as enabled, with a closed breaker."""
    accounts = {account.provider_id: account for account in ProviderAccount.objects.all()}
    enabled = _gauge("provider_account_enabled", "1: staff have the provider switched on.", "provider")
    opened = _gauge(
        "provider_account_open", "1: the circuit breaker is open or half-open; it has not answered since.", "provider"
    )
    for provider_id in registry.get_classes():
        account = accounts.get(provider_id)
        enabled.add_metric([provider_id], account is None or account.is_enabled)
        opened.add_metric([provider_id], account is not None and account.open_until is not None)
    yield enabled
    yield opened


def _collect_calls_under_way() -> Metric:
    calls = ProviderCall.objects.filter(ended_at=None).values_list("provider_id").annotate(Count("pk"))
    counts = dict(calls.order_by())
    gauge = _gauge("provider_calls_under_way", "Calls that wait for the provider's answer.", "provider")
    for provider_id in registry.get_classes():
        gauge.add_metric([provider_id], counts.get(provider_id, 0))
    return gauge


def _collect_today() -> Iterator[Metric]:
    calls = _gauge(
        "provider_calls_today", "Calls that ended, of those since 00:00 UTC.", "provider", "outcome", "reason"
    )
    costs = _gauge("provider_cost_usd_today", "What they cost, where that is known.", "provider", "outcome")
    unpriced = _gauge("provider_calls_unpriced_today", "Those whose cost is not known.", "provider", "outcome")
    for row in _count_today("provider_id", "outcome", "reason"):
        calls.add_metric([row["provider_id"], row["outcome"], row["reason"] or ""], row["calls"])
    for row in _count_today("provider_id", "outcome"):
        labels = [row["provider_id"], row["outcome"]]
        if row["cost"] is not None:
            costs.add_metric(labels, row["cost"])
        unpriced.add_metric(labels, row["unpriced"])
    yield from (calls, costs, unpriced)


def _count_today(*columns: str) -> list[Row]:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    today = ProviderCall.objects.filter(at__gte=midnight, ended_at__isnull=False).order_by(*columns)
    unpriced = Count("pk", filter=Q(cost_usd=None))
    return list(today.values(*columns).annotate(calls=Count("pk"), cost=Sum("cost_usd"), unpriced=unpriced))


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)
