"""Prometheus metrics of accounts and calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from providers.base import Reason
from tests.conftest import Processes
from tests.providers.account_factories import create_account, create_past_calls

LABELS = ("provider", "outcome", "reason")
pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]


def scrape(client: httpx.Client, name: str) -> dict[tuple[str, ...], float]:
    """Values by those of the labels provider, outcome and reason that the metric has."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(s.labels[label] for label in LABELS if label in s.labels): s.value for s in samples}


def since_midnight() -> float:
    return (timezone.now() - datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()


@pytest.mark.parametrize("wait", [timedelta(seconds=30), -timedelta(seconds=30)], ids=["open", "half-open"])
def test_a_breaker_counts_as_open_until_the_provider_has_answered(web: httpx.Client, wait: timedelta) -> None:
    create_account(open_until=timezone.now() + wait, open_reason=Reason.AUTH)
    create_account(provider_id="openai", is_enabled=False)
    opened, enabled = scrape(web, "provider_account_open"), scrape(web, "provider_account_enabled")
    assert (opened["gemini",], opened["openai",], opened["turbotext",]) == (1, 0, 0)
    assert (enabled["gemini",], enabled["openai",], enabled["turbotext",]) == (1, 0, 1)


def test_calls_under_way_are_counted(web: httpx.Client) -> None:
    create_past_calls(2, 5, ended_at=None, outcome=None)
    create_past_calls(1, 5)
    under_way = scrape(web, "provider_calls_under_way")
    assert (under_way["gemini",], under_way["openai",]) == (2, 0)


def test_todays_calls_by_outcome_and_reason(web: httpx.Client) -> None:
    create_past_calls(3, 0)
    create_past_calls(2, 0, outcome="failed", reason="overloaded")
    create_past_calls(1, 0, outcome="failed", reason="slow")
    create_past_calls(4, since_midnight() + 1)
    assert scrape(web, "provider_calls_today") == {
        ("gemini", "made", ""): 3,
        ("gemini", "failed", "overloaded"): 2,
        ("gemini", "failed", "slow"): 1,
    }


def test_what_is_not_known_is_not_counted_as_nothing(web: httpx.Client) -> None:
    create_past_calls(2, 0, cost_usd=Decimal("0.04"))
    create_past_calls(1, 0)
    create_past_calls(1, 0, outcome="refused", reason="refused", cost_usd=Decimal("0.001"))
    create_past_calls(3, 0, provider_id="turbotext")
    assert scrape(web, "provider_cost_usd_today") == {("gemini", "made"): 0.08, ("gemini", "refused"): 0.001}
    assert scrape(web, "provider_calls_unpriced_today") == {
        ("gemini", "made"): 1,
        ("gemini", "refused"): 0,
        ("turbotext", "made"): 3,
    }


def test_two_processes_give_the_same_answer(processes: Processes, web: httpx.Client) -> None:
    create_past_calls(2, 0, cost_usd=Decimal("0.04"))
    processes.web()
    with httpx.Client(base_url=processes.url) as other:
        for name in ("provider_calls_today", "provider_cost_usd_today", "provider_account_open"):
            assert scrape(other, name) == scrape(web, name)
