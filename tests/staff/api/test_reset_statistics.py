"""`POST /api/slots/{slot_id}/reset_stats`: photos that arrived before it are not counted any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection, transaction

from core.database import in_thread
from jobs.queue.verbs import Queue
from slots.models import Slot
from stats import reports
from stats.metrics import FinishedJobs
from stats.models import HourlyCounter, SlotFigures
from tests.api import Api, check_refusal, make_api
from tests.conftest import in_background
from tests.photoslot.waiting import until
from tests.queue_helpers import PICTURE, REPORT, claim_job
from tests.stats.counters import count

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

SLOT, RESET = "/api/stats/slot-001", "/api/slots/slot-001/reset_stats"


@pytest.fixture
def api() -> Api:
    return make_api("stats:read", "slots:write")


def reset(api: Api) -> None:
    response = api("post", RESET)
    assert (response.status_code, response.content) == (204, b"")


def get_count(api: Api, path: str = SLOT) -> int:
    count: int = api("get", path).json()["summary"]["ingest_count"]
    return count


def count_successes(photos: int, at: datetime | None = None) -> int:
    count(at, *["success"] * photos)
    return photos


def test_earlier_photos_are_missing_from_the_slots_report_only(api: Api) -> None:
    count(None, "success", "errors")
    count(None, slot_id="slot-002")
    assert get_count(api) == 2
    reset(api)
    assert [get_count(api), get_count(api, "/api/stats/slot-002"), get_count(api, "/api/stats/global")] == [0, 1, 3]
    count()
    assert [
        get_count(api),
        get_count(api, "/api/stats/global"),
        get_count(api, "/api/stats/global?slot_id=slot-001"),
    ] == [1, 4, 3]


def test_a_photo_that_arrived_before_a_reset_is_never_counted_after_it(api: Api) -> None:
    before = datetime.now(UTC)
    reset(api)
    reset_at = SlotFigures.objects.get().last_reset_at
    assert reset_at
    for received_at in (before, reset_at - timedelta(microseconds=1), reset_at):
        count(received_at)
    assert get_count(api) == 1
    reset(api)
    count(before)
    count(reset_at)
    assert get_count(api) == 0


async def test_a_job_that_was_under_way_counts_for_the_old_generation(queue: Queue, alone: None) -> None:
    claim = await claim_job(queue)
    await in_thread(reports.reset, "slot-001")
    later = await claim_job(queue)
    for each in (claim, later):
        assert await queue.finalize(each, PICTURE, REPORT)
    generations = await in_thread(lambda: sorted(HourlyCounter.objects.values_list("reset_generation", "ingest_count")))
    assert generations == [(0, 1), (1, 1)]


def test_the_time_of_the_reset_is_reported_and_in_the_history(api: Api) -> None:
    assert api("get", SLOT).json()["summary"]["last_reset_at"] is None
    reset(api)
    first = api("get", SLOT).json()["summary"]["last_reset_at"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(first)) < timedelta(minutes=1)
    reset(api)
    assert api("get", SLOT).json()["summary"]["last_reset_at"] > first
    entries = LogEntry.objects.filter(object_id="slot-001")
    assert [entry.get_change_message() for entry in entries] == ["Statistics reset"] * 2


def test_metrics_never_decrease(api: Api) -> None:
    def get_metric() -> float:
        (requests,) = (metric for metric in FinishedJobs().collect() if metric.name == "ingest_requests")
        return float(requests.samples[0].value)

    count(None, "success", "success")
    reset(api)
    assert get_metric() == 2
    count()
    assert get_metric() == 3


def are_waiting(count: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0]) == count


def test_a_job_that_ends_during_a_reset_waits_for_it(api: Api) -> None:
    """Otherwise a photo from before the reset could be counted in the new generation."""
    count()
    before = datetime.now(UTC)
    with transaction.atomic():
        reports.reset("slot-001")
        waits = [in_background(lambda: count_successes(1, before)), in_background(lambda: count_successes(1))]
        until(lambda: are_waiting(2))
    for wait in waits:
        wait()
    assert get_count(api) == 1
    assert sorted(HourlyCounter.objects.values_list("reset_generation", "ingest_count")) == [(0, 2), (1, 1)]


def test_two_resets_at_once_are_two(api: Api) -> None:
    def reset_again() -> Any:
        reports.reset("slot-001")
        connection.close()
        return True

    with transaction.atomic():
        reports.reset("slot-001")
        waits = [in_background(reset_again) for _ in range(2)]
        until(lambda: are_waiting(2))
    assert all(wait() for wait in waits)
    assert SlotFigures.objects.get().reset_generation == 3


def test_jobs_that_end_while_it_is_reset_are_all_counted_once(api: Api) -> None:
    waits = [in_background(lambda: count_successes(20)) for _ in range(3)]
    for _ in range(5):
        reset(api)
    for wait in waits:
        wait()
    assert sum(HourlyCounter.objects.values_list("ingest_count", flat=True)) == 60
    assert get_count(api, "/api/stats/global") == 60
    assert get_count(api) == sum(
        HourlyCounter.objects.filter(reset_generation=5).values_list("ingest_count", flat=True)
    )


def test_an_archived_slots_statistics_can_be_reset_and_an_unknown_ones_not(api: Api) -> None:
    Slot.objects.filter(pk="slot-001").archive()
    reset(api)
    check_refusal(api("post", "/api/slots/slot-099/reset_stats"), 404, "not_found")
    assert [*SlotFigures.objects.values_list("slot_id", flat=True)] == ["slot-001"]


def test_it_accepts_no_body_and_no_query(api: Api) -> None:
    for body, query in (({"since": 1}, ""), ([], ""), ({}, "?force=true")):
        check_refusal(api("post", RESET + query, body), 400, "invalid_payload")
    assert not SlotFigures.objects.exists()
    assert not LogEntry.objects.exists()
