"""`/healthz`, `/readyz` and `/metrics`: what those see who run the service."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module

import httpx
import pytest
from django.conf import settings
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from ingest.models import IngestSettings
from jobs.models import Job, MediaObject, Process, PurgeRun
from jobs.retention.purge import purge
from stats.metrics import FinishedJobs
from stats.models import CounterTotal
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.jobs.results import age, make_picture
from tests.photoslot.waiting import until
from tests.sandbox.server import Sandbox
from tests.stats.counters import count, count_late_answer

pytestmark = pytest.mark.contract

ALL_WELL = {"database": True, "migrations": True, "storage": True, "worker": True}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def ready(web: httpx.Client) -> httpx.Client:
    until(lambda: web.get("/readyz").status_code == 200)
    return web


def verdicts(client: httpx.Client) -> tuple[int, dict[str, bool]]:
    response = client.get("/readyz")
    assert response.json()["ready"] is (response.status_code == 200)
    return response.status_code, response.json()["checks"]


def all_but(name: str) -> tuple[int, dict[str, bool]]:
    return 503, ALL_WELL | {name: False}


def scrape(client: httpx.Client) -> Samples:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def of_slot(samples: Samples, name: str, slot_id: str = "slot-001", **labels: str) -> float:
    return samples[name, frozenset({"slot_id": slot_id, "provider": "instant", **labels}.items())]


def of_kind(samples: Samples, name: str, kind: str) -> float:
    return samples[name, frozenset({("kind", kind)})]


@contextmanager
def frozen_worker(processes: Processes) -> Iterator[None]:
    worker = processes.started[1]
    worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.send_signal(signal.SIGCONT)


def test_healthz(web: httpx.Client) -> None:
    response = web.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-store" in response.headers["Cache-Control"]
    assert web.head("/healthz").status_code == 200
    assert web.post("/healthz").status_code == 405


def test_ready(ready: httpx.Client) -> None:
    assert verdicts(ready) == (200, ALL_WELL)
    assert "no-store" in ready.get("/readyz").headers["Cache-Control"]


@pytest.mark.parametrize(("seconds", "status"), [(13, 200), (16, 503)])
def test_a_worker_that_hangs_is_none(
    ready: httpx.Client, shared_processes: Processes, seconds: int, status: int
) -> None:
    with frozen_worker(shared_processes):
        Process.objects.update(seen_at=timezone.now() - timedelta(seconds=seconds))
        assert verdicts(ready) == (status, ALL_WELL | {"worker": status == 200})


def test_an_older_schema_is_not_ready(ready: httpx.Client) -> None:
    last = MigrationRecorder.Migration.objects.filter(app="jobs").latest("id")
    last.delete()
    try:
        assert verdicts(ready) == all_but("migrations")
    finally:
        last.save(force_insert=True)


def test_storage_that_cannot_be_written_is_not_ready(ready: httpx.Client) -> None:
    folder = settings.FILE_UPLOAD_TEMP_DIR
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("a file in its place")
    try:
        assert verdicts(ready) == all_but("storage")
    finally:
        folder.unlink()
        aside.rename(folder)


def test_without_its_database_it_lives_but_is_not_ready(processes: Processes) -> None:
    processes.web(TEST_DATABASE_NAME="photoslot_nowhere")
    with httpx.Client(base_url=processes.url, timeout=60) as client:
        assert client.get("/healthz").status_code == 200
        assert verdicts(client) == (503, dict.fromkeys(ALL_WELL, False) | {"storage": True})
        assert client.get("/metrics").status_code == 503


def test_the_contracts_metrics(booth: Booth, web: httpx.Client) -> None:
    make_picture(booth)
    families = {family.name: family for family in text_string_to_metric_families(web.get("/metrics").text)}
    for name in ("ingest_requests", "ingest_success", "ingest_timeout", "ingest_provider_error"):
        assert families[name].type == "counter"
        assert [s.labels for s in families[name].samples] == [{"slot_id": "slot-001", "provider": "instant"}]
        assert families[name].samples[0].name == f"{name}_total"
    duration = families["ingest_duration_seconds"]
    assert duration.type == "histogram"
    bounds = [s.labels["le"] for s in duration.samples if s.name.endswith("_bucket")]
    assert bounds == ["0.1", "0.5", "1", "2", "5", "10", "20", "30", "40", "48", "60", "+Inf"]
    assert {"media_storage_bytes", "media_disk_capacity_bytes"} <= set(families)
    assert all(family.documentation for family in families.values())


def test_they_count_what_came_through_the_door(booth: Booth, web: httpx.Client) -> None:
    make_picture(booth)
    booth.post(jpeg(colour="red"))
    use_sandbox("instant", "refuses")
    assert booth.post(jpeg(colour="green")).status == 502
    use_sandbox("instant", "overloaded_first:1")
    assert booth.post(jpeg(colour="blue")).status == 200
    samples = scrape(web)
    assert of_slot(samples, "ingest_requests_total") == 4
    assert of_slot(samples, "ingest_success_total") == 3
    assert of_slot(samples, "ingest_provider_error_total") == 1
    assert of_slot(samples, "ingest_timeout_total") == 0
    assert of_slot(samples, "ingest_duration_seconds_count") == 4
    assert of_slot(samples, "ingest_duration_seconds_bucket", le="60") == 4
    assert of_slot(samples, "ingest_duration_seconds_sum") > 0
    assert of_slot(samples, "job_claim_wait_seconds_count") == 4
    assert of_slot(samples, "provider_attempts_total") == 5
    assert of_slot(samples, "provider_attempt_errors_total") == 2
    assert of_slot(samples, "provider_attempt_seconds_total") > 0


def test_polls_and_late_answers_are_counted(booth: Booth, web: httpx.Client) -> None:
    use_sandbox("queued")
    assert booth.post(jpeg()).status == 200
    for _ in range(2):
        count_late_answer("slot-001", "queued")
    samples = scrape(web)
    labels = frozenset({("slot_id", "slot-001"), ("provider", "queued")})
    assert samples["provider_polls_total", labels] >= 1
    assert samples["late_answers_dropped_total", labels] == 2


def test_a_test_run_is_no_booths_photo(web: httpx.Client) -> None:
    count(source="test")
    assert not any(name == "ingest_requests_total" for name, _ in scrape(web))


def test_hours_add_up(booth: Booth, web: httpx.Client) -> None:
    make_picture(booth)
    count(timezone.now() - timedelta(days=40), provider_id="instant")
    samples = scrape(web)
    assert of_slot(samples, "ingest_requests_total") == 2
    assert of_slot(samples, "ingest_duration_seconds_bucket", le="+Inf") == 2


@pytest.mark.usefixtures("database")
def test_the_hours_are_not_read_however_many_there_are() -> None:
    count()
    with CaptureQueriesContext(connection) as queries:
        assert len(list(FinishedJobs().collect())) > 10
    assert not any("stats_hourlycounter" in query["sql"] for query in queries)


@pytest.mark.usefixtures("database")
def test_the_totals_are_the_sums_of_the_hours() -> None:
    """Those that the queue counts, and those that the migration finds."""
    now = timezone.now()
    count(now, "success", "timeouts", "errors")
    count(now - timedelta(days=40), "success", wait_seconds=None, polls=2)
    count(now, "success", slot_id="slot-002")
    count(now, "success", source="test")
    count_late_answer("slot-001", "studio")
    counted = [row | {"id": 0} for row in CounterTotal.objects.order_by("slot_id").values()]
    assert [(row["ingest_count"], row["late_answers"]) for row in counted] == [(4, 1), (1, 0)]
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE stats_countertotal")
        cursor.execute(import_module("stats.migrations.0003_counter_totals").FILL)
    assert [row | {"id": 0} for row in CounterTotal.objects.order_by("slot_id").values()] == counted


def test_queue_processes_and_settings_are_shown(booth: Booth, ready: httpx.Client, sandbox: Sandbox) -> None:
    IngestSettings.objects.update(sync_response_seconds=33)
    use_sandbox("instant", "hold")
    replies = [in_background(lambda n=n: booth.post(jpeg(width=100 + n))) for n in range(5)]  # type: ignore[misc]
    sandbox.wait_for_calls(4)
    until(lambda: Job.objects.count() == 5)
    samples = scrape(ready)
    assert samples["queue_depth", frozenset({("status", "processing")})] == 4
    assert samples["queue_depth", frozenset({("status", "pending")})] == 1
    assert samples["queue_limit", frozenset()] == 12
    assert samples["sync_response_seconds", frozenset()] == 33
    assert of_kind(samples, "processes_alive", "worker") >= 1
    assert of_kind(samples, "processes_listening", "web") >= 1
    sandbox.let_go()
    assert {reply().status for reply in replies} == {200}


def test_the_disk_is_shown(booth: Booth, web: httpx.Client) -> None:
    purge(["media"])
    before = scrape(web)["media_storage_bytes", frozenset()]
    (settings.MEDIA_ROOT / "results").mkdir(exist_ok=True)
    (settings.MEDIA_ROOT / "results/large").write_bytes(b"x" * 3_000_000)
    assert scrape(web)["media_storage_bytes", frozenset()] == before  # no scrape looks at the files
    purge(["media"])
    samples = scrape(web)
    assert samples["media_storage_bytes", frozenset()] - before == pytest.approx(3_000_000, abs=50_000)
    used, whole = samples["media_disk_used_bytes", frozenset()], samples["media_disk_capacity_bytes", frozenset()]
    assert 3_000_000 < used < whole


def test_purges_are_counted_and_what_is_overdue_shows(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    MediaObject.objects.create(
        path="media/none", mime_type="", size_bytes=0, expires_at=timezone.now() - timedelta(minutes=3)
    )
    age(job, 73)
    samples = scrape(web)
    assert [of_kind(samples, "overdue_artefacts", kind) for kind in ("results", "media")] == [1, 1]
    assert of_kind(samples, "purge_last_run_timestamp_seconds", "results") == 0
    removed = purge(["results", "media"])
    samples = scrape(web)
    assert [of_kind(samples, "overdue_artefacts", kind) for kind in ("results", "media")] == [0, 0]
    assert of_kind(samples, "purge_runs_total", "results") == of_kind(samples, "purge_runs_total", "media") == 1
    assert of_kind(samples, "purge_removed_bytes_total", "results") == removed.bytes > 0
    assert of_kind(samples, "purge_removed_rows_total", "media") == 1
    last = of_kind(samples, "purge_last_run_timestamp_seconds", "results")
    assert last == pytest.approx(timezone.now().timestamp(), abs=30)


def test_what_is_just_due_is_not_overdue(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    age(job, 72.4)
    assert of_kind(scrape(web), "overdue_artefacts", "results") == 0
    age(job, 0.2)
    assert of_kind(scrape(web), "overdue_artefacts", "results") == 1


def test_purge_counters_never_fall(booth: Booth, web: httpx.Client) -> None:
    purge(["media"])
    PurgeRun.objects.update(cutoff_at=F("cutoff_at") - timedelta(days=31))
    purge(["log"])
    assert PurgeRun.objects.count() == 1
    assert of_kind(scrape(web), "purge_runs_total", "media") == 1


def test_every_process_gives_the_same_answer(processes: Processes, booth: Booth, web: httpx.Client) -> None:
    make_picture(booth)  # `processes` comes first, since it sends the shared worker home
    processes.web()
    with httpx.Client(base_url=processes.url) as other:
        one, two = scrape(web), scrape(other)
    finished = [key for key in one if key[0].startswith(("ingest_", "provider_", "job_"))]
    assert len(finished) > 20
    assert {key: one[key] for key in finished} == {key: two[key] for key in finished}


def test_the_token_guards_the_metrics(processes: Processes) -> None:
    processes.web(METRICS_TOKEN="t0ken")
    with httpx.Client(base_url=processes.url) as client:
        assert client.get("/metrics").json()["error"]["code"] == "invalid_credentials"
        for wrong in ("", "Bearer", "Bearer t0ke", "Bearer t0ken2", "t0ken", "Basic t0ken"):
            assert client.get("/metrics", headers={"Authorization": wrong}).status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer t0ken"}).status_code == 200
        assert client.get("/readyz").status_code in (200, 503)
