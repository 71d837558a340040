"""The alerts shipped for Prometheus ask for metrics that there are."""

from __future__ import annotations

import re

import httpx
import pytest
import yaml
from django.conf import settings
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Booth, set_slot
from tests.jobs.results import make_picture

pytestmark = pytest.mark.contract

RULES = [
    rule
    for group in yaml.safe_load((settings.BASE_DIR / "deploy/prometheus-rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
# The names in an expression: words with an underscore, but for functions (before a parenthesis) and label values.
METRIC = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b(?!\()")


def test_all_alerts_of_the_contract_are_there() -> None:
    assert {rule["alert"] for rule in RULES} == {
        "PhotosTimeOut",
        "PhotosAreSlow",
        "MediaDiskFull",
        "SlotBudgetNearlySpent",
        "QueueFull",
        "ProviderUnavailable",
        "ProviderBreakerOpen",
        "NoWorker",
        "ServiceUnreachable",
        "PurgeNotRunning",
        "OverdueArtefacts",
    }
    assert all(rule["labels"]["severity"] in ("warning", "critical") for rule in RULES)
    assert all(rule["annotations"]["summary"] for rule in RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_its_metrics_are_exposed(booth: Booth, web: httpx.Client, rule: dict[str, str]) -> None:
    make_picture(booth)
    set_slot("slot-002", settings_json={"look": "sepia", "daily_budget": 5})
    families = text_string_to_metric_families(web.get("/metrics").text)
    exposed = {sample.name for family in families for sample in family.samples}
    asked = set(METRIC.findall(rule["expr"]))
    assert asked
    assert asked <= exposed
