"""`POST /api/slots/{slot_id}/test-run`: processed like a booth's photo, and kept apart from the booths' photos."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, transaction
from django.test.client import MULTIPART_CONTENT
from django.utils import timezone
from pytest_django.fixtures import Settings

from ingest.models import IngestSettings
from jobs.lifecycle import cancel_job
from jobs.models import Job
from jobs.queue.verbs import Queue, QueueFull
from jobs.retention.purge import purge
from jobs.storage import links
from providers.models import ProviderAccount, ProviderCall
from slots import budget
from slots.models import Slot
from stats.models import HourlyCounter, ProcessingLog
from tests.api import check_refusal, make_api, request_checked
from tests.conftest import Booth, Processes, in_background, jpeg, set_slot, stored_files, use_sandbox
from tests.ingest.helpers import connect, eventually, fill_queue, gif, nothing_left, pad, refusal, serialize_request
from tests.jobs.results import age, result_file, thumbnail_file
from tests.queue_helpers import admit_job
from tests.sandbox.server import Sandbox, developed

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

PATH = "/api/slots/slot-001/test-run"
OK = {"scenario": "ok"}


class Staff:
    """A member of staff who posts test runs. Every response is checked against the document."""

    def __init__(self, web: httpx.Client) -> None:
        self.web = web
        self.headers = make_api("slots:write", "stats:read").headers

    def run(self, photo: bytes | None = None, slot: str = "slot-001", **fields: Any) -> httpx.Response:
        """Fields that are not text are sent as JSON."""
        file = {"file": ("any.gif", jpeg() if photo is None else photo, "text/plain")}
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        path = f"/api/slots/{slot}/test-run"
        return request_checked(self.web, "post", path, data=form, files=file, headers=self.headers)

    def get(self, path: str) -> Any:
        return request_checked(self.web, "get", path, headers=self.headers).json()


@pytest.fixture
def staff(web: httpx.Client) -> Staff:
    return Staff(web)


def test_the_response_is_the_picture(staff: Staff) -> None:
    use_sandbox("instant")
    photo = jpeg()
    response = staff.run(photo)
    assert (response.status_code, response.content) == (200, developed(photo))
    job = Job.objects.get()
    assert (job.source, job.failure_reason, job.metadata) == ("test", None, {})
    assert (response.headers["X-Job-Id"], response.headers["X-Outcome"]) == (str(job.pk), "made")
    assert not {"x-result-url", "x-result-expires-at"} & set(response.headers)
    assert response.headers["Cache-Control"] == "no-store"
    assert eventually(lambda: Job.objects.get().delivered_at) < job.expires_at  # at once, not at the deadline


# Unsaved


def test_what_is_not_saved_counts_for_this_photo_only(staff: Staff) -> None:
    use_sandbox("instant", "refuses")
    before = Slot.objects.filter(pk="slot-001").values().get()
    response = staff.run(settings_json=OK | {"output": {"format": "png"}})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "image/png")
    assert Job.objects.get().settings_json == OK | {"output": {"format": "png"}}
    assert Slot.objects.filter(pk="slot-001").values().get() == before
    assert staff.run().status_code == 502


def test_the_saved_settings_go_with_another_provider(staff: Staff) -> None:
    use_sandbox("instant")
    assert staff.run(provider_id="queued").status_code == 200
    assert (Job.objects.get().provider_id, Slot.objects.get(pk="slot-001").provider_id) == ("queued", "instant")


def test_a_slot_that_is_off_can_be_tested(staff: Staff, booth: Booth) -> None:
    use_sandbox("instant")
    set_slot(is_active=False)
    assert (booth.post(jpeg()).status, staff.run().status_code) == (404, 200)


def test_saved_settings_are_not_validated_again(staff: Staff, booth: Booth) -> None:
    """Though they could not be saved like this today."""
    use_sandbox("instant", frame="gone")
    response = staff.run()
    assert refusal(response, 502, "provider_error")["reason"] == "bad_template"
    assert refusal(booth.post(jpeg()), 502, "provider_error")["reason"] == "bad_template"


def test_its_log_names_the_user(staff: Staff, booth: Booth) -> None:
    use_sandbox("instant")
    ids = staff.run().headers["X-Job-Id"], booth.post(jpeg()).headers["x-job-id"]
    first = [staff.get(f"/api/jobs/{job_id}")["processing_log"][0] for job_id in ids]
    assert [step["status"] for step in first] == ["received"] * 2
    assert [step["details"].get("asked_by") for step in first] == [User.objects.get().get_username(), None]


# Refused


def post_in_process(slot: str = "slot-001", query: str = "", **form: Any) -> Any:
    """For requests that are refused before admission. None removes a field."""
    fields = {"file": SimpleUploadedFile("any.jpg", jpeg())} | form
    fields = {name: value for name, value in fields.items() if value is not None}
    return make_api("slots:write")("post", f"/api/slots/{slot}/test-run{query}", fields, content_type=MULTIPART_CONTENT)


@pytest.mark.parametrize(
    ("field", "form"),
    [
        ("file", {"file": None}),
        ("file", {"file": SimpleUploadedFile("any.jpg", b"")}),
        ("file", {"file": "photo"}),
        ("fileToUpload", {"fileToUpload": SimpleUploadedFile("any.jpg", b"x")}),
        ("name", {"name": "Noir"}),
        ("force", {"query": "?force=true"}),
        ("file", {"file": [SimpleUploadedFile("any.jpg", jpeg()), SimpleUploadedFile("any.jpg", jpeg())]}),
        ("operation_id", {"operation_id": ["image_edit", "image_edit"]}),
    ],
)
def test_what_is_malformed_is_named(field: str, form: dict[str, Any]) -> None:
    assert field in check_refusal(post_in_process(**form), 400, "invalid_payload")
    assert nothing_left()


@pytest.mark.parametrize(
    ("field", "form"),
    [
        ("settings_json", {"settings_json": "{"}),
        ("settings_json", {"settings_json": "[]"}),
        ("settings_json", {"settings_json": "[" * 100_000}),
        ("settings_json", {"settings_json": '{"strength": NaN}'}),
        ("settings_json.wrong", {"settings_json": '{"look": "noir", "wrong": 1}'}),
        ("settings_json.look", {"settings_json": "{}"}),
        ("settings_json.frame", {"settings_json": '{"look": "noir", "frame": "none"}'}),
        ("settings_json.style", {"operation_id": "style_transfer"}),
        ("settings_json.prompt", {"provider_id": "gemini"}),
        ("provider_id", {"provider_id": "nobody"}),
        ("operation_id", {"operation_id": "nothing"}),
        ("operation_id", {"operation_id": ""}),
    ],
)
def test_settings_that_could_not_be_saved_are_refused(field: str, form: dict[str, Any]) -> None:
    assert field in check_refusal(post_in_process(**form), 422, "validation_failed")
    assert nothing_left()


@pytest.mark.parametrize("slot", ["slot-999", "slot-002", "slot-1", "slot-001%00"])
def test_an_unknown_slot_is_a_404(slot: str) -> None:
    set_slot("slot-002", archived_at=timezone.now())
    check_refusal(post_in_process(slot), 404, "not_found")


def test_a_slot_that_is_archived_meanwhile_is_a_404(staff: Staff) -> None:
    """Archived after the view has read the slot and before the admission reads it, which waits for the lock here."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE ingest_ingestsettings")
        wait = in_background(staff.run)
        cursor.execute("SELECT pg_backend_pid()")
        (own_pid,) = cursor.fetchone()
        assert eventually(lambda: is_waited_for(own_pid))
        set_slot(archived_at=timezone.now())
    refusal(wait(), 404, "not_found")
    assert nothing_left()


def is_waited_for(pid: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE %s = ANY(pg_blocking_pids(pid)))", [pid])
        return bool(cursor.fetchone()[0])


PHOTOS = {"half": jpeg()[: len(jpeg()) // 2], "GIF": gif(), "too large": pad(jpeg())}


@pytest.mark.parametrize("photo", PHOTOS.values(), ids=PHOTOS)
def test_photos_are_refused_as_from_a_booth(staff: Staff, booth: Booth, photo: bytes) -> None:
    set_slot(size_limit_mb=1)
    response, reply = staff.run(photo), booth.post(photo)
    assert (response.status_code, response.json()) == (reply.status, json.loads(reply.body))
    assert response.status_code in (400, 413, 415)
    assert nothing_left()


def test_a_full_queue_refuses_it(staff: Staff, settings: Settings) -> None:
    for _ in range(settings.QUEUE_MAX_IN_FLIGHT_JOBS):
        fill_queue()
    response = staff.run()
    refusal(response, 429, "queue_busy")
    assert response.headers["Retry-After"]
    assert stored_files() == []


def test_half_of_the_queue_is_reserved_for_booths(staff: Staff, booth: Booth, settings: Settings) -> None:
    use_sandbox("instant")
    for _ in range(settings.QUEUE_MAX_IN_FLIGHT_JOBS // 2 - 1):
        fill_queue()
    assert staff.run().status_code == 200
    fill_queue()
    refusal(staff.run(), 429, "queue_busy")
    assert booth.post(jpeg()).status == 200


@pytest.mark.parametrize(("max_jobs", "tests"), [(1, 1), (2, 1), (3, 2), (12, 6)])
async def test_at_least_one_test_run_is_admitted(queue: Queue, settings: Settings, max_jobs: int, tests: int) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = max_jobs
    for _ in range(tests):
        await admit_job(queue, provider_id="nobody", source="test")
    with pytest.raises(QueueFull):
        await admit_job(queue, provider_id="nobody", source="test")


def test_a_provider_that_is_off_is_refused_at_once(staff: Staff) -> None:
    use_sandbox("instant")
    ProviderAccount.objects.create(provider_id="queued", is_enabled=False)
    refusal(staff.run(provider_id="queued"), 503, "provider_unavailable")
    assert not Job.objects.exists()
    assert staff.run().status_code == 200


def test_it_costs_and_is_refused_when_the_budget_is_used_up(staff: Staff) -> None:
    use_sandbox("instant")
    assert staff.run(settings_json=OK | {"daily_budget": 5}).status_code == 200
    ProviderCall.objects.update(cost_usd=5)  # the sandbox is free of charge
    assert budget.load_budgets([Slot(pk="slot-001", settings_json={"daily_budget": 5})])["slot-001"].level == 100
    refusal(staff.run(settings_json=OK | {"daily_budget": 5}), 429, "budget_exhausted")
    assert staff.run(settings_json=OK | {"daily_budget": 6}).status_code == 200


def test_a_queue_that_does_not_respond_is_reported(staff: Staff) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE ingest_ingestsettings")
        refusal(staff.run(), 503, "queue_unavailable")
    assert nothing_left()


def test_errors_speak_the_readers_language(staff: Staff) -> None:
    use_sandbox("instant", "refuses")
    staff.headers |= {"Accept-Language": "ru"}
    assert re.search("[а-я]", staff.run().json()["error"]["message"])


# Processed like a booth's photo


def test_why_there_is_no_picture_is_in_its_log(staff: Staff) -> None:
    use_sandbox("instant", "refuses")
    details = refusal(staff.run(), 502, "provider_error")
    assert details == {"reason": "refused", "job_id": str(Job.objects.get().pk)}
    steps = staff.get(f"/api/jobs/{details['job_id']}")["processing_log"]
    assert [step["status"] for step in steps] == ["received", "dispatched", "provider_responded", "failed"]
    assert eventually(lambda: stored_files() == [])


def test_fallback_and_original_work_as_for_a_booth(staff: Staff) -> None:
    refused_settings = {"scenario": "refuses", "on_failure": "original"}
    fallback = {"provider_id": "queued", "operation_id": "image_edit", "settings_json": OK}
    use_sandbox("instant", **refused_settings)
    responses = [staff.run(), staff.run(settings_json=refused_settings | {"fallback": fallback})]
    assert [response.headers["X-Outcome"] for response in responses] == ["original", "fallback"]
    assert [response.content for response in responses] == [jpeg(), developed(jpeg())]
    assert eventually(lambda: [path for path in stored_files() if path.startswith("payloads/")] == [])


def test_the_picture_is_never_wrapped(staff: Staff) -> None:
    use_sandbox("instant", reply="multipart")
    response = staff.run()
    assert (response.headers["Content-Type"], response.content) == ("image/jpeg", developed(jpeg()))


def test_one_that_is_cancelled_is_answered_at_once(staff: Staff, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    wait = in_background(staff.run)
    sandbox.wait_for_calls(1)
    assert cancel_job(Job.objects.get().pk, "serg")
    refusal(wait(), 503, "job_cancelled")
    assert stored_files() == []


def test_at_the_deadline_it_ends_for_good(staff: Staff, sandbox: Sandbox) -> None:
    IngestSettings.objects.update(sync_response_seconds=10)
    use_sandbox("queued", "never", finish_late=True)
    details = refusal(staff.run(), 504, "sync_timeout")
    assert details["job_id"] == str(Job.objects.get().pk)
    sandbox.wait_for_calls(1, "DELETE")  # nobody waits for a late picture


def test_a_disconnect_cancels_it(staff: Staff, sandbox: Sandbox) -> None:
    """Because nobody could fetch its picture."""
    use_sandbox("queued", "never")
    request = httpx.Request("POST", f"{staff.web.base_url}{PATH}", headers=staff.headers, files={"file": jpeg()})
    with connect(str(staff.web.base_url)) as line:
        line.sendall(serialize_request(request))
        sandbox.wait_for_calls(1)
    sandbox.wait_for_calls(1, "DELETE")
    job = Job.objects.get()
    last = ProcessingLog.objects.filter(job_id=job.pk).latest("id")
    assert (job.failure_reason, last.status, last.details.get("cancelled_by")) == ("cancelled", "failed", None)
    assert last.message.startswith("Cancelled: nobody waits")
    assert eventually(lambda: stored_files() == [])


def test_waiting_test_runs_do_not_exhaust_the_connections(processes: Processes, sandbox: Sandbox) -> None:
    """More test runs than Django has database connections."""
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS="22")
    processes.worker()
    use_sandbox("instant", "hold", max_concurrent=3)
    use_sandbox("instant", "ok", "slot-002")
    with httpx.Client(base_url=processes.url, timeout=70) as web:
        staff = Staff(web)
        waits = [in_background(staff.run) for _ in range(11)]
        assert eventually(lambda: Job.objects.count() == 11)
        sandbox.wait_for_calls(3)
        assert len(staff.get("/api/slots")["data"]) == 15
        assert web.get("/admin/login/").status_code == 200
        assert Booth(processes.url).post(jpeg(), "slot-002").status == 200
        sandbox.let_go()
        assert [wait().status_code for wait in waits] == [200] * 11


# Kept apart from the booths' photos


def test_it_joins_nobodys_job_and_nobody_joins_it(staff: Staff, booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    waits: list[Callable[[], Any]] = []
    runs: list[Callable[[], Any]] = [staff.run, lambda: booth.post(jpeg()), staff.run]
    for number, run in enumerate(runs, 1):
        waits.append(in_background(run))
        sandbox.wait_for_calls(number)
    sandbox.let_go()
    assert len({wait().headers["x-job-id"] for wait in waits}) == 3


@pytest.fixture
def job_pair(staff: Staff, booth: Booth) -> tuple[Job, Job]:
    """A test run and a booth's job, both with a picture."""
    use_sandbox("instant")
    ids = staff.run().headers["X-Job-Id"], booth.post(jpeg()).headers["x-job-id"]
    eventually(lambda: Job.objects.filter(delivered_at__isnull=False).count() == 2)
    test_job, booth_job = (Job.objects.get(pk=job_id) for job_id in ids)
    return test_job, booth_job


def test_it_is_counted_apart(staff: Staff, job_pair: tuple[Job, Job]) -> None:
    counters = HourlyCounter.objects.order_by("source")
    assert [(each.source, each.success) for each in counters] == [("booth", 1), ("test", 1)]
    figures = staff.web.get("/metrics").text
    for name in ("ingest_requests_total", "ingest_success_total", "ingest_duration_seconds_count"):
        assert f'{name}{{provider="instant",slot_id="slot-001"}} 1.0' in figures


def test_it_is_in_no_list(staff: Staff, job_pair: tuple[Job, Job]) -> None:
    test_job, booth_job = job_pair
    jobs, slot = staff.get("/api/jobs"), staff.get("/api/slots/slot-001")
    assert [each["job"]["id"] for each in jobs["data"]] == [str(booth_job.pk)]
    assert jobs["meta"]["total"] == 1
    assert [each["job_id"] for each in slot["recent_results"]] == [str(booth_job.pk)]
    assert staff.get(f"/api/jobs/{test_job.pk}")["job"]["is_finalized"]


def test_it_has_no_public_link(staff: Staff, job_pair: tuple[Job, Job]) -> None:
    for job, status in zip(job_pair, (404, 200), strict=True):
        files = [links.file_url(job)]
        assert {staff.web.get(path).status_code for path in [f"/r/{job.pk}", *files]} == {status}
    assert staff.web.get(f"/public/results/{job_pair[0].pk}").status_code == 404


def test_its_picture_is_stored_for_its_response_only(job_pair: tuple[Job, Job]) -> None:
    test_job, booth_job = job_pair
    eventually(lambda: thumbnail_file(booth_job).exists())
    assert not thumbnail_file(test_job).exists()  # thumbnails are made in order
    assert test_job.result_inline_base64 is None
    age(test_job, 0.1)
    age(booth_job, 0.1)
    purge(["results"])
    assert (result_file(test_job).exists(), result_file(booth_job).exists()) == (False, True)
