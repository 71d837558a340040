"""`POST /api/slots/{slot_id}/reset_stats`: what came in before is counted no more, to the photo."""

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
from tests.queue_helpers import PICTURE, REPORT, claimed
from tests.stats.counters import count

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

SLOT, RESET = "/api/stats/slot-001", "/api/slots/slot-001/reset_stats"


@pytest.fixture
def api() -> Api:
    return make_api("stats:read", "slots:write")


def reset(api: Api) -> None:
    answer = api("post", RESET)
    assert (answer.status_code, answer.content) == (204, b"")


def seen(api: Api, path: str = SLOT) -> int:
    count: int = api("get", path).json()["summary"]["ingest_count"]
    return count


def ended(photos: int, at: datetime | None = None) -> int:
    count(at, *["success"] * photos)
    return photos


def test_what_was_counted_before_is_gone_from_the_slots_report_only(api: Api) -> None:
    count(None, "success", "errors")
    count(None, slot_id="slot-002")
    assert seen(api) == 2
    reset(api)
    assert [seen(api), seen(api, "/api/stats/slot-002"), seen(api, "/api/stats/global")] == [0, 1, 3]
    count()
    assert [seen(api), seen(api, "/api/stats/global"), seen(api, "/api/stats/global?slot_id=slot-001")] == [1, 4, 3]


def test_a_photo_that_came_in_before_it_belongs_to_what_was_before(api: Api) -> None:
    before = datetime.now(UTC)
    reset(api)
    at = SlotFigures.objects.get().last_reset_at
    assert at
    for received_at in (before, at - timedelta(microseconds=1), at):
        count(received_at)
    assert seen(api) == 1
    reset(api)
    count(before)
    count(at)
    assert seen(api) == 0


async def test_a_job_under_way_meanwhile_is_counted_as_of_before(queue: Queue, alone: None) -> None:
    claim = await claimed(queue)
    await in_thread(reports.reset, "slot-001")
    later = await claimed(queue)
    for each in (claim, later):
        assert await queue.finalize(each, PICTURE, REPORT)
    eras = await in_thread(lambda: sorted(HourlyCounter.objects.values_list("reset_generation", "ingest_count")))
    assert eras == [(0, 1), (1, 1)]


def test_the_moment_is_told_and_it_is_in_the_history(api: Api) -> None:
    assert api("get", SLOT).json()["summary"]["last_reset_at"] is None
    reset(api)
    first = api("get", SLOT).json()["summary"]["last_reset_at"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(first)) < timedelta(minutes=1)
    reset(api)
    assert api("get", SLOT).json()["summary"]["last_reset_at"] > first
    entries = LogEntry.objects.filter(object_id="slot-001")
    assert [entry.get_change_message() for entry in entries] == ["Statistics reset"] * 2


def test_metrics_never_fall(api: Api) -> None:
    def shown() -> float:
        (requests,) = (metric for metric in FinishedJobs().collect() if metric.name == "ingest_requests")
        return float(requests.samples[0].value)

    count(None, "success", "success")
    reset(api)
    assert shown() == 2
    count()
    assert shown() == 3


def waiting(jobs: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0]) == jobs


def test_a_job_that_ends_during_a_reset_knows_of_it(api: Api) -> None:
    """It waits for the reset to be done, or it would be counted into the new generation, where it does not belong."""
    count()
    before = datetime.now(UTC)
    with transaction.atomic():
        reports.reset("slot-001")
        ends = [in_background(lambda: ended(1, before)), in_background(lambda: ended(1))]
        until(lambda: waiting(2))
    for end in ends:
        end()
    assert seen(api) == 1
    assert sorted(HourlyCounter.objects.values_list("reset_generation", "ingest_count")) == [(0, 2), (1, 1)]


def test_two_resets_at_once_are_two(api: Api) -> None:
    def again() -> Any:
        reports.reset("slot-001")
        connection.close()
        return True

    with transaction.atomic():
        reports.reset("slot-001")
        others = [in_background(again) for _ in range(2)]
        until(lambda: waiting(2))
    assert all(other() for other in others)
    assert SlotFigures.objects.get().reset_generation == 3


def test_jobs_that_end_while_it_is_reset_are_all_counted_once(api: Api) -> None:
    ends = [in_background(lambda: ended(20)) for _ in range(3)]
    for _ in range(5):
        reset(api)
    for end in ends:
        end()
    assert sum(HourlyCounter.objects.values_list("ingest_count", flat=True)) == 60
    assert seen(api, "/api/stats/global") == 60
    assert seen(api) == sum(HourlyCounter.objects.filter(reset_generation=5).values_list("ingest_count", flat=True))


def test_an_archived_slots_statistics_can_be_reset_and_an_unknown_ones_not(api: Api) -> None:
    Slot.objects.filter(pk="slot-001").archive()
    reset(api)
    check_refusal(api("post", "/api/slots/slot-099/reset_stats"), 404, "not_found")
    assert [*SlotFigures.objects.values_list("slot_id", flat=True)] == ["slot-001"]


def test_it_takes_nothing(api: Api) -> None:
    for body, query in (({"since": 1}, ""), ([], ""), ({}, "?force=true")):
        check_refusal(api("post", RESET + query, body), 400, "invalid_payload")
    assert not SlotFigures.objects.exists()
    assert not LogEntry.objects.exists()
