"""A report is cached, and yet includes the last job that ended, whichever process ended it."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection

from stats.models import HourlyCounter, HourlyTotal, SlotFigures
from tests.api import Api, make_api
from tests.conftest import Booth, jpeg, set_slot, use_sandbox
from tests.stats.counters import count

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

SLOT, GLOBAL, OF_SLOT = "/api/stats/slot-001", "/api/stats/global", "/api/stats/global?slot_id=slot-001"


@pytest.fixture
def api() -> Api:
    return make_api("stats:read")


def get_counts(api: Api) -> list[int]:
    """How many photos each report counts."""
    return [api("get", path).json()["summary"]["ingest_count"] for path in (SLOT, GLOBAL, OF_SLOT)]


def change_figures_silently() -> None:
    """Changes the figures without changing their version."""
    HourlyCounter.objects.update(ingest_count=70)
    HourlyTotal.objects.update(ingest_count=70)


def test_a_report_is_kept_until_a_job_ends(api: Api) -> None:
    count()
    assert get_counts(api) == [1, 1, 1]
    change_figures_silently()
    assert get_counts(api) == [1, 1, 1]
    count(None, "errors")
    assert get_counts(api) == [71, 71, 71]


@pytest.mark.parametrize(("path", "seconds"), [(SLOT, 300), (GLOBAL, 60)])
def test_a_report_is_kept_no_longer_than_the_contract_says(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str, seconds: int
) -> None:
    kept: list[Any] = []
    keep = cache.get_or_set

    def record(key: str, compute: Any, lifetime: int) -> Any:
        kept.append(lifetime)
        return keep(key, compute, lifetime)

    monkeypatch.setattr(cache, "get_or_set", record)
    api("get", path)
    assert kept == [seconds]


def test_another_slots_job_leaves_a_slots_report_kept(api: Api) -> None:
    count()
    get_counts(api)
    change_figures_silently()
    count(None, slot_id="slot-002")
    assert get_counts(api) == [1, 71, 70]


def test_reports_of_other_queries_are_other_reports(api: Api) -> None:
    count()
    count(None, "errors", provider_id="gemini")
    queries = ["", "?provider_id=gemini", "?slot_id=slot-002", "?group_by=day", "?tz=Asia/Vladivostok"]
    answers = [api("get", GLOBAL + query).json() for query in queries]
    assert [answer["summary"]["total_runs"] for answer in answers] == [2, 1, 0, 2, 2]
    assert [len(answer["data"]) for answer in answers[:4]] == [8, 8, 8, 20]
    assert answers[4]["data"][0]["period_start"].endswith("+10:00")


@pytest.mark.e2e
def test_a_photo_that_another_process_made_is_seen_at_once(api: Api, booth: Booth) -> None:
    use_sandbox("instant")
    assert get_counts(api) == [0, 0, 0]
    for photos in (1, 2):
        assert booth.post(jpeg(width=100 + photos)).status == 200
        assert get_counts(api) == [photos] * 3


def test_a_renamed_slot_has_its_new_name_at_once(api: Api) -> None:
    count()
    get_counts(api)
    set_slot(name="=Summer")
    assert api("get", SLOT).json()["summary"]["title"] == "=Summer"
    assert b"=Summer" not in api("get", f"{SLOT}?format=csv").content


def test_figures_that_were_created_again_are_no_older_ones(api: Api) -> None:
    """As after a restore: their versions are higher than all before."""
    count()
    get_counts(api)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE stats_hourlycounter, stats_hourlytotal, stats_slotfigures")
    count(None, slot_id="slot-001")
    change_figures_silently()
    assert get_counts(api) == [70, 70, 70]
    assert SlotFigures.objects.get().version > 1_000_000_000_000_000
