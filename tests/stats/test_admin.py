"""The admin's page for the processing log."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from stats.models import ProcessingLog
from tests.admin_client import browser, text_of
from tests.plans import assert_uses_index

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]

LIST = reverse("admin:stats_processinglog_changelist")

# Twenty thousand steps of five thousand jobs; one in a thousand failed.
MANY = """
INSERT INTO stats_processinglog (job_id, slot_id, status, message, details, occurred_at)
SELECT lpad((n / 4)::text, 32, '0')::uuid, CASE WHEN n > 10 THEN 'slot-001' ELSE 'slot-004' END,
    CASE WHEN n % 1000 = 0 THEN 'failed' ELSE (ARRAY['received', 'dispatched', 'succeeded'])[n % 3 + 1] END,
    '', '{}', now()
FROM generate_series(1, 20000) AS n
"""


@pytest.fixture
def admin() -> Client:
    return browser(superuser=True)


@pytest.fixture
def many(rolled_back_database: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(MANY)
        cursor.execute("ANALYZE stats_processinglog")


def entry(**changes: Any) -> ProcessingLog:
    return ProcessingLog.objects.create(**{"job_id": uuid4(), "slot_id": "slot-001", "status": "received"} | changes)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "stats_processinglog_pkey"),
        ({"status__exact": "succeeded"}, "stats_processinglog_pkey"),
        ({"status__exact": "failed"}, "log_of_failures"),
        ({"status__exact": "timeout"}, "log_of_failures"),
        ({"slot__id__exact": "slot-004"}, "log_of_slot"),
        ({"q": "00000000-0000-0000-0000-000000000042"}, "log_steps_of_job"),
    ],
)
def test_each_filter_has_its_index(admin: Client, query: dict[str, str], index: str) -> None:
    with CaptureQueriesContext(connection) as captured:
        assert admin.get(LIST, query).status_code == 200
    count, rows = [q["sql"] for q in captured.captured_queries if 'FROM "stats_processinglog"' in q["sql"]]
    assert "LIMIT 10001" in count
    assert_uses_index(index, rows)


@pytest.mark.usefixtures("many")
def test_a_full_page_takes_a_constant_number_of_queries(admin: Client, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(5):  # session, user, slots to filter by, bounded count, rows
        page = text_of(admin.get(LIST))
    assert "more than 10000" in page


def test_newest_first_with_a_link_to_the_job(admin: Client) -> None:
    first, second = entry(message="came first"), entry(message="came second")
    answer = admin.get(LIST)
    page = text_of(answer)
    assert page.index("came second") < page.index("came first")
    for one in (first, second):
        assert reverse("admin:jobs_job_change", args=[one.job_id]) in answer.content.decode()


def test_a_job_is_found_by_its_id(admin: Client) -> None:
    wanted, _other = entry(), entry()
    assert list(admin.get(LIST, {"q": str(wanted.job_id)}).context["cl"].result_list) == [wanted]
    assert list(admin.get(LIST, {"q": "%"}).context["cl"].result_list) == []


def test_details_keep_their_order_and_are_text(admin: Client) -> None:
    one = entry()
    with connection.cursor() as cursor:  # as the journal writes it
        details = {"provider_id": "studio", "attempt": 2, "error": "<script>alert(1)</script>"}
        cursor.execute("UPDATE stats_processinglog SET details = %s", [json.dumps(details)])
    answer = admin.get(reverse("admin:stats_processinglog_change", args=[one.pk]))
    assert '{ "provider_id": "studio", "attempt": 2, "error":' in text_of(answer)
    assert "<script>alert" not in answer.content.decode()


@pytest.mark.usefixtures("database")
def test_the_log_is_read_only_even_for_a_superuser(admin: Client) -> None:
    one = entry()
    assert admin.get(reverse("admin:stats_processinglog_add")).status_code == 403
    for verb in ("change", "delete"):
        address = reverse(f"admin:stats_processinglog_{verb}", args=[one.pk])
        assert admin.post(address, {"post": "yes"}).status_code == 403
    admin.post(LIST, {"action": "delete_selected", "_selected_action": one.pk, "post": "yes"})
    assert ProcessingLog.objects.get() == one


def test_the_address_filters_by_nothing_slow(admin: Client) -> None:
    assert admin.get(LIST, {"message__contains": "x"}).status_code == 400
