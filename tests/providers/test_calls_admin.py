"""The list of calls: read-only, and fast with many rows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from providers.models import ProviderCall
from tests.admin_client import browser, text_of
from tests.plans import assert_uses_index
from tests.providers.account_factories import create_past_calls

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]

LIST = reverse("admin:providers_providercall_changelist")

# Twenty thousand, of which twenty were too late, and ten are of a provider that is rarely called.
MANY = """
INSERT INTO providers_providercall (provider_id, slot_id, job_id, at, ended_at, outcome)
SELECT CASE WHEN n <= 10 THEN 'turbotext' ELSE 'gemini' END, 'slot-001', gen_random_uuid(), at, at + '9 s',
    CASE WHEN mod(n, 1000) = 0 THEN 'late' ELSE 'made' END
FROM generate_series(1, 20000) AS n, LATERAL (SELECT now() - n * interval '1 minute' AS at) AS made
"""


@pytest.fixture
def admin() -> Client:
    return browser(superuser=True)


@pytest.fixture
def many(rolled_back_database: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(MANY)
        cursor.execute("ANALYZE providers_providercall")


def page_of(call: ProviderCall) -> str:
    return reverse("admin:providers_providercall_change", args=[call.pk])


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "calls_by_age"),
        ({"p": "40"}, "calls_by_age"),
        ({"outcome__exact": "made"}, "calls_by_age"),
        ({"outcome__exact": "late"}, "calls_that_made_nothing"),
        ({"provider_id": "turbotext"}, "calls_of_provider"),
        ({"q": "0b9cbb83-5a3e-4d64-9c34-5dbe2d4fb1d5"}, "calls_of_job"),
    ],
)
def test_each_filter_has_its_index(admin: Client, query: dict[str, str], index: str) -> None:
    with CaptureQueriesContext(connection) as captured:
        assert admin.get(LIST, query).status_code == 200
    assert len(captured) == 4  # session, user, bounded count, rows
    count, rows = (query["sql"] for query in captured.captured_queries[2:])
    assert "LIMIT 10001" in count
    assert_uses_index(index, rows, "providers_providercall")


def test_what_is_seen_of_a_call(admin: Client) -> None:
    create_past_calls(1, 3, cost_usd=Decimal("0.0391"), model="nano", units={"output_tokens": 1290})
    create_past_calls(1, 2, outcome="failed", reason="overloaded")
    create_past_calls(1, 1, ended_at=None, outcome=None)
    page = text_of(admin.get(LIST))
    for words in (
        "made a picture",
        "0.0391",
        "nano",
        "the provider is overloaded or unavailable",
        "under way",
        "unknown",
    ):
        assert words in page
    call = ProviderCall.objects.get(model="nano")
    assert '"output_tokens": 1290' in text_of(admin.get(page_of(call)))
    assert reverse("admin:jobs_job_change", args=[call.job_id]) in admin.get(LIST).content.decode()


@pytest.mark.parametrize("query", [{"model__contains": "x"}, {"cost_usd__gt": "0"}])
def test_the_address_filters_by_nothing_slow(admin: Client, query: dict[str, Any]) -> None:
    assert admin.get(LIST, query).status_code == 400


@pytest.mark.usefixtures("database")
def test_it_is_read_only_even_for_a_superuser(admin: Client) -> None:
    create_past_calls(1, 3)
    call = ProviderCall.objects.get()
    assert admin.get(f"{LIST}add/").status_code == 403
    assert admin.post(page_of(call), {"outcome": "late"}).status_code == 403
    assert admin.post(f"{LIST}{call.pk}/delete/", {"post": "yes"}).status_code == 403
    assert browser("jobs.view_job").get(LIST).status_code == 403
