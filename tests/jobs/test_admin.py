"""The admin's pages for jobs: fast with many rows, read-only, and cancelling."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from core import images
from jobs.models import Job, MediaObject, Process, PurgeRun
from jobs.storage import files
from stats.models import HourlyCounter, ProcessingLog
from tests.admin_client import browser, log_in, make_staff_user, post, text_of
from tests.conftest import Booth, in_background, jpeg, stored_files, use_sandbox
from tests.plans import assert_uses_index
from tests.providers.account_factories import create_past_calls
from tests.sandbox.server import Sandbox
from tests.streams import read_body

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("database")]

LIST = reverse("admin:jobs_job_changelist")
FAILURES = "job_(newest_failures|failures_of_slot)"  # of as few as there are here, Postgres takes either

# Twenty thousand jobs that are over, by the thousand one of each failure; ten are a seldom used slot's and provider's.
MANY = """
INSERT INTO jobs_job (id, slot_id, provider_id, operation_id, settings_json, payload_mime_type, payload_digest,
    is_finalized, failure_reason, created_at, expires_at, finalized_at,
    result_checksum, result_mime_type, result_size_bytes, result_expires_at)
SELECT gen_random_uuid(), CASE WHEN n > 10 THEN 'slot-001' ELSE 'slot-004' END,
    CASE WHEN n > 10 THEN 'studio' ELSE 'queued' END,
    'image_edit', '{}', 'image/jpeg', '\\x00', true, failure, at, at + '48 s', at + '1 s',
    CASE WHEN failure IS NULL THEN 'sum' END, CASE WHEN failure IS NULL THEN 'image/jpeg' END,
    CASE WHEN failure IS NULL THEN 1000 END, CASE WHEN failure IS NULL THEN at + '72 h' END
FROM generate_series(1, 20000) AS n,
    LATERAL (SELECT now() - n * interval '1 minute' AS at,
             (ARRAY['timeout', 'provider_error', 'cancelled'])[n % 1000] AS failure) AS made
"""


@pytest.fixture
def admin() -> Client:
    return browser(superuser=True)


@pytest.fixture
def many_jobs(database: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(MANY)
        cursor.execute("ANALYZE jobs_job")


def make_job(**changes: Any) -> Job:
    """A pending job, unless the changes say otherwise, of a provider that no worker of the tests claims for."""
    now = timezone.now()
    known: dict[str, Any] = {
        "slot_id": "slot-003",
        "provider_id": "nobody",
        "operation_id": "image_edit",
        "settings_json": {"look": "sepia"},
        "payload_mime_type": "image/jpeg",
        "payload_digest": b"\1\2",
        "created_at": now,
        "expires_at": now + timedelta(seconds=48),
    }
    return Job.objects.create(**known | changes)


def make_picture_job(**changes: Any) -> Job:
    """A job with a picture."""
    now = timezone.now()
    known = {
        "provider_id": "studio",
        "is_finalized": True,
        "finalized_at": now,
        "result_checksum": "sum",
        "result_mime_type": "image/jpeg",
        "result_size_bytes": 2048,
        "result_file_path": "results/x.jpg",
        "result_expires_at": now + timedelta(hours=72),
    }
    return make_job(**known | changes)


def make_failed_job(reason: str, error: str | None = None) -> Job:
    return make_job(is_finalized=True, finalized_at=timezone.now(), failure_reason=reason, error_reason=error)


def make_running_job() -> Job:
    later = timezone.now() + timedelta(seconds=8)
    return make_job(status="processing", claim_token=uuid4(), lease_expires_at=later, claimed_at=timezone.now())


def job_page(job: Job) -> str:
    return reverse("admin:jobs_job_change", args=[job.pk])


def cancel(client: Client, *jobs: Job, confirmed: bool = True) -> Any:
    data = {"action": "cancel", "_selected_action": [job.pk for job in jobs]}
    return client.post(LIST, data | ({"confirmed": "yes"} if confirmed else {}), follow=True)


def list_jobs(client: Client, **query: str) -> list[Job]:
    return list(client.get(LIST, query).context["cl"].result_list)


def capture_job_queries(client: Client, query: dict[str, str]) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(LIST, query).status_code == 200
    return [q["sql"] for q in captured.captured_queries if 'FROM "jobs_job"' in q["sql"]]


@pytest.mark.usefixtures("many_jobs")
def test_a_full_page_takes_as_many_queries_as_an_empty_one(admin: Client, django_assert_num_queries: Any) -> None:
    for query in ({"p": "1"}, {"state": "working"}):
        with django_assert_num_queries(5):  # session, user, slots to filter by, bounded count, rows
            rows = admin.get(LIST, query).context["cl"].result_list
        assert len(rows) == (0 if "state" in query else 100)


@pytest.mark.usefixtures("many_jobs")
def test_the_list_reads_no_column_that_it_does_not_show(admin: Client) -> None:
    *_count, rows = capture_job_queries(admin, {})
    for column in ("settings_json", "metadata", "result_inline_base64", "template_media"):
        assert column not in rows


@pytest.mark.usefixtures("many_jobs")
@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "job_newest_first"),
        ({"p": "40"}, "job_newest_first"),
        ({"state": "picture"}, "job_newest_first"),
        ({"state": "waiting"}, "job_unfinished"),
        ({"state": "working"}, "job_unfinished"),
        ({"state": "timeout"}, FAILURES),
        ({"state": "provider_error"}, FAILURES),
        ({"state": "cancelled"}, FAILURES),
        ({"provider_id": "queued"}, "job_newest_of_provider"),
        ({"slot__id__exact": "slot-004"}, "job_newest_of_slot"),
        ({"q": "0b9cbb83-5a3e-4d64-9c34-5dbe2d4fb1d5"}, "jobs_job_pkey"),
    ],
)
def test_each_filter_has_its_index(admin: Client, query: dict[str, str], index: str) -> None:
    count, rows = capture_job_queries(admin, query)
    assert "LIMIT 10001" in count
    assert_uses_index(index, rows, "jobs_job")


@pytest.mark.usefixtures("many_jobs")
def test_counting_stops_and_says_so(admin: Client) -> None:
    assert "more than 10000 jobs" in text_of(admin.get(LIST))
    assert "20 jobs" in text_of(admin.get(LIST, {"state": "cancelled"}))
    assert admin.get(LIST, {"p": "100"}).status_code == 200


@pytest.mark.parametrize("query", [{"booth_id__contains": "x"}, {"claim_token__isnull": "0"}])
def test_the_address_filters_by_nothing_slow(admin: Client, query: dict[str, str]) -> None:
    assert admin.get(LIST, query).status_code == 400


@pytest.mark.parametrize("query", [{"o": "5"}, {"_facets": "True"}, {"all": ""}])
@pytest.mark.usefixtures("many_jobs")
def test_the_address_neither_sorts_nor_counts_nor_shows_all(admin: Client, query: dict[str, str]) -> None:
    assert capture_job_queries(admin, query) == capture_job_queries(admin, {})


def test_states_are_words_for_people_and_filters(admin: Client) -> None:
    jobs = {
        "waiting": make_job(),
        "working": make_running_job(),
        "picture": make_picture_job(),
        "timeout": make_failed_job("timeout", "slow"),
        "provider_error": make_failed_job("provider_error", "refused"),
        "cancelled": make_failed_job("cancelled"),
    }
    for state, one in jobs.items():
        assert list_jobs(admin, state=state) == [one]
    page = text_of(admin.get(LIST))
    for word in ("waiting", "working", "picture", "timed out", "provider error", "cancelled"):
        assert word in page
    assert "the provider's safety rules refused the photo or the prompt" in page
    assert len(list_jobs(admin, state="nonsense")) == 6


def test_a_test_run_is_marked_among_the_others(admin: Client) -> None:
    make_picture_job(), make_picture_job(source="test")
    assert text_of(admin.get(LIST)).count("test run") == 1


def test_a_job_is_found_by_its_id_or_a_link_that_has_it(admin: Client) -> None:
    wanted, _other = make_job(), make_job()
    for text in (str(wanted.pk), f"http://booth.example/r/{wanted.pk}?download=1", str(wanted.pk).upper()):
        assert list_jobs(admin, q=text) == [wanted]
    assert list_jobs(admin, q="O'Hara") == []


def test_pictures_are_shown_as_long_as_they_are_kept(admin: Client) -> None:
    kept = make_picture_job()
    files.save(str(kept.result_file_path), jpeg())
    files.save_thumbnail(str(kept.result_file_path))
    over = make_picture_job(result_expires_at=timezone.now() - timedelta(seconds=1))
    purged, test_run = make_picture_job(result_file_path=None), make_picture_job(source="test")
    content = admin.get(LIST).content.decode()
    assert content.count('class="thumbnail"') == 1
    source = content.partition('class="thumbnail" src="')[2].partition('"')[0]
    thumbnail = admin.get(source)
    assert thumbnail.headers["Content-Type"] == "image/jpeg"
    assert images.probe(read_body(thumbnail)).mime_type == "image/jpeg"
    assert f"/r/{kept.pk}" in text_of(admin.get(job_page(kept)))
    for one in (over, purged, test_run):
        assert f"/r/{one.pk}" not in text_of(admin.get(job_page(one)))


def test_a_jobs_page_tells_its_whole_story(admin: Client, django_assert_num_queries: Any) -> None:
    start = timezone.now() - timedelta(seconds=20)
    one = make_picture_job(
        created_at=start,
        claimed_at=start + timedelta(seconds=2),
        finalized_at=start + timedelta(seconds=9.5),
        metadata={"id": "CANON-7", "survey1": "<b>yes</b>"},
        provider_job_reference="ref-1",
    )
    for step in ("received", "dispatched", "succeeded"):
        ProcessingLog.objects.create(job_id=one.pk, slot_id=one.slot_id, status=step, message=f"It was {step}")
    with django_assert_num_queries(6):  # session, user, job, its slot, its log, its calls
        answer = admin.get(job_page(one))
    page = text_of(answer)
    for words in ("2.0", "7.5", "9.5", "Sepia", "Look", '"look": "sepia"', "CANON-7", "ref-1", "2.0 KB", "0102"):
        assert words in page
    assert page.index("It was received") < page.index("It was dispatched") < page.index("It was succeeded")
    assert "&lt;b&gt;yes" in answer.content.decode()


def test_a_jobs_page_tells_what_its_calls_cost(admin: Client) -> None:
    """What came to nothing is kept apart, and what is not known is not counted as nothing."""
    one = make_picture_job()
    create_past_calls(1, 9, job_id=one.pk, outcome="refused", reason="refused", cost_usd=Decimal("0.0010"))
    create_past_calls(2, 6, job_id=one.pk, outcome="ambiguous", reason="slow")
    create_past_calls(1, 3, job_id=one.pk, model="nano", cost_usd=Decimal("0.0391"), is_fallback=True)
    create_past_calls(1, 3)  # another job's
    page = text_of(admin.get(job_page(one)))
    assert page.count("Google Gemini") == 4
    assert "Google Gemini (fallback) nano made a picture 0.0 0.0391" in page
    assert "the provider did not answer in time 0.0 unknown" in page
    costs = (
        "made a picture 0.0391 refused 0.0010 may have been billed unknown for 2 calls",
        "in all 0.0401 + unknown for 2 calls",
    )
    assert " ".join(costs) in page


def test_the_lease_token_is_on_no_page(admin: Client) -> None:
    one = make_running_job()
    page = text_of(admin.get(job_page(one)))
    assert "in 47 s" in page or "in 48 s" in page
    assert str(one.claim_token) not in page


@pytest.mark.parametrize("model", ["job", "mediaobject", "process", "purgerun"])
def test_histories_are_read_only_even_for_a_superuser(admin: Client, model: str) -> None:
    one = make_picture_job()
    rows: dict[str, Any] = {
        "job": one,
        "mediaobject": MediaObject(job=one, path="p", mime_type="m", size_bytes=1, expires_at=one.expires_at),
        "process": Process(kind="web", name="host 1", is_listening=True),
        "purgerun": PurgeRun(kinds=["media"], started_at=timezone.now()),
    }
    rows[model].save()
    assert admin.get(reverse(f"admin:jobs_{model}_changelist")).status_code == 200
    assert admin.get(reverse(f"admin:jobs_{model}_change", args=[rows[model].pk])).status_code == 200
    assert admin.get(reverse(f"admin:jobs_{model}_add")).status_code == 403
    for verb in ("change", "delete"):
        assert (
            admin.post(reverse(f"admin:jobs_{model}_{verb}", args=[rows[model].pk]), {"post": "yes"}).status_code == 403
        )
    Process.objects.all().delete()


def test_cancelling_asks_first(admin: Client) -> None:
    one = make_job()
    page = text_of(cancel(admin, one, confirmed=False))
    assert str(one.pk) in page
    assert "waiting" in page
    assert not Job.objects.get().is_finalized


@pytest.mark.parametrize("state", ["waiting", "working"])
def test_a_job_is_cancelled_logged_and_leaves_no_photo(state: str) -> None:
    staff = make_staff_user("jobs.view_job", "jobs.cancel_job")
    client = Client()
    client.force_login(staff)
    one = make_job() if state == "waiting" else make_running_job()
    Job.objects.filter(pk=one.pk).update(payload_path=f"payloads/{one.pk}.jpg")
    files.save(f"payloads/{one.pk}.jpg", jpeg())
    page = text_of(cancel(client, one))
    assert f"The job was cancelled: {one.pk}." in page
    assert "Cancel this job" not in page
    assert Job.objects.get().failure_reason == "cancelled"
    step = ProcessingLog.objects.get()
    assert (step.message, step.details["cancelled_by"]) == ("Cancelled by staff", staff.username)
    assert HourlyCounter.objects.get().cancelled == 1
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id, entry.change_message) == (staff, str(one.pk), "Cancelled")
    assert stored_files() == []


def test_what_has_ended_stays_as_it_is(admin: Client) -> None:
    over, open_job = make_picture_job(), make_job()
    page = text_of(cancel(admin, over, open_job))
    assert f"The job was cancelled: {open_job.pk}." in page
    assert f"The job had already ended, nothing was changed: {over.pk}." in page
    assert Job.objects.get(pk=over.pk).failure_reason is None
    assert LogEntry.objects.get().object_id == str(open_job.pk)


def test_who_may_only_look_cannot_cancel() -> None:
    one = make_job()
    viewer = browser("jobs.view_job")
    assert "Cancel this job" not in text_of(viewer.get(job_page(one)))
    assert "Cancel the selected jobs" not in text_of(viewer.get(LIST))
    cancel(viewer, one)
    assert not Job.objects.get().is_finalized


def test_the_right_to_cancel_alone_shows_no_job() -> None:
    one = make_job()
    assert cancel(browser("jobs.cancel_job"), one).status_code == 403
    assert not Job.objects.get().is_finalized


def test_cancelling_takes_a_post(admin: Client) -> None:
    one = make_job()
    admin.get(LIST, {"action": "cancel", "_selected_action": str(one.pk), "confirmed": "yes"})
    assert not Job.objects.get().is_finalized
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(make_staff_user(superuser=True))
    assert cancel(strict, one).status_code == 403


def test_a_page_of_a_job_that_is_not_there(admin: Client) -> None:
    for name in (str(uuid4()), "nonsense"):
        assert "doesn’t exist" in text_of(admin.get(reverse("admin:jobs_job_change", args=[name]), follow=True))


@pytest.mark.e2e
def test_a_waiting_booth_hears_of_it_at_once(booth: Booth, web: httpx.Client, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    wait = in_background(lambda: booth.post(jpeg(), survey1="blue"))
    sandbox.wait_for_calls(1)
    log_in(web, make_staff_user("jobs.view_job", "jobs.cancel_job"))
    one = Job.objects.get()
    page = web.get(job_page(one)).text
    assert "Cancel this job" in page
    assert "blue" in page
    assert "open sesame" not in page
    started = time.monotonic()
    answer = post(web, LIST, {"action": "cancel", "_selected_action": str(one.pk), "confirmed": "yes"})
    assert answer.headers["Location"] == job_page(one)
    reply = wait()
    assert time.monotonic() - started < 5
    assert reply.status == 503
    assert json.loads(reply.body)["error"]["code"] == "job_cancelled"
    assert stored_files() == []
