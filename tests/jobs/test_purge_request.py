"""`POST /api/media/cache/purge`: what has expired goes soon, in the background, by one process; nothing else does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any

import httpx
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from jobs.models import MediaObject, PurgeRun, PurgeTotal
from jobs.retention import requests
from jobs.retention.purge import run_purge
from tests.admin_client import browser, text_of
from tests.api import Api, check_refusal, make_api
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.jobs.test_purge import add_job, add_media, count_waiting, list_files
from tests.photoslot.test_health import of_kind, scrape
from tests.photoslot.waiting import until

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

PURGE = "/api/media/cache/purge"


@pytest.fixture
def api() -> Api:
    return make_api("settings:write")


def request_purge(api: Api, scope: str = "media_objects") -> dict[str, Any]:
    answer = api("post", PURGE, {"scope": scope})
    assert answer.status_code == 202, answer.content
    body: dict[str, Any] = answer.json()
    return body


def is_done() -> bool:
    return not PurgeRun.objects.filter(finished_at=None).exists()


def claim_run() -> PurgeRun:
    run = requests.start_next()
    assert run
    return run


def age(**times: timedelta) -> None:
    PurgeRun.objects.update(**{name: F(name) - ago for name, ago in times.items()})


def fail(api: Api) -> dict[str, Any]:
    """Requests and runs a purge that meets a file which no purge can remove."""
    MediaObject.objects.create(path="../elsewhere", mime_type="", size_bytes=0, expires_at=Now())
    body = request_purge(api)
    requests.run_in_thread(claim_run())
    return body


@pytest.mark.e2e
@pytest.mark.parametrize("scope", ["full", "media_objects"])
def test_a_worker_removes_what_has_expired_and_nothing_else(api: Api, web: httpx.Client, scope: str) -> None:
    expired, kept = add_media(-1, "media/a.jpg", 11), add_media(60, "media/b.jpg")
    old, young = add_job(72.1), add_job(71.9)
    body = request_purge(api, scope)
    until(is_done)
    assert (expired.exists(), kept.exists()) == (False, True)
    assert f"results/{young.pk}.jpg" in list_files()
    assert (f"results/{old.pk}.jpg" in list_files()) == (scope == "media_objects")
    run = PurgeRun.objects.get()
    assert (str(run.request_id), run.requested_by) == (body["job_id"], User.objects.get())
    assert (run.files, run.bytes, run.rows) == ((3, 118, 1) if scope == "full" else (1, 11, 1))
    assert of_kind(scrape(web), "purge_removed_bytes_total", "media") == 11


@pytest.mark.usefixtures("alone")
class TestWhileItWaits:
    def test_the_answer_says_what_will_be_done(self, api: Api) -> None:
        body, run = request_purge(api, "full"), PurgeRun.objects.get()
        assert body == {
            "status": "queued_for_gc",
            "scope": "full",
            "job_id": str(run.request_id),
            "expires_cutoff": body["expires_cutoff"],
        }
        assert datetime.fromisoformat(body["expires_cutoff"]) == run.cutoff_at
        assert (run.started_at, run.finished_at) == (None, None)
        assert LogEntry.objects.get().object_id == str(run.pk)

    def test_a_second_request_is_the_same_purge(self, api: Api) -> None:
        first = request_purge(api)
        assert request_purge(make_api("settings:write")) == first
        assert request_purge(api, "full")["job_id"] != first["job_id"]
        assert PurgeRun.objects.count() == LogEntry.objects.count() == 2

    def test_a_request_after_its_start_is_another_purge(self, api: Api) -> None:
        first = request_purge(api)
        assert requests.start_next()
        assert request_purge(api)["job_id"] != first["job_id"]

    def test_of_concurrent_requests_one_is_created(self, api: Api) -> None:
        def ask() -> str:
            body = request_purge(api)
            connection.close()
            return str(body["job_id"])

        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE jobs_purgerun IN EXCLUSIVE MODE")  # both see that none waits
            both = [in_background(ask) for _ in range(2)]
            until(lambda: count_waiting() == 2)
        assert {wait() for wait in both} == {str(PurgeRun.objects.get().request_id)}

    def test_of_concurrent_claims_one_succeeds(self, api: Api) -> None:
        request_purge(api)
        start = Barrier(8)

        def claim() -> bool:
            connection.ensure_connection()
            start.wait()
            run = requests.start_next()
            connection.close()
            return run is not None

        with ThreadPoolExecutor(8) as pool:
            assert sum(future.result() for future in [pool.submit(claim) for _ in range(8)]) == 1

    def test_what_expires_after_the_request_is_left(self, api: Api) -> None:
        before = add_media(-1, "media/a.jpg")
        request_purge(api)
        PurgeRun.objects.update(cutoff_at=F("cutoff_at") - timedelta(minutes=1))
        MediaObject.objects.update(expires_at=Now() - timedelta(minutes=2))
        meanwhile = add_media(-1, "media/b.jpg")
        job = add_job(72)
        job.result_expires_at = datetime.now().astimezone() - timedelta(seconds=1)
        job.save()
        requests.run_all()
        assert (before.exists(), meanwhile.exists()) == (False, True)
        assert f"results/{job.pk}.jpg" in list_files()

    @pytest.mark.parametrize(("ago", "is_claimed"), [(timedelta(), False), (requests.RUN_TIMEOUT, True)])
    def test_a_run_of_a_killed_process_is_claimed_again_after_the_timeout(
        self, api: Api, ago: timedelta, is_claimed: bool
    ) -> None:
        request_purge(api)
        assert requests.start_next()
        PurgeRun.objects.update(started_at=F("started_at") - ago)
        assert (requests.start_next() is not None) == is_claimed

    def test_what_is_done_is_not_done_again(self, api: Api) -> None:
        request_purge(api)
        requests.run_all()
        PurgeRun.objects.update(started_at=F("started_at") - requests.RUN_TIMEOUT)
        assert requests.start_next() is None

    def test_of_two_processes_that_run_it_the_last_to_claim_it_records_the_result(self, api: Api) -> None:
        add_media(-60, "media/a.jpg")
        request_purge(api)
        slow = claim_run()
        age(started_at=requests.RUN_TIMEOUT)
        other = claim_run()
        run_purge(slow)
        assert not is_done()
        run_purge(other)
        assert is_done()
        add_media(-60, "media/b.jpg")
        run_purge(slow)
        assert PurgeRun.objects.get().files == 0
        assert PurgeTotal.objects.get().files == 2

    def test_one_that_fails_is_tried_again_for_a_day(self, api: Api, caplog: pytest.LogCaptureFixture) -> None:
        body = fail(api)
        assert f"Purge {body['job_id']} failed" in caplog.text
        assert not is_done()
        assert requests.start_next() is None
        age(started_at=requests.RUN_TIMEOUT)
        requests.run_in_thread(claim_run())
        age(started_at=requests.RUN_TIMEOUT, cutoff_at=requests.RETRY_PERIOD)
        assert requests.start_next() is None

    def test_a_request_that_waited_for_days_is_still_run(self, api: Api) -> None:
        request_purge(api)
        age(cutoff_at=requests.RETRY_PERIOD)
        assert requests.start_next()

    def test_a_failed_run_is_not_tried_again_after_a_newer_request(self, api: Api) -> None:
        first = fail(api)
        second = request_purge(api)
        assert second["job_id"] != first["job_id"]
        age(started_at=requests.RUN_TIMEOUT)
        assert str(claim_run().request_id) == second["job_id"]
        age(started_at=requests.RUN_TIMEOUT)
        assert str(claim_run().request_id) == second["job_id"]
        assert requests.start_next() is None

    def test_a_deleted_user_cannot_request_a_purge(self, api: Api) -> None:
        somebody = User.objects.create(username="gone")
        User.objects.filter(pk=somebody.pk).delete()
        with pytest.raises(IntegrityError):
            requests.request_purge("full", somebody)
        assert not PurgeRun.objects.exists()

    def test_cron_runs_it_where_no_worker_does(
        self, api: Api, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        add_job(73, size=100)
        body = request_purge(api, "full")
        call_command("purge_expired", "media", "--dry-run")
        assert not is_done()
        call_command("purge_expired", "media")
        assert is_done()
        assert "Removed 2 files (107 bytes) and 0 rows." in capsys.readouterr().out
        assert f"Purge {body['job_id']} of media and results" in caplog.text
        assert "removed 2 files (107 bytes) and 0 rows; 0 files could not be removed" in caplog.text
        assert dict(PurgeTotal.objects.values_list("kind", "files")) == {"media": 0, "results": 2}

    def test_staff_see_it_in_the_admin(self, api: Api) -> None:
        body = request_purge(api, "full")
        page = text_of(browser(superuser=True).get("/admin/jobs/purgerun/"))
        assert body["job_id"] in page
        assert "media, results" in page
        assert str(User.objects.first()) in page


@pytest.mark.e2e
def test_photos_and_shutdown_do_not_wait_for_it_and_another_worker_finishes_it(api: Api, processes: Processes) -> None:
    use_sandbox("instant")
    file = add_media(-1, "media/a.jpg")
    request_purge(api)
    processes.web()
    worker = processes.worker()
    with transaction.atomic():
        MediaObject.objects.select_for_update().get()  # the purge waits for this row
        until(lambda: count_waiting() == 1)
        assert Booth(processes.url).post(jpeg()).status == 200
        worker.terminate()
        assert worker.wait(30) == 0
    PurgeRun.objects.update(started_at=F("started_at") - requests.RUN_TIMEOUT)
    processes.worker()
    until(is_done)
    assert not file.exists()
    assert not MediaObject.objects.exists()


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        ({}, 422, "validation_failed", ["scope"]),
        ({"scope": "log"}, 422, "validation_failed", ["scope"]),
        ({"scope": ["full"]}, 422, "validation_failed", ["scope"]),
        ({"scope": "full", "force": True}, 400, "invalid_payload", ["force"]),
        ([], 400, "invalid_payload", []),
    ],
)
def test_what_is_no_scope_purges_nothing(api: Api, body: Any, status: int, code: str, named: list[str]) -> None:
    assert list(check_refusal(api("post", PURGE, body), status, code)) == named
    assert list(check_refusal(api("post", f"{PURGE}?scope=full", {}), 400, "invalid_payload")) == ["scope"]
    assert not PurgeRun.objects.exists()
