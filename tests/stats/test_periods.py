"""Where periods begin and end, in different time zones."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from stats.periods import Window, end_in_utc, find_first_period, measure_duration, start_in_utc

pytestmark = pytest.mark.unit


def make_window(start: str, end: str, group_by: str = "day", zone: str = "UTC") -> Window:
    """From the one day to the other, both included."""
    zone_info = ZoneInfo(zone)
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    return Window.from_range(start_in_utc(first, zone_info), end_in_utc(last, zone_info), group_by, zone_info)


def hours(window: Window) -> list[int]:
    """The length of each period."""
    edges = window.edges()
    return [int((after - before) / timedelta(hours=1)) for before, after in pairwise(edges)]


def starts(window: Window) -> list[str]:
    return [f"{edge.astimezone(window.zone):%m-%d %H}" for edge in window.edges()]


@pytest.mark.parametrize(
    ("day", "zone", "count"),
    [
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        ("2026-10-25", "Asia/Vladivostok", 24),
        ("2026-04-24", "Africa/Cairo", 23),  # its midnight does not exist
        ("2026-11-01", "America/Havana", 25),  # its midnight comes twice
    ],
)
def test_a_day_has_the_hours_that_its_clocks_say(day: str, zone: str, count: int) -> None:
    window = make_window(day, day, zone=zone)
    assert hours(window) == [count]
    assert measure_duration(window.start, window.end, window.zone) <= timedelta(days=1)
    assert hours(make_window(day, day, "hour", zone)) == [1] * count


def test_days_of_another_zone_begin_at_its_midnight() -> None:
    window = make_window("2026-11-25", "2026-11-25", zone="Asia/Vladivostok")
    assert window.start == datetime(2026, 11, 24, 14, tzinfo=UTC)


def test_weeks_begin_on_monday_and_the_window_cuts_the_first_and_last() -> None:
    window = make_window("2026-10-22", "2026-11-03", "week", "Europe/Berlin")
    assert starts(window) == ["10-22 00", "10-26 00", "11-02 00", "11-04 00"]
    assert hours(window) == [97, 168, 48]


def test_months_are_as_long_as_they_are() -> None:
    assert hours(make_window("2028-01-31", "2028-03-01", "month")) == [24, 29 * 24, 24]
    assert starts(make_window("2026-12-01", "2027-01-31", "month")) == ["12-01 00", "01-01 00", "02-01 00"]


@pytest.mark.parametrize(
    ("group_by", "days", "first"),
    [("week", 56, "2026-10-05"), ("day", 56, "2026-10-01"), ("month", 56, "2026-10-01"), ("day", 14, "2026-11-12")],
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Vladivostok", "America/New_York"])
def test_the_usual_window_begins_with_a_whole_period(group_by: str, days: int, first: str, zone: str) -> None:
    zone_info = ZoneInfo(zone)
    end = end_in_utc(date(2026, 11, 25), zone_info)
    assert find_first_period(end, days, group_by, zone_info) == start_in_utc(date.fromisoformat(first), zone_info)


def test_a_datetime_is_widened_to_its_hour() -> None:
    start, end = datetime(2026, 11, 25, 10, 59, 59, tzinfo=UTC), datetime(2026, 11, 25, 12, 0, 0, 1, tzinfo=UTC)
    window = Window.from_range(start, end, "hour", ZoneInfo("UTC"))
    assert (window.start.hour, window.end.hour, hours(window)) == (10, 13, [1, 1, 1])
    assert Window.from_range(start, end.replace(microsecond=0), "hour", ZoneInfo("UTC")).end.hour == 12


@pytest.mark.parametrize(("zone", "is_whole"), [("Asia/Kolkata", False), ("Asia/Vladivostok", True), ("UTC", True)])
def test_days_that_begin_within_an_hour_are_detected(zone: str, is_whole: bool) -> None:
    assert make_window("2026-11-01", "2026-11-02", zone=zone).has_whole_hours() is is_whole


def test_a_zone_may_have_whole_hours_for_half_a_year() -> None:
    assert make_window("2026-01-01", "2026-01-02", zone="Australia/Lord_Howe").has_whole_hours()
    assert not make_window("2026-07-01", "2026-07-02", zone="Australia/Lord_Howe").has_whole_hours()


def test_time_zones_are_there_where_the_system_has_none() -> None:
    zoneinfo.reset_tzpath(to=())
    try:
        assert {"UTC", "Europe/Berlin", "Asia/Vladivostok"} <= zoneinfo.available_timezones()
    finally:
        zoneinfo.reset_tzpath()
