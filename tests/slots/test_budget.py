"""A slot's budget as staff and Prometheus see it."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from providers.models import ProviderCall
from slots.models import Slot

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


def add_call(usd: str | None, days_ago: int = 0, slot_id: str = "slot-001", outcome: str = "made") -> None:
    at = timezone.now() - timedelta(days=days_ago)
    values = {"provider_id": "gemini", "slot_id": slot_id, "job_id": uuid4(), "cost_usd": usd}
    ProviderCall.objects.create(at=at, ended_at=at, outcome=outcome, **values)


@pytest.fixture
def budget() -> None:
    slot = Slot.objects.get(pk="slot-001")
    Slot.objects.filter(pk=slot.pk).update(settings_json=slot.settings_json | {"daily_budget": 5})


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize(
    ("spent", "expected", "level"),
    [
        ([], "0.00 of 5.00 USD, 0 %", None),
        (["1.00", "1.49"], "2.49 of 5.00 USD, 49 %", None),
        (["2.50"], "2.50 of 5.00 USD, 50 %", 50),
        (["4.00", None], "4.00 of 5.00 USD, 80 %; 1 call at an unknown price", 80),
        (["5.01"], "5.01 of 5.00 USD, 100 %", 100),
    ],
)
def test_staff_see_how_much_is_spent(admin_client: Client, spent: list[str], expected: str, level: int | None) -> None:
    for usd in spent:
        add_call(usd)
    add_call(None, outcome="failed")
    add_call("9.00", days_ago=1)
    add_call("9.00", slot_id="slot-002")
    for page in ("/admin/slots/slot/", "/admin/slots/slot/slot-001/change/"):
        text = admin_client.get(page).content.decode()
        assert expected in text
        assert ("state-spent-" in text) == (level is not None)
        assert level is None or f"state-spent-{level}" in text


@pytest.mark.usefixtures("budget")
def test_the_share_is_a_metric(client: Client) -> None:
    add_call("4.00")
    assert 'slot_budget_used_ratio{slot_id="slot-001"} 0.8' in client.get("/metrics").content.decode()
