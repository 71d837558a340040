"""`manage.py purge_expired`: removes what has expired and nothing else, and reports exactly what it removed."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from jobs.models import Job, MediaObject, Process, PurgeRun, PurgeTotal
from jobs.retention.purge import ORPHAN_SECONDS
from jobs.storage import files
from providers.models import ProviderCall
from stats.models import ProcessingLog
from tests.conftest import Processes, set_slot
from tests.photoslot.waiting import until

pytestmark = pytest.mark.integration

Purge = Callable[..., tuple[int, int, int, int]]
OUTPUT = re.compile(r"(Removed|Would remove) (\d+) files \((\d+) bytes\) and (\d+) rows\.")


@pytest.fixture
def purge(processes: Processes) -> Iterator[Purge]:
    """Runs the command as cron does. Exit code, files, bytes, rows."""

    def run(*arguments: str, verb: str = "Removed") -> tuple[int, int, int, int]:
        process = processes.command("purge_expired", *arguments)
        output = process.communicate(timeout=60)[0].decode()
        match = OUTPUT.match(output)
        assert match, output
        assert match[1] == verb
        return process.returncode, int(match[2]), int(match[3]), int(match[4])

    yield run
    for left in Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir():
        left.unlink()


def put_file(path: str, size: int = 10, age: float = ORPHAN_SECONDS + 60) -> Path:
    files.save(path, b"x" * size)
    file = Path(settings.MEDIA_ROOT / path)
    os.utime(file, (time.time() - age,) * 2)
    return file


def add_job(hours_ago: float, *, failed: bool = False, size: int = 100) -> Job:
    """A finished job of so many hours ago, with result and thumbnail unless it failed."""
    finished, pk = timezone.now() - timedelta(hours=hours_ago), uuid4()
    result = {
        "result_file_path": f"results/{pk}.jpg",
        "result_mime_type": "image/jpeg",
        "result_size_bytes": size,
        "result_checksum": "0" * 64,
        "result_expires_at": finished + timedelta(hours=72),
    }
    if not failed:
        put_file(f"results/{pk}.jpg", size)
        put_file(f"thumbnails/{pk}.jpg", 7)
    return Job.objects.create(
        id=pk,
        slot_id="slot-001",
        provider_id="instant",
        operation_id="image_edit",
        settings_json={},
        payload_digest=b"",
        payload_mime_type="image/jpeg",
        created_at=finished - timedelta(seconds=1),
        expires_at=finished + timedelta(seconds=47),
        finalized_at=finished,
        is_finalized=True,
        **({"failure_reason": "provider_error"} if failed else result),
    )


def add_unfinished_job(seconds_left: float) -> Job:
    now = timezone.now()
    return Job.objects.create(
        slot_id="slot-001",
        provider_id="nobody",
        operation_id="image_edit",
        settings_json={},
        payload_digest=b"",
        payload_mime_type="image/jpeg",
        created_at=now - timedelta(seconds=48),
        expires_at=now + timedelta(seconds=seconds_left),
    )


def add_media(seconds_left: float, path: str, size: int = 10) -> Path:
    expires_at = timezone.now() + timedelta(seconds=seconds_left)
    MediaObject.objects.create(path=path, mime_type="image/jpeg", size_bytes=size, expires_at=expires_at)
    return put_file(path, size, age=0)


def count_waiting() -> int:
    """How many sessions of this database wait for another transaction's lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_locks WHERE database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database()))"
        )
        return int(cursor.rowcount)


def list_files() -> set[str]:
    root = Path(settings.MEDIA_ROOT)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_nothing_is_left_of_expired_results(purge: Purge) -> None:
    expired, kept = add_job(72.1), add_job(71.9)
    assert purge("results") == (0, 2, 107, 0)
    assert list_files() == {f"results/{kept.pk}.jpg", f"thumbnails/{kept.pk}.jpg"}
    expired.refresh_from_db()
    assert expired.result_file_path is None
    assert expired.result_checksum == "0" * 64  # the record of the result stays
    assert purge("results") == (0, 0, 0, 0)


def test_media_past_its_time_goes_with_its_row(purge: Purge) -> None:
    expired, kept = add_media(-1, "media/a.jpg", 11), add_media(60, "media/b.jpg")
    assert purge("media") == (0, 1, 11, 1)
    assert (expired.exists(), kept.exists()) == (False, True)
    assert MediaObject.objects.get().path == "media/b.jpg"


def test_a_file_whose_link_is_good_stays_however_old_it_is(purge: Purge) -> None:
    kept = add_media(60, "media/a.jpg")
    os.utime(kept, (0, 0))
    assert purge("media") == (0, 0, 0, 0)
    assert kept.exists()


def test_photos_of_jobs_that_are_over_go_at_once(purge: Purge) -> None:
    finished, overdue, under_way = add_job(1), add_unfinished_job(-1), add_unfinished_job(30)
    photos = [put_file(f"payloads/{job.pk}.jpg", 5, age=0) for job in (finished, overdue, under_way)]
    assert purge("media") == (0, 2, 10, 0)
    assert [photo.exists() for photo in photos] == [False, False, True]


def test_a_job_whose_photo_is_purged_has_no_path_to_it(purge: Purge) -> None:
    job = add_job(1, failed=True)
    path = files.payload_path(job.pk, job.payload_mime_type)
    Job.objects.filter(pk=job.pk).update(settings_json={"on_failure": "original"}, payload_path=path)
    put_file(path, 5, age=0)
    assert purge("media", "--dry-run", verb="Would remove")[1] == 1
    assert Job.objects.get().payload_path == path
    assert purge("media") == (0, 1, 5, 0)
    assert Job.objects.get().payload_path is None


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("payloads", "media"), ("media", "media"), ("tmp", "media"), ("results", "results"), ("thumbnails", "results")],
)
def test_what_a_crash_left_goes_when_no_job_can_need_it(purge: Purge, folder: str, kind: str) -> None:
    for name in (f"{uuid4()}.jpg", f".0123456789abcdef.{uuid4()}.jpg"):
        put_file(f"{folder}/{name}", 5)
    young = {f"{folder}/{uuid4()}.jpg", f"{folder}/half.upload"}
    for path in young:
        put_file(path, 5, age=ORPHAN_SECONDS / 2)
    assert purge(kind) == (0, 2, 10, 0)
    assert list_files() == young


def test_a_picture_of_a_job_that_has_no_result_goes_once_it_is_old(purge: Purge) -> None:
    failed = add_job(1, failed=True)
    late = put_file(f"results/{failed.pk}.jpg", age=0)
    assert purge("results")[1] == 0
    put_file(f"results/{failed.pk}.jpg")
    assert purge("results")[1] == 1
    assert not late.exists()


def test_the_file_of_a_worker_that_lost_its_claim_goes_though_the_job_has_a_result(purge: Purge) -> None:
    job = add_job(1)
    put_file(f"results/{job.pk}-{uuid4().hex}.jpg")
    assert purge("results")[1] == 1
    assert list_files() == {f"results/{job.pk}.jpg", f"thumbnails/{job.pk}.jpg"}


def test_the_hand_off_copy_that_a_crash_left_is_cleared(purge: Purge) -> None:
    crashed, waiting = add_job(1), add_job(0)
    Job.objects.update(result_inline_base64="eA==")
    purge("media")
    assert list(Job.objects.filter(result_inline_base64=None)) == [crashed]
    assert Job.objects.get(pk=waiting.pk).result_inline_base64 == "eA=="


def test_the_log_is_kept_for_its_retention(purge: Purge) -> None:
    old, young = add_job(401 * 24), add_job(399 * 24)
    for job in (old, young):
        ProcessingLog.objects.create(job_id=job.pk, slot_id=job.slot_id, status="received", occurred_at=job.created_at)
    assert purge("log") == (0, 0, 0, 1)  # the job itself goes when its files are removed
    purge("results")
    assert purge("log")[3] == 1
    assert list(Job.objects.all()) == [young]
    assert ProcessingLog.objects.get().job_id == young.pk


def test_traces_of_processes_and_old_purges_go(purge: Purge) -> None:
    now = timezone.now()
    for minutes in (1, 6):
        Process.objects.create(kind="worker", name="w", is_listening=True, seen_at=now - timedelta(minutes=minutes))
    old = now - timedelta(days=31)
    PurgeRun.objects.create(started_at=old, kinds=["media"], cutoff_at=old)
    PurgeRun.objects.create(started_at=now, kinds=["media"], cutoff_at=old, request_id=uuid4())  # kept failing
    assert purge("log")[3] == 3
    assert Process.objects.filter(seen_at__lt=now - timedelta(minutes=5)).count() == 0
    Process.objects.all().delete()
    assert PurgeRun.objects.get().cutoff_at > now


def test_a_dry_run_says_the_same_and_removes_nothing(purge: Purge) -> None:
    add_job(73)
    overdue = add_unfinished_job(-1)
    add_media(-1, f"payloads/{overdue.pk}.jpg", 11)
    put_file(f"tmp/{uuid4()}", 3)
    old = add_job(24 * 500, failed=True)
    MediaObject.objects.create(job=old, path="media/of-old", mime_type="", size_bytes=0, expires_at=old.expires_at)
    before = list_files(), Job.objects.count(), MediaObject.objects.count()
    forecast = purge("--dry-run", verb="Would remove")
    assert (list_files(), Job.objects.count(), MediaObject.objects.count()) == before
    assert not PurgeRun.objects.exists()
    assert not PurgeTotal.objects.exists()
    assert purge() == forecast == (0, 4, 107 + 11 + 3, 3)


def test_a_file_that_cannot_be_removed_is_reported_and_tried_again(purge: Purge) -> None:
    stuck, other = add_job(80), add_job(80)
    path = Path(settings.MEDIA_ROOT / str(stuck.result_file_path))
    path.unlink()
    path.mkdir()
    assert purge("results") == (1, 3, 114, 0)
    rows = dict(Job.objects.values_list("pk", "result_file_path"))
    assert rows == {stuck.pk: stuck.result_file_path, other.pk: None}
    path.rmdir()
    assert purge("results") == (0, 0, 0, 0)
    assert not Job.objects.filter(result_file_path__isnull=False).exists()


@pytest.mark.parametrize("kind", ["media", "results"])
def test_a_folder_among_the_files_stays(purge: Purge, kind: str) -> None:
    for folder in ("media", "tmp") if kind == "media" else ("results", "thumbnails"):
        inside = put_file(f"{folder}/of somebody else's/a.jpg")
        os.utime(inside.parent, (0, 0))
    assert purge(kind) == (0, 0, 0, 0)
    for folder in ("media", "tmp", "results", "thumbnails"):
        shutil.rmtree(Path(settings.MEDIA_ROOT / folder / "of somebody else's"), ignore_errors=True)


def test_an_unknown_kind_is_a_usage_error(processes: Processes) -> None:
    process = processes.command("purge_expired", "everything")
    assert "Choose from media, results, log" in process.communicate(timeout=60)[1].decode()
    assert process.returncode == 2


def test_each_run_is_recorded(purge: Purge) -> None:
    add_job(80)
    purge("results", "media")
    purge("media")
    runs = PurgeRun.objects.order_by("id").values_list("kinds", "files", "bytes", "rows")
    assert list(runs) == [(["results", "media"], 2, 107, 0), (["media"], 0, 0, 0)]
    totals = PurgeTotal.objects.order_by("kind").values_list("kind", "runs", "files", "bytes")
    assert list(totals) == [("media", 2, 0, 0), ("results", 1, 2, 107)]


def test_two_at_once_share_the_work(processes: Processes) -> None:
    for _ in range(150):
        add_job(80)
    for n in range(300):
        MediaObject.objects.create(
            path=f"media/{n}.jpg", mime_type="image/jpeg", size_bytes=5, expires_at=timezone.now()
        )
        put_file(f"media/{n}.jpg", 5)
    both = [processes.command("purge_expired") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].decode() for process in both]
    matches = [OUTPUT.match(output) for output in outputs]
    assert [process.returncode for process in both] == [0, 0]
    sums = [sum(int(match[group]) for match in matches if match) for group in (2, 3, 4)]
    assert sums == [150 * 2 + 300, 150 * 107 + 300 * 5, 300]
    assert list_files() == set()


def test_of_all_who_remove_a_file_at_once_one_did_it(database: None) -> None:
    paths = [f"media/{n}.jpg" for n in range(200)]
    for path in paths:
        put_file(path, 5)
    start = Barrier(4)

    def remove_all() -> int:
        start.wait()
        return sum(files.delete(path) or 0 for path in paths)

    with ThreadPoolExecutor(4) as pool:
        assert sum(future.result() for future in [pool.submit(remove_all) for _ in range(4)]) == 200 * 5


def test_rows_that_another_purge_removes_are_not_counted_twice(processes: Processes) -> None:
    add_media(-1, "media/a.jpg")
    with transaction.atomic():
        MediaObject.objects.all().delete()  # the other purge, about to commit
        process = processes.command("purge_expired", "media")
        until(lambda: count_waiting() == 1)
    assert b" 0 rows." in process.communicate(timeout=60)[0]


def test_the_photo_of_a_slot_that_is_off_now_is_purged_too(purge: Purge) -> None:
    job = add_job(80)
    set_slot(job.slot_id, is_active=False, archived_at=timezone.now())
    assert purge()[1] == 2


def add_call(days_ago: float) -> ProviderCall:
    at = timezone.now() - timedelta(days=days_ago)
    call = {"provider_id": "gemini", "slot_id": "slot-001", "job_id": uuid4(), "at": at}
    return ProviderCall.objects.create(**call, ended_at=at, outcome="made")


def test_calls_are_kept_as_long_as_the_log(purge: Purge) -> None:
    expired, kept = add_call(settings.LOG_RETENTION_DAYS + 0.1), add_call(settings.LOG_RETENTION_DAYS - 0.1)
    assert purge("log") == (0, 0, 0, 1)
    assert list(ProviderCall.objects.all()) == [kept]
    assert expired != kept
