"""The periods of a report: hours, days, weeks and months of a time zone, as ranges of UTC hours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open range from `start` to `end`, both in UTC and on the hour."""

    start: datetime
    end: datetime
    group_by: str  # hour, day, week or month
    zone: ZoneInfo

    @classmethod
    def from_range(cls, start: datetime, end: datetime, group_by: str, zone: ZoneInfo) -> Self:
        """The range, widened to whole hours of UTC."""
        return cls(floor_to_hour(start), floor_to_hour(end + HOUR - MICROSECOND), group_by, zone)

    def edges(self) -> list[datetime]:
        """The starts of its periods, and the end of the last. The first and last may be parts of a week or month."""
        edges = [self.start]
        while (next_start := find_next_period(edges[-1], self.group_by, self.zone)) < self.end:
            edges.append(next_start)
        return [*edges, self.end]

    def has_whole_hours(self) -> bool:
        """Whether all periods begin on an hour of UTC, as the counters do: they cannot give a local day that begins at
        half past one. Periods of an hour are always UTC's."""
        return self.group_by == "hour" or not any(edge.astimezone(self.zone).minute for edge in self.edges())


def measure_duration(start: datetime, end: datetime, zone: ZoneInfo) -> timedelta:
    """The shorter of local and elapsed time, since people mean either: by local time, a day with a clock change counts
    24 hours; elapsed, it counts 23 or 25."""
    return min(end.astimezone(zone) - start.astimezone(zone), end.astimezone(UTC) - start.astimezone(UTC))


def start_in_utc(value: date, zone: ZoneInfo) -> datetime:
    """The start of a day of the zone; a datetime is only converted."""
    start = value if isinstance(value, datetime) else datetime.combine(value, time(), zone)
    return start.astimezone(UTC)


def end_in_utc(value: date, zone: ZoneInfo) -> datetime:
    """The end of a day of the zone, exclusive; a datetime is only converted."""
    start = start_in_utc(value, zone)
    return start if isinstance(value, datetime) else find_next_period(start, "day", zone)


def find_next_period(after: datetime, group_by: str, zone: ZoneInfo) -> datetime:
    """The start of the first period that begins later than `after`."""
    if group_by == "hour":
        return floor_to_hour(after) + HOUR
    today = after.astimezone(zone).date()
    days = {"day": 1, "week": 7 - today.weekday()}
    # 35 days after the first of a month is always in the next month.
    day = today + timedelta(days[group_by]) if group_by in days else (today.replace(day=1) + timedelta(35))
    return start_in_utc(day.replace(day=1) if group_by == "month" else day, zone)


def find_first_period(until: datetime, days: int, group_by: str, zone: ZoneInfo) -> datetime:
    """The start of the first period that begins in the `days` calendar days before `until`."""
    return find_next_period((until.astimezone(zone) - timedelta(days)).astimezone(UTC) - MICROSECOND, group_by, zone)


def floor_to_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
