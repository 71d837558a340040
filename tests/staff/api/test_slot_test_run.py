"""`POST /api/slots/{slot_id}/test-run`: what staff try, the way of a booth's photo, and no trace of it among those."""

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
from tests.ingest.helpers import connect, eventually, full_queue, gif, nothing_left, padded, raw, refusal
from tests.jobs.results import age, result_file, thumbnail_file
from tests.queue_helpers import admitted
from tests.sandbox.server import Sandbox, developed

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

PATH = "/api/slots/slot-001/test-run"
OK = {"scenario": "ok"}


class Staff:
    """A member of staff with the photo in hand; every answer is held to the document."""

    def __init__(self, web: httpx.Client) -> None:
        self.web = web
        self.headers = make_api("slots:write", "stats:read").headers

    def run(self, photo: bytes | None = None, slot: str = "slot-001", **given: Any) -> httpx.Response:
        """`settings_json` goes as JSON, unless it is text."""
        file = {"file": ("any.gif", jpeg() if photo is None else photo, "text/plain")}
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
        path = f"/api/slots/{slot}/test-run"
        return request_checked(self.web, "post", path, data=form, files=file, headers=self.headers)

    def get(self, path: str) -> Any:
        return request_checked(self.web, "get", path, headers=self.headers).json()


@pytest.fixture
def staff(web: httpx.Client) -> Staff:
    return Staff(web)


def test_it_answers_the_picture(staff: Staff) -> None:
    use_sandbox("instant")
    photo = jpeg()
    answer = staff.run(photo)
    assert (answer.status_code, answer.content) == (200, developed(photo))
    job = Job.objects.get()
    assert (job.source, job.failure_reason, job.metadata) == ("test", None, {})
    assert (answer.headers["X-Job-Id"], answer.headers["X-Outcome"]) == (str(job.pk), "made")
    assert not {"x-result-url", "x-result-expires-at"} & set(answer.headers)
    assert answer.headers["Cache-Control"] == "no-store"
    assert eventually(lambda: Job.objects.get().delivered_at) < job.expires_at  # as soon as it was there


# Unsaved


def test_what_is_not_saved_counts_for_this_photo_only(staff: Staff) -> None:
    use_sandbox("instant", "refuses")
    before = Slot.objects.filter(pk="slot-001").values().get()
    answer = staff.run(settings_json=OK | {"output": {"format": "png"}})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    assert Job.objects.get().settings_json == OK | {"output": {"format": "png"}}
    assert Slot.objects.filter(pk="slot-001").values().get() == before
    assert staff.run().status_code == 502


def test_the_saved_settings_go_with_another_provider(staff: Staff) -> None:
    use_sandbox("instant")
    assert staff.run(provider_id="queued").status_code == 200
    assert (Job.objects.get().provider_id, Slot.objects.get(pk="slot-001").provider_id) == ("queued", "instant")


def test_a_slot_that_is_off_can_be_tried(staff: Staff, booth: Booth) -> None:
    use_sandbox("instant")
    set_slot(is_active=False)
    assert (booth.post(jpeg()).status, staff.run().status_code) == (404, 200)


def test_what_is_saved_is_tried_as_a_booth_would_meet_it(staff: Staff, booth: Booth) -> None:
    """Though it could not be saved so today."""
    use_sandbox("instant", frame="gone")
    answer = staff.run()
    assert refusal(answer, 502, "provider_error")["reason"] == "bad_template"
    assert refusal(booth.post(jpeg()), 502, "provider_error")["reason"] == "bad_template"


def test_its_log_says_who_asked(staff: Staff, booth: Booth) -> None:
    use_sandbox("instant")
    ids = staff.run().headers["X-Job-Id"], booth.post(jpeg()).headers["x-job-id"]
    first = [staff.get(f"/api/jobs/{job_id}")["processing_log"][0] for job_id in ids]
    assert [step["status"] for step in first] == ["received"] * 2
    assert [step["details"].get("asked_by") for step in first] == [User.objects.get().get_username(), None]


# Refused


def ask(slot: str = "slot-001", query: str = "", **form: Any) -> Any:
    """Of those that never come as far as the queue; None takes a field away."""
    given = {"file": SimpleUploadedFile("any.jpg", jpeg())} | form
    given = {name: value for name, value in given.items() if value is not None}
    return make_api("slots:write")("post", f"/api/slots/{slot}/test-run{query}", given, content_type=MULTIPART_CONTENT)


@pytest.mark.parametrize(
    ("field", "given"),
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
def test_what_is_malformed_is_named(field: str, given: dict[str, Any]) -> None:
    assert field in check_refusal(ask(**given), 400, "invalid_payload")
    assert nothing_left()


@pytest.mark.parametrize(
    ("field", "given"),
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
def test_what_could_not_be_saved_is_not_tried(field: str, given: dict[str, Any]) -> None:
    assert field in check_refusal(ask(**given), 422, "validation_failed")
    assert nothing_left()


@pytest.mark.parametrize("slot", ["slot-999", "slot-002", "slot-1", "slot-001%00"])
def test_a_slot_that_is_not_there_cannot_be_tried(slot: str) -> None:
    set_slot("slot-002", archived_at=timezone.now())
    check_refusal(ask(slot), 404, "not_found")


def test_a_slot_that_is_archived_meanwhile_cannot_be_tried(staff: Staff) -> None:
    """Between the look at its settings and that at its row for the door, which waits here."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE ingest_ingestsettings")
        answer = in_background(staff.run)
        cursor.execute("SELECT pg_backend_pid()")
        (me,) = cursor.fetchone()
        assert eventually(lambda: waits_for(me))
        set_slot(archived_at=timezone.now())
    refusal(answer(), 404, "not_found")
    assert nothing_left()


def waits_for(backend: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE %s = ANY(pg_blocking_pids(pid)))", [backend])
        return bool(cursor.fetchone()[0])


PHOTOS = {"half": jpeg()[: len(jpeg()) // 2], "GIF": gif(), "too large": padded(jpeg())}


@pytest.mark.parametrize("photo", PHOTOS.values(), ids=PHOTOS)
def test_photos_are_refused_as_at_the_booths_door(staff: Staff, booth: Booth, photo: bytes) -> None:
    set_slot(size_limit_mb=1)
    answer, reply = staff.run(photo), booth.post(photo)
    assert (answer.status_code, answer.json()) == (reply.status, json.loads(reply.body))
    assert answer.status_code in (400, 413, 415)
    assert nothing_left()


def test_a_full_queue_has_no_place_for_it(staff: Staff, settings: Settings) -> None:
    for _ in range(settings.QUEUE_MAX_IN_FLIGHT_JOBS):
        full_queue()
    answer = staff.run()
    refusal(answer, 429, "queue_busy")
    assert answer.headers["Retry-After"]
    assert stored_files() == []


def test_half_of_the_places_are_the_booths_alone(staff: Staff, booth: Booth, settings: Settings) -> None:
    use_sandbox("instant")
    for _ in range(settings.QUEUE_MAX_IN_FLIGHT_JOBS // 2 - 1):
        full_queue()
    assert staff.run().status_code == 200
    full_queue()
    refusal(staff.run(), 429, "queue_busy")
    assert booth.post(jpeg()).status == 200


@pytest.mark.parametrize(("places", "tests"), [(1, 1), (2, 1), (3, 2), (12, 6)])
async def test_there_is_a_place_for_one_at_least(queue: Queue, settings: Settings, places: int, tests: int) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = places
    for _ in range(tests):
        await admitted(queue, provider_id="nobody", source="test")
    with pytest.raises(QueueFull):
        await admitted(queue, provider_id="nobody", source="test")


def test_a_provider_that_is_off_is_told_at_once(staff: Staff) -> None:
    use_sandbox("instant")
    ProviderAccount.objects.create(provider_id="queued", is_enabled=False)
    refusal(staff.run(provider_id="queued"), 503, "provider_unavailable")
    assert not Job.objects.exists()
    assert staff.run().status_code == 200


def test_it_costs_and_is_refused_when_the_budget_is_used_up(staff: Staff) -> None:
    use_sandbox("instant")
    assert staff.run(settings_json=OK | {"daily_budget": 5}).status_code == 200
    ProviderCall.objects.update(cost_usd=5)  # the sandbox is free of charge
    assert budget.today([Slot(pk="slot-001", settings_json={"daily_budget": 5})])["slot-001"].level == 100
    refusal(staff.run(settings_json=OK | {"daily_budget": 5}), 429, "budget_exhausted")
    assert staff.run(settings_json=OK | {"daily_budget": 6}).status_code == 200


def test_a_queue_that_does_not_answer_is_told(staff: Staff) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE ingest_ingestsettings")
        refusal(staff.run(), 503, "queue_unavailable")
    assert nothing_left()


def test_errors_speak_the_readers_language(staff: Staff) -> None:
    use_sandbox("instant", "refuses")
    staff.headers |= {"Accept-Language": "ru"}
    assert re.search("[а-я]", staff.run().json()["error"]["message"])


# The way of a booth's photo


def test_why_there_is_no_picture_is_in_its_log(staff: Staff) -> None:
    use_sandbox("instant", "refuses")
    details = refusal(staff.run(), 502, "provider_error")
    assert details == {"reason": "refused", "job_id": str(Job.objects.get().pk)}
    steps = staff.get(f"/api/jobs/{details['job_id']}")["processing_log"]
    assert [step["status"] for step in steps] == ["received", "dispatched", "provider_responded", "failed"]
    assert eventually(lambda: stored_files() == [])


def test_fallback_and_the_photo_itself_come_as_to_a_booth(staff: Staff) -> None:
    recipe = {"scenario": "refuses", "on_failure": "original"}
    fallback = {"provider_id": "queued", "operation_id": "image_edit", "settings_json": OK}
    use_sandbox("instant", **recipe)
    answers = [staff.run(), staff.run(settings_json=recipe | {"fallback": fallback})]
    assert [answer.headers["X-Outcome"] for answer in answers] == ["original", "fallback"]
    assert [answer.content for answer in answers] == [jpeg(), developed(jpeg())]
    assert eventually(lambda: [path for path in stored_files() if path.startswith("payloads/")] == [])


def test_the_picture_comes_by_itself(staff: Staff) -> None:
    use_sandbox("instant", reply="multipart")
    answer = staff.run()
    assert (answer.headers["Content-Type"], answer.content) == ("image/jpeg", developed(jpeg()))


def test_one_that_is_cancelled_is_answered_at_once(staff: Staff, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    answer = in_background(staff.run)
    sandbox.wait_for_calls(1)
    assert cancel_job(Job.objects.get().pk, "serg")
    refusal(answer(), 503, "job_cancelled")
    assert stored_files() == []


def test_at_the_deadline_it_is_over_for_good(staff: Staff, sandbox: Sandbox) -> None:
    IngestSettings.objects.update(sync_response_seconds=10)
    use_sandbox("queued", "never", finish_late=True)
    details = refusal(staff.run(), 504, "sync_timeout")
    assert details["job_id"] == str(Job.objects.get().pk)
    sandbox.wait_for_calls(1, "DELETE")  # nobody waits for a late picture


def test_who_hangs_up_has_it_cancelled(staff: Staff, sandbox: Sandbox) -> None:
    """Nobody could fetch its picture."""
    use_sandbox("queued", "never")
    request = httpx.Request("POST", f"{staff.web.base_url}{PATH}", headers=staff.headers, files={"file": jpeg()})
    with connect(str(staff.web.base_url)) as line:
        line.sendall(raw(request))
        sandbox.wait_for_calls(1)
    sandbox.wait_for_calls(1, "DELETE")
    job = Job.objects.get()
    last = ProcessingLog.objects.filter(job_id=job.pk).latest("id")
    assert (job.failure_reason, last.status, last.details.get("cancelled_by")) == ("cancelled", "failed", None)
    assert last.message.startswith("Cancelled: nobody waits")
    assert eventually(lambda: stored_files() == [])


def test_those_that_wait_are_in_nobodys_way(processes: Processes, sandbox: Sandbox) -> None:
    """More of them than Django has database connections."""
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS="22")
    processes.worker()
    use_sandbox("instant", "hold", max_concurrent=3)
    use_sandbox("instant", "ok", "slot-002")
    with httpx.Client(base_url=processes.url, timeout=70) as web:
        staff = Staff(web)
        answers = [in_background(staff.run) for _ in range(11)]
        assert eventually(lambda: Job.objects.count() == 11)
        sandbox.wait_for_calls(3)
        assert len(staff.get("/api/slots")["data"]) == 15
        assert web.get("/admin/login/").status_code == 200
        assert Booth(processes.url).post(jpeg(), "slot-002").status == 200
        sandbox.let_go()
        assert [answer().status_code for answer in answers] == [200] * 11


# No trace of it among the booths' photos


def test_it_joins_nobodys_job_and_nobody_joins_it(staff: Staff, booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    answers: list[Callable[[], Any]] = []
    runs: list[Callable[[], Any]] = [staff.run, lambda: booth.post(jpeg()), staff.run]
    for number, run in enumerate(runs, 1):
        answers.append(in_background(run))
        sandbox.wait_for_calls(number)
    sandbox.let_go()
    assert len({answer().headers["x-job-id"] for answer in answers}) == 3


@pytest.fixture
def both(staff: Staff, booth: Booth) -> tuple[Job, Job]:
    """A test run and a booth's photo, both with a picture."""
    use_sandbox("instant")
    ids = staff.run().headers["X-Job-Id"], booth.post(jpeg()).headers["x-job-id"]
    eventually(lambda: Job.objects.filter(delivered_at__isnull=False).count() == 2)
    tried, taken = (Job.objects.get(pk=job_id) for job_id in ids)
    return tried, taken


def test_it_is_counted_apart(staff: Staff, both: tuple[Job, Job]) -> None:
    counters = HourlyCounter.objects.order_by("source")
    assert [(each.source, each.success) for each in counters] == [("booth", 1), ("test", 1)]
    figures = staff.web.get("/metrics").text
    for name in ("ingest_requests_total", "ingest_success_total", "ingest_duration_seconds_count"):
        assert f'{name}{{provider="instant",slot_id="slot-001"}} 1.0' in figures


def test_it_is_in_no_list(staff: Staff, both: tuple[Job, Job]) -> None:
    tried, taken = both
    jobs, slot = staff.get("/api/jobs"), staff.get("/api/slots/slot-001")
    assert [each["job"]["id"] for each in jobs["data"]] == [str(taken.pk)]
    assert jobs["meta"]["total"] == 1
    assert [each["job_id"] for each in slot["recent_results"]] == [str(taken.pk)]
    assert staff.get(f"/api/jobs/{tried.pk}")["job"]["is_finalized"]


def test_it_has_no_public_link(staff: Staff, both: tuple[Job, Job]) -> None:
    for job, status in zip(both, (404, 200), strict=True):
        files = [links.file_url(job)]
        assert {staff.web.get(path).status_code for path in [f"/r/{job.pk}", *files]} == {status}
    assert staff.web.get(f"/public/results/{both[0].pk}").status_code == 404


def test_its_picture_is_kept_for_its_answer_only(both: tuple[Job, Job]) -> None:
    tried, taken = both
    eventually(lambda: thumbnail_file(taken).exists())
    assert not thumbnail_file(tried).exists()  # the worker makes them in turn
    assert tried.result_inline_base64 is None
    age(tried, 0.1)
    age(taken, 0.1)
    purge(["results"])
    assert (result_file(tried).exists(), result_file(taken).exists()) == (False, True)
