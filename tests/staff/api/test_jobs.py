"""`/api/jobs`: the list, one job with its log, and cancelling a job."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.models import Job
from staff.api.processing_log import STEP
from stats.models import ProcessingLog
from tests import log_rows
from tests.api import Api, check_refusal, make_api
from tests.conftest import Booth, in_background, jpeg, set_slot, stored_files, use_sandbox
from tests.ingest.helpers import eventually
from tests.jobs.results import make_picture
from tests.jobs.test_admin import FAILURES, MANY, make_failed_job, make_job, make_picture_job, make_running_job
from tests.plans import assert_uses_index
from tests.sandbox.server import Sandbox

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

LIST = "/api/jobs"
FALLBACK = {"provider_id": "queued", "operation_id": "image_edit", "settings_json": {"scenario": "ok"}}
# Contract §3.
FIELDS = (
    *("id", "slot_id", "status", "is_finalized", "failure_reason", "provider_job_reference", "payload_path"),
    *("result_file_path", "result_inline_base64", "result_mime_type", "result_size_bytes", "result_checksum"),
    *("result_expires_at", "expires_at", "created_at", "updated_at", "finalized_at"),
)


@pytest.fixture
def api() -> Api:
    return make_api("stats:read", "slots:write")


@pytest.fixture
def many(database: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(MANY)
        cursor.execute("UPDATE jobs_job SET status = 'processing' WHERE failure_reason IS NULL")
        cursor.execute("VACUUM ANALYZE jobs_job")


def list_jobs(api: Api, **query: Any) -> list[str]:
    response = api("get", LIST, query)
    assert response.status_code == 200, response.content
    return [each["job"]["id"] for each in response.json()["data"]]


def get_refused_fields(api: Api, query: dict[str, Any], status: int, code: str) -> set[str]:
    """The fields that the refusal names."""
    return {*check_refusal(api("get", LIST, query), status, code)}


def get_ids(*jobs: Job) -> list[str]:
    return [str(one.pk) for one in jobs]


def get_job(api: Api, one: Job) -> dict[str, Any]:
    response = api("get", f"{LIST}/{one.pk}")
    assert response.status_code == 200, response.content
    found: dict[str, Any] = response.json()
    return found


def cancel(api: Api, one: Job, body: Any = None, query: str = "") -> Any:
    return api("post", f"{LIST}/{one.pk}/cancel{query}", body)


def test_a_job_has_the_contracts_fields_in_both_places(api: Api) -> None:
    one = make_picture_job()
    assert tuple(get_job(api, one)["job"]) == FIELDS
    assert api("get", LIST).json()["data"][0]["job"] == get_job(api, one)["job"]
    assert get_job(api, one).keys() == {"job", "deadline", "metrics", "processing_log"}


def test_each_filter_finds_its_jobs(api: Api) -> None:
    waiting, busy, picture = make_job(), make_running_job(), make_picture_job(slot_id="slot-002", status="processing")
    timeout, cancelled = make_failed_job("timeout"), make_failed_job("cancelled")
    found: list[tuple[dict[str, str], list[Job]]] = [
        ({}, [cancelled, timeout, picture, busy, waiting]),
        ({"status": "pending"}, [cancelled, timeout, waiting]),
        ({"status": "processing"}, [picture, busy]),
        ({"is_finalized": "false"}, [busy, waiting]),
        ({"is_finalized": "true"}, [cancelled, timeout, picture]),
        ({"failure_reason": "timeout"}, [timeout]),
        ({"failure_reason": "provider_error"}, []),
        ({"slot_id": "slot-002"}, [picture]),
        ({"slot_id": "slot-404"}, []),
        ({"is_finalized": "true", "status": "pending", "failure_reason": "cancelled"}, [cancelled]),
    ]
    for query, jobs in found:
        assert list_jobs(api, **query) == get_ids(*jobs), query


def test_test_runs_are_not_listed_but_found_by_their_id(api: Api) -> None:
    test_run = make_picture_job(source="test")
    assert list_jobs(api) == []
    assert get_job(api, test_run)["job"]["id"] == str(test_run.pk)


@pytest.mark.parametrize("by", ["created_at", "expires_at"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_the_order_is_total_and_pages_neither_overlap_nor_skip(api: Api, by: str, order: str) -> None:
    now = timezone.now()
    times = [now - timedelta(minutes=n // 3) for n in range(7)]
    jobs = [make_job(created_at=at, expires_at=at + timedelta(seconds=48)) for at in times]
    jobs.sort(key=lambda one: str(one.pk))
    jobs.sort(key=lambda one: one.created_at, reverse=True)
    expected = get_ids(*(jobs if order == "desc" else reversed(jobs)))
    query = {"sort_by": by, "sort_order": order, "page_size": 2}
    assert [one for page in range(1, 6) for one in list_jobs(api, page=page, **query)] == expected
    assert [list_jobs(api, after=last, **query)[:1] for last in expected] == [*([one] for one in expected[1:]), []]


def test_by_deadline_is_not_by_age(api: Api) -> None:
    early, late = make_job(), make_job(expires_at=timezone.now() + timedelta(seconds=10))
    assert list_jobs(api, sort_by="expires_at") == get_ids(early, late)
    assert list_jobs(api, sort_by="created_at") == get_ids(late, early)


def test_the_list_describes_its_page(api: Api) -> None:
    make_job(), make_job(), make_job()
    meta = api("get", LIST, {"page": 2, "page_size": 2}).json()["meta"]
    assert meta == {"page": 2, "page_size": 2, "total": 3, "is_total_exact": True}
    assert list_jobs(api, page=9, page_size=100) == []


@pytest.mark.usefixtures("many")
def test_counting_stops_and_says_so(api: Api) -> None:
    meta = api("get", LIST, {"page_size": 100, "page": 100}).json()["meta"]
    assert (meta["total"], meta["is_total_exact"]) == (10_000, False)
    assert get_refused_fields(api, {"page_size": 100, "page": 101}, 422, "validation_failed") == {"page"}


@pytest.mark.usefixtures("many")
def test_a_program_walks_through_all_jobs(api: Api) -> None:
    Job.objects.filter(created_at__lt=Job.objects.order_by("-created_at")[550].created_at).delete()
    pages = [list_jobs(api, page_size=100)]
    while len(pages[-1]) == 100:
        pages.append(list_jobs(api, page_size=100, after=pages[-1][-1]))
    assert [len(page) for page in pages] == [100] * 5 + [51]
    assert len({one for page in pages for one in page}) == 551


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "finished"),
        ("status", ""),
        ("is_finalized", "yes"),
        ("failure_reason", "none"),
        ("sort_by", "id"),
        ("sort_order", "up"),
        ("page", "0"),
        ("page", "first"),
        ("page_size", "101"),
        ("after", "slot-001"),
        ("after", "00000000-0000-4000-8000-000000000000"),
        ("slot_id", "\0"),
    ],
)
def test_an_invalid_value_is_refused_by_name(api: Api, name: str, value: str) -> None:
    assert get_refused_fields(api, {name: value}, 422, "validation_failed") == {name}


def test_unknown_parameters_and_fields_are_malformed(api: Api) -> None:
    one = make_job()
    assert get_refused_fields(api, {"provider_id": "studio", "page": "0"}, 400, "invalid_payload") == {"provider_id"}
    assert get_refused_fields(api, {"status": ["pending", "processing"]}, 400, "invalid_payload") == {"status"}
    check_refusal(api("get", f"{LIST}/{one.pk}?full=1"), 400, "invalid_payload")
    check_refusal(cancel(api, one, query="?force=true"), 400, "invalid_payload")
    assert check_refusal(cancel(api, one, {"why": "x"}), 400, "invalid_payload").keys() == {"why"}
    assert not Job.objects.get().is_finalized


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "job_newest_first"),
        ({"page": "400"}, "job_newest_first"),
        ({"after": "?"}, "job_newest_first"),
        ({"sort_by": "expires_at"}, "job_by_deadline"),
        ({"sort_by": "expires_at", "after": "?"}, "job_by_deadline"),
        ({"status": "processing"}, "job_newest_first"),
        ({"status": "pending"}, "job_ended_waiting"),
        ({"status": "pending"}, "job_unfinished"),
        ({"is_finalized": "true"}, "job_newest_first"),
        ({"is_finalized": "false"}, "job_unfinished"),
        ({"is_finalized": "false", "sort_by": "expires_at"}, "job_unfinished"),
        ({"failure_reason": "timeout"}, FAILURES),
        ({"failure_reason": "cancelled", "sort_by": "expires_at"}, FAILURES),
        ({"slot_id": "slot-004"}, "job_newest_of_slot"),
        ({"slot_id": "slot-001", "failure_reason": "timeout"}, "job_failures_of_slot"),
        ({"slot_id": "slot-004", "sort_by": "expires_at"}, "job_newest_of_slot"),
    ],
)
def test_each_list_has_its_index(api: Api, query: dict[str, str], index: str, order: str) -> None:
    after = {"after": str(Job.objects.order_by("id")[0].pk)} if "after" in query else {}
    with CaptureQueriesContext(connection) as captured:
        assert api("get", LIST, query | after | {"sort_order": order}).status_code == 200
    *_others, count, rows = (q["sql"] for q in captured.captured_queries if 'FROM "jobs_job"' in q["sql"])
    assert "LIMIT 10001" in count
    assert_uses_index(index, rows)


@pytest.mark.usefixtures("many")
def test_a_full_page_takes_two_queries_and_reads_no_other_columns(api: Api) -> None:
    with CaptureQueriesContext(connection) as captured:
        assert len(list_jobs(api, page_size=100)) == 100
    _count, rows = (q["sql"] for q in captured.captured_queries if 'FROM "jobs_job"' in q["sql"])
    for column in ("settings_json", "metadata", "template_media", "payload_digest", "claim_token"):
        assert column not in rows


def test_remaining_and_elapsed_times_of_a_job_under_way(api: Api) -> None:
    start = timezone.now() - timedelta(seconds=20)
    one = get_job(api, make_job(created_at=start, expires_at=start + timedelta(seconds=48)))
    assert 20_000 <= one["metrics"]["queue_wait_ms"] == one["metrics"]["total_elapsed_ms"] < 25_000
    assert one["metrics"]["processing_ms"] is None
    assert 23_000 < one["deadline"]["remaining_ms"] <= 28_000
    assert not one["deadline"]["is_expired"]
    assert one["deadline"]["expires_at"] == one["job"]["expires_at"]


def test_a_job_that_has_ended_keeps_its_times(api: Api) -> None:
    start = timezone.now() - timedelta(seconds=90)
    after = [start + timedelta(seconds=n) for n in (2, 9.5, 48)]
    one = get_job(
        api, make_picture_job(created_at=start, claimed_at=after[0], finalized_at=after[1], expires_at=after[2])
    )
    assert one["metrics"] == {"queue_wait_ms": 2000, "processing_ms": 7500, "total_elapsed_ms": 9500}
    assert one["deadline"] | {"expires_at": None} == {"expires_at": None, "remaining_ms": 0, "is_expired": True}


def test_details_keep_their_order_and_messages_are_translated(api: Api) -> None:
    one = make_picture_job()
    details = {"zoom": 1.5, "provider_id": "studio", "attempt": 1, "is_first": True, "abc": "x"}
    for status in ("received", "succeeded"):
        ProcessingLog.objects.create(job_id=one.pk, slot_id=one.slot_id, status=status, message="Photo received")
    with connection.cursor() as cursor:  # as the journal does
        cursor.execute("UPDATE stats_processinglog SET details = %s", [json.dumps(details)])
    steps = api("get", f"{LIST}/{one.pk}", headers={"Accept-Language": "ru"}).json()["processing_log"]
    assert [each["status"] for each in steps] == ["received", "succeeded"]
    assert [each["id"] for each in steps] == [
        str(pk) for pk in ProcessingLog.objects.order_by("id").values_list("pk", flat=True)
    ]
    assert list(steps[0]["details"].items()) == list(details.items())
    assert steps[0]["message"] == "Фото получено"


def test_the_inline_picture_is_removed_once_it_is_delivered(api: Api, booth: Booth) -> None:
    assert get_job(api, make_picture_job(result_inline_base64="AAAA"))["job"]["result_inline_base64"] == "AAAA"
    delivered = make_picture(booth)
    eventually(lambda: Job.objects.get(pk=delivered.pk).delivered_at)
    assert get_job(api, delivered)["job"]["result_inline_base64"] is None


def test_the_photo_has_a_path_until_it_is_removed(api: Api, booth: Booth) -> None:
    one = make_job(payload_path="payloads/x.jpg")
    assert get_job(api, one)["job"]["payload_path"] == "payloads/x.jpg"
    cancel(api, one)
    assert get_job(api, one)["job"]["payload_path"] is None
    assert get_job(api, make_picture(booth))["job"]["payload_path"] is None


@pytest.mark.parametrize("path", [f"{LIST}/{UUID(int=4)}", f"{LIST}/nonsense"])
def test_an_unknown_job_is_a_404(api: Api, path: str) -> None:
    check_refusal(api("get", path), 404, "not_found")
    check_refusal(api("post", f"{path}/cancel"), 404, "not_found")


def test_cancelling_ends_the_job_and_is_logged(api: Api) -> None:
    one = make_running_job()
    response = cancel(api, one)
    assert response.status_code == 202
    found = response.json()
    assert (found["job"]["is_finalized"], found["job"]["failure_reason"]) == (True, "cancelled")
    (step,) = get_job(api, one)["processing_log"]
    entry = LogEntry.objects.get()
    assert (step["message"], step["details"]["cancelled_by"]) == ("Cancelled by staff", entry.user.username)
    assert (entry.object_id, entry.change_message) == (str(one.pk), "Cancelled")


def test_a_job_that_has_ended_cannot_be_cancelled(api: Api) -> None:
    for one in (make_picture_job(), make_failed_job("timeout"), make_failed_job("cancelled")):
        before = get_job(api, one)["job"]
        check_refusal(cancel(api, one, {}), 409, "job_finalized")
        assert get_job(api, one)["job"] == before
    assert not LogEntry.objects.exists()


def test_reading_and_cancelling_need_different_scopes() -> None:
    one = make_job()
    check_refusal(cancel(make_api("stats:read"), one), 403, "forbidden")
    check_refusal(make_api("slots:write")("get", f"{LIST}/{one.pk}"), 403, "forbidden")
    assert not Job.objects.get().is_finalized


@pytest.mark.e2e
def test_cancelling_responds_to_the_booth_and_ends_the_call_at_once(
    api: Api, booth: Booth, web: httpx.Client, sandbox: Sandbox
) -> None:
    use_sandbox("queued", "never")
    wait = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1, "GET")
    started = time.monotonic()
    response = web.post(f"{LIST}/{Job.objects.get().pk}/cancel", headers=api.headers)
    reply = wait()
    assert time.monotonic() - started < 5
    assert (response.status_code, response.json()["job"]["failure_reason"]) == (202, "cancelled")
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (503, "job_cancelled")
    sandbox.wait_for_calls(1, "DELETE")
    assert eventually(lambda: stored_files() == [])


# Outcomes of a photo: provider, settings, and the last step in the log.
OUTCOMES = {
    "made": ("instant", {"scenario": "ok"}, "succeeded"),
    "polled": ("queued", {"scenario": "poll_fails_once"}, "succeeded"),
    "tried again": ("instant", {"scenario": "overloaded_first:2"}, "succeeded"),
    "refused": ("instant", {"scenario": "refuses"}, "failed"),
    "not a picture": ("instant", {"scenario": "not_an_image"}, "failed"),
    "lost": ("instant", {"scenario": "lost"}, "failed"),
    "sent back": ("instant", {"scenario": "refuses", "on_failure": "original"}, "failed"),
    "fell back": ("instant", {"scenario": "refuses", "fallback": FALLBACK}, "succeeded"),
}


@pytest.mark.e2e
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_log_of_each_outcome_is_as_the_document_says(api: Api, booth: Booth, outcome: str) -> None:
    provider, settings_json, last = OUTCOMES[outcome]
    set_slot(provider_id=provider, operation_id="image_edit", settings_json=settings_json)
    booth.post(jpeg())
    steps = get_job(api, Job.objects.get())["processing_log"]  # `Api` checks them against the document
    assert [step["status"] for step in (steps[0], steps[-1])] == ["received", last]
    assert all(step.keys() == STEP.keys() for step in steps)


@pytest.mark.e2e
def test_the_log_of_a_timeout_is_as_the_document_says(api: Api, booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("queued", "never")
    wait = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1, "GET")
    Job.objects.update(created_at=F("created_at") - timedelta(hours=1), expires_at=F("expires_at") - timedelta(hours=1))
    call_command("release_expired")
    assert wait().status == 504
    step = get_job(api, Job.objects.get())["processing_log"][-1]
    assert (step["status"], step["details"]["failure_reason"]) == ("timeout", "timeout")


def test_a_row_that_is_not_as_the_document_says_is_found(api: Api) -> None:
    """By the search that `conftest` makes after each test."""
    one = make_job()
    wrong = [
        {"error": "x" * 2049},
        {"attempt": 0},
        {"failure_reason": "weather"},
        {"some": [1]},
        {"expires_at": "soon"},
    ]
    for details in ({"provider_id": "studio", "more": None, "ratio": 1.5}, *wrong):
        ProcessingLog.objects.create(job_id=one.pk, slot_id=one.slot_id, status="received", details=details)
    assert len(log_rows.find_invalid_rows()) == len(wrong)
    ProcessingLog.objects.all().delete()
