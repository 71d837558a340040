"""`/api/slots/{slot_id}`: a slot with its latest pictures; changing or archiving the version that was read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from jobs.models import Job
from jobs.queue.verbs import ADMISSION_LOCK
from slots.models import Slot, SlotQuerySet, TemplateBinding
from staff.api.recent_results import CHUNK, RECENT_COUNT, query_recent_jobs
from tests.api import Api, check_refusal, make_api
from tests.conftest import Booth, in_background, jpeg, set_slot, stored_files, use_sandbox
from tests.jobs.results import age, make_picture
from tests.photoslot.waiting import until
from tests.sandbox.server import Sandbox
from tests.slots.factories import BAD_FRAMES, bind, draw_frame, image

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

SLOT = "/api/slots/slot-001"
# 20,000 pictures of a month.
MANY = """
INSERT INTO jobs_job (id, slot_id, provider_id, operation_id, settings_json, payload_mime_type, payload_digest,
    is_finalized, created_at, expires_at, finalized_at,
    result_file_path, result_checksum, result_mime_type, result_size_bytes, result_expires_at)
SELECT gen_random_uuid(), 'slot-001', 'studio', 'image_edit', '{}', 'image/jpeg', '\\x00',
    true, at, at + '48 s', at + '1 s', 'results/x.jpg', 'sum', 'image/jpeg', 1000, at + '72 h'
FROM generate_series(1, 20000) AS n, LATERAL (SELECT now() - n * interval '2 minutes' AS at) AS made
"""
SEPIA = {"name": "Old", "provider_id": "studio", "operation_id": "image_edit", "settings_json": {"look": "sepia"}}


@pytest.fixture
def api() -> Api:
    return make_api("slots:write")


def make_etag(api: Api) -> str:
    tag: str = api("get", SLOT).headers["ETag"]
    return tag


def put(api: Api, tag: str | None = None, **more: Any) -> Any:
    return api("put", SLOT, SEPIA | more, headers={"If-Match": tag} if tag else {})


def delete(api: Api, tag: str = "*", query: str = "") -> Any:
    return api("delete", SLOT + query, headers={"If-Match": tag})


def make_job(**changes: Any) -> Job:
    now = timezone.now()
    usual: dict[str, Any] = {"slot_id": "slot-001", "settings_json": {}, "payload_digest": bytes(32)}
    return Job.objects.create(**(usual | {"created_at": now, "expires_at": now + timedelta(seconds=48)} | changes))


def make_result(seconds_ago: float, **changes: Any) -> Job:
    """A job that got its picture so many seconds ago."""
    at = timezone.now() - timedelta(seconds=seconds_ago)
    ended = {"is_finalized": True, "created_at": at, "finalized_at": at, "expires_at": at + timedelta(seconds=48)}
    result = {"result_file_path": "results/x.jpg", "result_checksum": "c" * 64, "result_mime_type": "image/jpeg"}
    expiry = {"result_size_bytes": 9, "result_expires_at": timezone.now() + timedelta(hours=1)}
    return make_job(**(ended | result | expiry | changes))


def list_latest(api: Api) -> list[str]:
    return [each["job_id"] for each in api("get", SLOT).json()["recent_results"]]


def test_a_slot_is_shown_as_in_the_list_with_its_version(api: Api) -> None:
    response = api("get", SLOT)
    one = response.json()
    assert one.pop("recent_results") == []
    assert one == api("get", "/api/slots").json()["data"][0]
    assert response.headers["ETag"] == f'"{Slot.objects.get(pk="slot-001").updated_at.isoformat()}"'


@pytest.mark.parametrize("slot_id", ["slot-099", "nobody", "SLOT-001", "slot-001%0A", "slot-%D9%A0%D9%A0%D9%A1", "%00"])
@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_an_unknown_slot_is_a_404(api: Api, method: str, slot_id: str) -> None:
    body = SEPIA if method == "put" else None
    response = api(method, f"/api/slots/{slot_id}", body, headers={"If-Match": "*"})
    assert check_refusal(response, 404, "not_found") == {}


def test_an_archived_slot_is_shown_to_staff(api: Api) -> None:
    Slot.objects.filter(pk="slot-001").archive()
    assert api("get", SLOT).json()["archived_at"] is not None


def test_a_picture_that_a_booth_got_can_be_fetched_by_the_links(api: Api, booth: Booth, web: httpx.Client) -> None:
    picture = make_picture(booth)
    (shown,) = api("get", SLOT).json()["recent_results"]
    assert (shown["job_id"], shown["mime"]) == (str(picture.pk), picture.result_mime_type)
    assert shown["completed_at"] < shown["result_expires_at"]
    download = web.get(urlsplit(shown["download_url"])._replace(scheme="", netloc="").geturl(), follow_redirects=True)
    assert len(download.content) == shown["size_bytes"] == picture.result_size_bytes
    assert download.headers["Content-Disposition"].startswith("attachment")
    thumbnail = urlsplit(shown["thumbnail_url"]).path
    until(lambda: web.get(thumbnail).status_code == 200)
    age(picture, 73)
    assert list_latest(api) == []


def test_the_ten_latest_come_newest_first(api: Api) -> None:
    jobs = [make_result(seconds) for seconds in range(12, 0, -1)]
    assert list_latest(api) == [str(each.pk) for each in reversed(jobs[2:])]


@pytest.mark.parametrize(
    "other",
    [
        {"slot_id": "slot-002"},
        {"source": "test"},
        {"failure_reason": "timeout"},
        {"result_file_path": None},
        {"result_expires_at": timezone.now()},
        {"finalized_at": timezone.now() - timedelta(hours=72, seconds=1)},
    ],
    ids=["another slot's", "a test", "late", "purged", "expired", "old"],
)
def test_what_is_no_recent_success_is_not_among_them(api: Api, other: dict[str, Any]) -> None:
    make_result(1, **other)
    assert list_latest(api) == []


def test_they_are_found_by_their_index_among_many() -> None:
    with connection.cursor() as cursor:
        cursor.execute(MANY.replace("'slot-001'", "'slot-00' || 1 + n % 5"))
        cursor.execute("ANALYZE jobs_job")
    rows = query_recent_jobs("slot-001")
    for query in (
        query_recent_jobs("slot-009")[:RECENT_COUNT],
        rows[:RECENT_COUNT],
        rows.filter(created_at__lt=timezone.now())[:CHUNK],
    ):
        assert "job_newest_of_slot" in query.explain()
    assert len(rows[:RECENT_COUNT]) == RECENT_COUNT


def test_older_pictures_are_listed_once_the_newest_have_expired(api: Api) -> None:
    """As after the retention was shortened, in a slot with thousands of pictures."""
    with connection.cursor() as cursor:
        cursor.execute(MANY)
    jobs = Job.objects.order_by("-created_at")
    expired = list(jobs.values_list("pk", flat=True)[: RECENT_COUNT + CHUNK + 5])
    Job.objects.filter(pk__in=expired).update(result_expires_at=timezone.now())
    expected = jobs.exclude(pk__in=expired)[:RECENT_COUNT]
    assert list_latest(api) == [str(each.pk) for each in expected]


def test_readers_of_statistics_get_them_alone(api: Api) -> None:
    jobs = [make_result(seconds) for seconds in range(12, 0, -1)]
    make_result(1, source="test")
    reader, path = make_api("stats:read"), "/api/stats/slot-001/recent_results"
    response = reader("get", path).json()
    assert response == {"slot_id": "slot-001", "results": api("get", SLOT).json()["recent_results"]}
    assert [each["job_id"] for each in response["results"]] == [str(each.pk) for each in reversed(jobs[2:])]
    assert reader("get", "/api/stats/slot-002/recent_results").json()["results"] == []
    assert list(check_refusal(reader("get", f"{path}?page=1"), 400, "invalid_payload")) == ["page"]


def test_as_csv_they_are_the_same(api: Api) -> None:
    reader, path = make_api("stats:read"), "/api/stats/slot-001/recent_results?format=csv"
    columns = "job_id,thumbnail_url,download_url,completed_at,result_expires_at,mime,size_bytes"
    assert reader("get", path).content.decode().splitlines() == [columns]
    for seconds in (2, 1):
        make_result(seconds)
    response = reader("get", path)
    rows = [*csv.DictReader(response.content.decode().splitlines())]
    results = api("get", SLOT).json()["recent_results"]
    assert rows == [{name: str(value) for name, value in each.items()} for each in results]
    assert response.headers["Content-Disposition"] == 'attachment; filename="statistics-slot-001-results.csv"'


def test_a_change_is_stored_and_returns_the_new_version(api: Api) -> None:
    before = make_etag(api)
    response = put(api, before, is_active=False, size_limit_mb=3)
    assert response.json().keys() == {"id", "updated_at"}
    now = api("get", SLOT)
    assert now.headers["ETag"] == response.headers["ETag"] != before
    assert (SEPIA | {"is_active": False, "size_limit_mb": 3, "updated_at": response.json()["updated_at"]}).items() <= (
        now.json().items()
    )
    message = "Changed name, settings_json, is_active and size_limit_mb."
    assert LogEntry.objects.get().get_change_message() == message


def test_optional_fields_that_are_left_out_stay(api: Api) -> None:
    set_slot(is_active=False, size_limit_mb=5)
    put(api, "*")
    slot = Slot.objects.get(pk="slot-001")
    assert (slot.is_active, slot.size_limit_mb) == (False, 5)
    put(api, "*", size_limit_mb=None, is_active=True)
    slot.refresh_from_db()
    assert (slot.is_active, slot.size_limit_mb) == (True, None)


def test_a_change_must_name_its_version(api: Api) -> None:
    check_refusal(put(api), 400, "version_required")
    check_refusal(api("delete", SLOT), 400, "version_required")
    assert put(api, updated_at=api("get", SLOT).json()["updated_at"]).status_code == 200
    assert put(api, f'"another", {make_etag(api)}').status_code == 200
    assert put(api, make_etag(api), updated_at=api("get", SLOT).json()["updated_at"]).status_code == 200


@pytest.mark.parametrize("by", ["api", "admin", "archive"])
def test_a_version_that_somebody_has_changed_is_a_conflict(api: Api, by: str) -> None:
    seen, seen_at = make_etag(api), api("get", SLOT).json()["updated_at"]
    changing: dict[str, Callable[[], Any]] = {
        "api": lambda: put(api, seen),
        "admin": lambda: Slot.objects.get(pk="slot-001").save(),
        "archive": lambda: Slot.objects.filter(pk="slot-001").archive(),
    }
    changing[by]()
    now = make_etag(api)
    for refused in (put(api, seen), put(api, updated_at=seen_at), put(api, now, updated_at=seen_at), delete(api, seen)):
        assert check_refusal(refused, 409, "version_conflict")["updated_at"] == now.strip('"')
    assert make_etag(api) == now


@pytest.mark.parametrize("tag", ['W/"{}"', "{}", '"{}x"', ""])
def test_a_tag_that_is_not_its_own_is_a_conflict(api: Api, tag: str) -> None:
    sent_tag = tag.format(make_etag(api).strip('"'))
    check_refusal(api("put", SLOT, SEPIA, headers={"If-Match": sent_tag}), 409, "version_conflict")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"provider_id": "nobody"}, "provider_id"),
        ({"operation_id": "style_transfer"}, "settings_json.style"),
        ({"settings_json": {"look": "noir", "frame": "gold"}}, "settings_json.frame"),
        ({"name": ""}, "name"),
        ({"size_limit_mb": 0}, "size_limit_mb"),
        ({"updated_at": "yesterday"}, "updated_at"),
    ],
)
def test_a_change_that_breaks_a_rule_changes_nothing(api: Api, changes: dict[str, Any], named: str) -> None:
    before = Slot.objects.filter(pk="slot-001").values().get()
    assert named in check_refusal(put(api, "*", **changes), 422, "validation_failed")
    assert Slot.objects.filter(pk="slot-001").values().get() == before
    assert not LogEntry.objects.exists()


def test_settings_may_point_to_an_image_of_the_slot(api: Api) -> None:
    TemplateBinding.objects.create(slot_id="slot-001", setting_key="mood", media=image())
    style = {"operation_id": "style_transfer", "settings_json": {"style": "mood"}}
    assert put(api, "*", **style).status_code == 200


@pytest.mark.parametrize("fault", [*BAD_FRAMES, "file gone"])
def test_a_frame_that_cannot_be_used_is_refused(api: Api, fault: str) -> None:
    bind(BAD_FRAMES.get(fault))
    framed = {"settings_json": {"look": "noir", "frame": "border"}}
    details = check_refusal(put(api, "*", **framed), 422, "validation_failed")
    assert list(details) == ["settings_json.frame"]


def test_a_frame_that_can_be_used_is_accepted(api: Api) -> None:
    bind(draw_frame())
    assert put(api, "*", settings_json={"look": "noir", "frame": "border"}).status_code == 200


def test_an_id_is_no_field_of_a_change(api: Api) -> None:
    assert list(check_refusal(put(api, "*", id="slot-099"), 400, "invalid_payload")) == ["id"]


def change_concurrently(api: Api) -> list[int]:
    """Two clients that have seen the same version change it; neither writes before both wait for the lock, or would."""
    tag = make_etag(api)

    def change() -> int:
        client = Client()
        response = client.put(SLOT, SEPIA, "application/json", headers=api.headers | {"If-Match": tag})
        connection.close()
        return response.status_code

    with transaction.atomic():
        Slot.objects.filter(pk="slot-001").update(size_limit_mb=None)  # holds the row
        waiting = [in_background(change) for _ in range(2)]
        until(lambda: count_lock_waits() == 2)
    return sorted(wait() for wait in waiting)


def count_lock_waits() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # or a transaction sees the same snapshot all along
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0])


def test_without_the_lock_two_writers_would_both_win(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlotQuerySet, "select_for_update", lambda rows, **_how: rows)
    assert change_concurrently(api) == [200, 200]


def test_of_two_writers_who_saw_the_same_version_one_wins(api: Api) -> None:
    assert change_concurrently(api) == [200, 409]


def test_archiving_hides_the_slot_from_booths_and_the_list(api: Api, booth: Booth) -> None:
    response = delete(api, make_etag(api))
    assert (response.status_code, response.content) == (204, b"")
    assert booth.post(jpeg()).status == 404
    assert "slot-001" not in [each["id"] for each in api("get", "/api/slots").json()["data"]]
    assert LogEntry.objects.get().get_change_message() == "Changed archived_at."
    assert delete(api, make_etag(api)).status_code == 204
    assert LogEntry.objects.count() == 1


def test_jobs_under_way_prevent_archiving_unless_forced(api: Api, booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    wait = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1)
    assert check_refusal(delete(api), 409, "jobs_under_way") == {"jobs": 1}
    assert Slot.objects.get(pk="slot-001").archived_at is None
    assert delete(api, query="?force=true").status_code == 204
    reply = wait()
    assert (reply.status, Job.objects.get().failure_reason) == (503, "cancelled")
    assert stored_files() == []


@pytest.mark.parametrize("other", ["slot-002's", "over", "overdue"])
def test_other_jobs_do_not_prevent_archiving(api: Api, other: str) -> None:
    now = timezone.now()
    long_ago = {"created_at": now - timedelta(minutes=2), "expires_at": now - timedelta(minutes=1)}
    kinds: dict[str, dict[str, Any]] = {"slot-002's": {"slot_id": "slot-002"}, "overdue": long_ago}
    kinds["over"] = {"is_finalized": True, "finalized_at": now, "failure_reason": "timeout"}
    make_job(**kinds[other])
    assert delete(api).status_code == 204


@pytest.mark.parametrize(("query", "status"), [("?force=1", 422), ("?force=", 422), ("?forse=true", 400)])
def test_a_query_that_cannot_be_archives_nothing(api: Api, query: str, status: int) -> None:
    assert delete(api, query=query).status_code == status
    assert Slot.objects.get(pk="slot-001").archived_at is None


def delete_elsewhere(api: Api, query: str) -> Callable[[], int]:
    """On a connection of its own; calling the answer waits for the status."""

    def send() -> int:
        status: int = delete(api, query=query).status_code
        connection.close()
        return status

    return in_background(send)


@pytest.mark.parametrize("query", ["", "?force=true"])
def test_a_photo_whose_slot_is_archived_before_its_admission_is_refused(
    api: Api, booth: Booth, query: str, sandbox: Sandbox
) -> None:
    use_sandbox("instant")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADMISSION_LOCK])
        wait = in_background(lambda: booth.post(jpeg()))
        until(lambda: count_lock_waits() == 1)  # it has looked the slot up, and waits for its admission
        assert delete_elsewhere(api, query)() == 204
    reply = wait()
    assert reply.status == 404
    assert json.loads(reply.body)["error"]["code"] == "slot_not_found"
    assert not Job.objects.exists()
    assert stored_files() == []


@pytest.mark.parametrize(("query", "status"), [("", 409), ("?force=true", 204)])
def test_a_photo_that_is_being_admitted_is_under_way(
    api: Api, booth: Booth, query: str, status: int, sandbox: Sandbox
) -> None:
    use_sandbox("instant", "hold")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE stats_processinglog IN EXCLUSIVE MODE")
        post = in_background(lambda: booth.post(jpeg()))
        until(lambda: count_lock_waits() == 1)  # its job is inserted, and not yet committed
        archive = delete_elsewhere(api, query)
        until(lambda: count_lock_waits() == 2)
    assert archive() == status
    sandbox.let_go()
    assert post().status == (503 if status == 204 else 200)
