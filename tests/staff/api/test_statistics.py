"""`/api/stats`: figures of all slots and of one, by period, as JSON and as CSV."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from slots.models import Slot
from stats import reports
from stats.models import HourlyCounter, HourlyTotal
from stats.periods import Window
from stats.reports import COUNTERS
from tests.api import Api, check_refusal, make_api
from tests.stats.counters import count

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

GLOBAL, SLOT = "/api/stats/global", "/api/stats/slot-001"
OUTCOMES = ("success", "timeouts", "provider_errors", "cancelled", "errors")
# Counters of every hour of 40 days for 50 slots and 2 providers, and 3 years of hourly totals.
MANY = """
INSERT INTO stats_hourlycounter (hour, slot_id, provider_id, source, duration_buckets, wait_buckets)
SELECT hour, 'slot-' || lpad(slot::text, 3, '0'), provider, 'booth', '{}', '{}'
FROM generate_series('2026-01-01Z', '2026-01-01Z'::timestamptz + '40 days', '1 hour') AS hour,
    generate_series(1, 50) AS slot, unnest(ARRAY['studio', 'gemini']) AS provider;
INSERT INTO stats_hourlytotal (hour, provider_id)
SELECT hour, provider FROM generate_series('2024-01-01Z', '2026-12-31Z'::timestamptz, '1 hour') AS hour,
    unnest(ARRAY['studio', 'gemini']) AS provider;
"""


@pytest.fixture
def api() -> Api:
    return make_api("stats:read")


def parse_utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def get_report(api: Api, path: str, **query: Any) -> Any:
    """`since` stands for the parameter `from`, a keyword of Python."""
    if "since" in query:
        query["from"] = query.pop("since")
    response = api("get", path + "?" + "&".join(f"{name}={value}" for name, value in query.items()))
    assert response.status_code == 200, response.content
    return response.json()


def select_periods(rows: list[dict[str, Any]], name: str = "ingest_count") -> dict[str, int]:
    """The periods with a count above 0, by their start."""
    return {row["period_start"]: row[name] for row in rows if row[name]}


def test_each_outcome_is_counted_and_the_summary_is_the_sum(api: Api) -> None:
    count(parse_utc("2026-03-03T12:34"), *OUTCOMES, "success")
    count(parse_utc("2026-03-05T00:00"), "timeouts")
    window = {"since": "2026-03-03", "to": "2026-03-05"}
    figures = {"success": 2, "timeouts": 2, "provider_errors": 1, "cancelled": 1, "errors": 1, "ingest_count": 7}
    slot, whole = get_report(api, SLOT, **window), get_report(api, GLOBAL, group_by="day", **window)
    name = Slot.objects.get(pk="slot-001").name
    assert slot["summary"] == figures | {"title": name, "last_reset_at": None}
    assert whole["summary"] == figures | {"total_runs": 7}
    assert slot["metrics"] == whole["data"]
    assert [row["success"] for row in slot["metrics"]] == [2, 0, 0]
    assert all(sum(row[name] for row in slot["metrics"]) == figures[name] for name in COUNTERS)


def test_the_usual_report_is_of_eight_weeks_or_fourteen_days(api: Api) -> None:
    count()
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday = today - timedelta(days=today.weekday())
    weeks, days = get_report(api, GLOBAL), get_report(api, SLOT)
    assert [row["period_start"] for row in weeks["data"]] == [
        f"{monday - timedelta(weeks=ago):%Y-%m-%dT%H:%M:%SZ}" for ago in range(7, -1, -1)
    ]
    assert [row["period_start"] for row in days["metrics"]] == [
        f"{today - timedelta(days=ago):%Y-%m-%dT%H:%M:%SZ}" for ago in range(13, -1, -1)
    ]
    assert weeks["data"][-1]["ingest_count"] == days["metrics"][-1]["ingest_count"] == 1
    assert (weeks["meta"]["range"]["group_by"], days["range"]["group_by"]) == ("week", "day")
    assert days["range"]["to"] == weeks["meta"]["range"]["to"] == f"{today + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(
    ("path", "group_by", "starts"),
    [
        (SLOT, "hour", ["2026-03-01T23:00:00Z", "2026-03-02T00:00:00Z", "2026-03-09T23:00:00Z"]),
        (SLOT, "day", ["2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"]),
        (SLOT, "week", ["2026-02-28T00:00:00Z", "2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"]),
        (GLOBAL, "day", ["2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"]),
        (GLOBAL, "month", ["2026-03-01T00:00:00Z"]),
    ],
)
def test_photos_are_counted_in_the_period_of_their_arrival(
    api: Api, path: str, group_by: str, starts: list[str]
) -> None:
    for moment in ("2026-02-27T23:59:59", "2026-03-01T23:59:59", "2026-03-02T00:00", "2026-03-09T23:10", "2026-03-10"):
        count(parse_utc(moment))
    found = get_report(api, path, since="2026-02-28", to="2026-03-09", group_by=group_by)
    rows = found["data" if path == GLOBAL else "metrics"]
    assert select_periods(rows) == dict.fromkeys(starts, 3 // len(starts))
    assert rows[0]["period_start"] == "2026-02-28T00:00:00Z"
    assert rows[-1]["period_end"] == "2026-03-10T00:00:00Z"
    assert all(before["period_end"] == after["period_start"] for before, after in pairwise(rows))


@pytest.mark.parametrize("zone", ["Asia/Vladivostok", "America/New_York", "Europe/Berlin"])
def test_days_are_those_of_the_time_zone(api: Api, zone: str) -> None:
    midnight = datetime(2026, 3, 29, tzinfo=ZoneInfo(zone))
    for moment in (midnight - timedelta(hours=1), midnight, midnight + timedelta(days=1, minutes=-1)):
        count(moment.astimezone(UTC))
    rows = get_report(api, SLOT, since="2026-03-28", to="2026-03-29", tz=zone)["metrics"]
    assert [row["ingest_count"] for row in rows] == [1, 2]
    assert rows[1]["period_start"] == midnight.isoformat()


def test_hours_are_of_every_zone(api: Api) -> None:
    count(parse_utc("2026-03-03T12:10"))
    window = {"since": "2026-03-03T12:00Z", "to": "2026-03-03T14:00Z", "tz": "Asia/Kolkata"}
    rows = get_report(api, SLOT, group_by="hour", **window)["metrics"]
    assert [(row["period_start"], row["success"]) for row in rows] == [
        ("2026-03-03T17:30:00+05:30", 1),
        ("2026-03-03T18:30:00+05:30", 0),
    ]


def test_a_window_may_start_and_end_at_a_time_with_an_offset(api: Api) -> None:
    count(parse_utc("2026-03-03T08:59"), "timeouts")
    count(parse_utc("2026-03-03T09:30"))
    count(parse_utc("2026-03-03T11:00"), "errors")
    window = {"since": "2026-03-03T12:20:00%2B03:00", "to": "2026-03-03T11:00Z", "group_by": "hour"}
    found = get_report(api, SLOT, **window)
    assert (found["range"]["from"], found["range"]["to"]) == ("2026-03-03T09:00:00Z", "2026-03-03T11:00:00Z")
    assert [row["ingest_count"] for row in found["metrics"]] == [1, 0]


def test_test_runs_are_not_counted(api: Api) -> None:
    count(None, "success", "errors", source="test")
    assert get_report(api, SLOT)["summary"]["ingest_count"] == get_report(api, GLOBAL)["summary"]["ingest_count"] == 0
    assert get_report(api, GLOBAL, slot_id="slot-001")["summary"]["ingest_count"] == 0


def test_filters_narrow_what_is_counted(api: Api) -> None:
    count(None)
    count(None, "timeouts", "timeouts", provider_id="gemini")
    count(None, *["errors"] * 4, slot_id="slot-002", provider_id="gemini")
    queries: list[dict[str, str]] = [
        {},
        {"provider_id": "gemini"},
        {"slot_id": "slot-001"},
        {"slot_id": "slot-001", "provider_id": "gemini"},
        {"slot_id": "slot-099"},
    ]
    assert [get_report(api, GLOBAL, **query)["summary"]["total_runs"] for query in queries] == [7, 6, 3, 2, 0]
    assert get_report(api, SLOT)["summary"]["ingest_count"] == 3


def test_the_total_of_an_hour_is_the_sum_of_its_counters() -> None:
    for slot in ("slot-001", "slot-002"):
        for provider in ("studio", "gemini"):
            count(parse_utc("2026-03-03T12:10"), *OUTCOMES, "success", slot_id=slot, provider_id=provider)
    count(parse_utc("2026-03-03T12:10"), source="test")
    for total in HourlyTotal.objects.all():
        counters = HourlyCounter.objects.filter(source="booth", hour=total.hour, provider_id=total.provider_id)
        assert reports.sum_rows(counters.values(*COUNTERS)) == {name: getattr(total, name) for name in COUNTERS}
    assert sorted(HourlyTotal.objects.values_list("provider_id", "ingest_count")) == [("gemini", 12), ("studio", 12)]


def test_periods_are_sorted_and_paginated(api: Api) -> None:
    count(parse_utc("2026-03-03T12:00"), "success", "success")
    count(parse_utc("2026-03-05T12:00"), "success", "timeouts", "timeouts")
    window = {"since": "2026-03-01", "to": "2026-03-06", "group_by": "day", "page_size": 2}
    first = get_report(api, GLOBAL, sort_by="ingest_count", sort_order="desc", **window)
    assert [(row["period_start"][:10], row["ingest_count"]) for row in first["data"]] == [
        ("2026-03-05", 3),
        ("2026-03-03", 2),
    ]
    assert {name: first["meta"][name] for name in ("page", "page_size", "total")} == {
        "page": 1,
        "page_size": 2,
        "total": 6,
    }
    pages = [get_report(api, GLOBAL, page=page, sort_order="desc", **window) for page in (1, 2, 3, 4)]
    assert [row["period_start"][8:10] for page in pages for row in page["data"]] == ["06", "05", "04", "03", "02", "01"]
    assert all(page["summary"] == first["summary"] for page in pages)


@pytest.mark.parametrize(("path", "days"), [(GLOBAL, 90), (SLOT, 31)])
def test_a_window_has_a_maximum_length(api: Api, path: str, days: int) -> None:
    """In calendar days: the extra hour at the end of summer time does not count."""
    last = datetime(2026, 11, 1, tzinfo=UTC)
    for length, status in ((days, 200), (days + 1, 422)):
        since = last - timedelta(days=length - 1)
        response = api("get", f"{path}?from={since:%Y-%m-%d}&to={last:%Y-%m-%d}&group_by=day&tz=Europe/Berlin")
        assert response.status_code == status
    assert list(check_refusal(response, 422, "validation_failed")) == ["from"]
    assert str(days) in response.json()["error"]["details"]["from"][0]


@pytest.mark.parametrize(("path", "days"), [(GLOBAL, 90), (SLOT, 31)])
@pytest.mark.parametrize(
    ("end", "zone"),
    [("2026-11-25T12:34:00Z", "UTC"), ("2026-04-10T12:34:00Z", "Europe/Berlin")],
    ids=["within hours", "summer time starts"],
)
def test_a_window_of_the_maximum_length_may_start_at_any_time(
    api: Api, path: str, days: int, end: str, zone: str
) -> None:
    """The first and last hour are reported whole, and 24 hours are a day even at the start of summer time."""
    for more, status in ((timedelta(), 200), (timedelta(minutes=1), 422)):
        since = datetime.fromisoformat(end) - timedelta(days=days) - more
        response = api("get", f"{path}?from={since:%Y-%m-%dT%H:%M}Z&to={end}&group_by=day&tz={zone}")
        assert response.status_code == status


@pytest.mark.parametrize("path", [GLOBAL, SLOT])
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("from=2026-03-02&to=2026-03-01", "from"),
        ("from=2026-03-02T10:00Z&to=2026-03-02T10:00Z", "from"),
        ("from=2999-01-01", "from"),
        ("from=2026-02-30", "from"),
        ("from=2026-03-02T10:00", "from"),
        ("from=2026-03-02T10:00:00+03:00", "from"),  # a plus that is not encoded means a blank
        ("to=1999-12-31", "to"),
        ("to=yesterday", "to"),
        ("to=", "to"),
        ("tz=Europe/Atlantis", "tz"),
        ("tz=../../etc/passwd", "tz"),
        ("tz=%00", "tz"),
        ("tz=Asia/Kolkata", "tz"),
        ("group_by=year", "group_by"),
        ("format=xml", "format"),
    ],
)
def test_invalid_values_are_refused_by_name(api: Api, path: str, query: str, named: str) -> None:
    assert list(check_refusal(api("get", f"{path}?{query}"), 422, "validation_failed")) == [named]


def test_the_refusal_explains_a_plus_that_was_not_encoded(api: Api) -> None:
    details = check_refusal(api("get", f"{SLOT}?from=2026-03-02T10:00:00+03:00"), 422, "validation_failed")
    assert "%2B" in details["from"][0]


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        (GLOBAL, "group_by=hour", 422),
        (SLOT, "group_by=month", 422),
        (GLOBAL, "sort_by=late_answers", 422),
        (GLOBAL, "page_size=101", 422),
        (SLOT, "page=1", 400),
        (GLOBAL, "since=2026-03-01", 400),
        (SLOT, "tz=UTC&tz=UTC", 400),
    ],
)
def test_parameters_of_the_other_report_are_refused(api: Api, path: str, query: str, status: int) -> None:
    check_refusal(api("get", f"{path}?{query}"), status, "validation_failed" if status == 422 else "invalid_payload")


@pytest.mark.parametrize("slot_id", ["slot-099", "nobody", "%00", "slot-001%0A"])
def test_an_unknown_slot_is_a_404(api: Api, slot_id: str) -> None:
    for path in (f"/api/stats/{slot_id}", f"/api/stats/{slot_id}/recent_results"):
        check_refusal(api("get", path), 404, "not_found")


def test_an_archived_slots_figures_stay(api: Api) -> None:
    count()
    Slot.objects.filter(pk="slot-001").archive()
    of_slot, of_all = get_report(api, SLOT), get_report(api, GLOBAL, slot_id="slot-001")
    assert of_slot["summary"]["success"] == of_all["summary"]["success"] == 1


@pytest.mark.parametrize(
    ("path", "table", "query"),
    [(GLOBAL, "data", "group_by=day&sort_order=desc&page_size=5&tz=Asia/Vladivostok"), (SLOT, "metrics", "tz=UTC")],
)
def test_csv_has_the_rows_that_json_has(api: Api, path: str, table: str, query: str) -> None:
    count(None, *OUTCOMES)
    rows = api("get", f"{path}?{query}&format=json").json()[table]
    response = api("get", f"{path}?{query}&format=csv", headers={"Accept": "application/json"})
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    name = "statistics.csv" if path == GLOBAL else "statistics-slot-001-metrics.csv"
    assert response.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    lines = response.content.decode().splitlines()
    assert lines[0] == "period_start,period_end,success,timeouts,provider_errors,cancelled,errors,ingest_count"
    assert [*csv.DictReader(lines)] == [{name: str(value) for name, value in row.items()} for row in rows]
    assert api("get", f"{path}?{query}", headers={"Accept": "text/csv"}).content == response.content


def test_refusals_of_a_csv_request_are_json(api: Api) -> None:
    for query in ("format=csv&tz=Nowhere", "format=xml"):
        check_refusal(api("get", f"{GLOBAL}?{query}", headers={"Accept": "text/csv"}), 422, "validation_failed")
    check_refusal(api("get", "/api/stats/slot-099?format=csv"), 404, "not_found")
    check_refusal(api("get", GLOBAL, headers={"Accept": "text/html"}), 406, "not_acceptable")


def explain(filters: dict[str, Any], days: int) -> str:
    start = datetime(2026, 1, 5, tzinfo=UTC)
    window = Window(start, start + timedelta(days=days), "day", ZoneInfo("UTC"))
    return str(reports.sum_by_period(window.edges(), **filters).explain(analyze=True))


def test_a_hundred_thousand_hours_are_not_read() -> None:
    with connection.cursor() as cursor:
        cursor.execute(MANY)
        cursor.execute("ANALYZE stats_hourlycounter, stats_hourlytotal")
    global_plan, slot_plan = explain({}, 90), explain({"slot_id": "slot-003", "reset_generation": 0}, 31)
    assert "stats_hourlycounter" not in global_plan
    assert "total_once_per_hour" in global_plan
    assert "counter_once_per_hour" in slot_plan
    assert "Rows Removed" not in slot_plan
    assert f"rows={31 * 24 * 2}" in slot_plan


def test_a_cached_report_takes_one_query(api: Api) -> None:
    count()
    for path in (GLOBAL, SLOT):
        get_report(api, path)
        with CaptureQueriesContext(connection) as captured:
            get_report(api, path)
        assert not any("width_bucket" in query["sql"] for query in captured)
        assert sum("stats_" in query["sql"] for query in captured) == 1
