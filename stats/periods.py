"""The periods of a report: hours, days, weeks and months as people of a time zone have them, found in hours of UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` up to `end`, which is no part of it; both in UTC, on the hour."""

    start: datetime
    end: datetime
    group_by: str  # hour, day, week or month
    zone: ZoneInfo

    @classmethod
    def around(cls, start: datetime, end: datetime, group_by: str, zone: ZoneInfo) -> Self:
        """With the hours that they fall into."""
        return cls(hour_of(start), hour_of(end + HOUR - INSTANT), group_by, zone)

    def edges(self) -> list[datetime]:
        """Where its periods begin, and the end of the last. The first and last may be parts of a week or month."""
        edges = [self.start]
        while (following := next_period(edges[-1], self.group_by, self.zone)) < self.end:
            edges.append(following)
        return [*edges, self.end]

    def has_whole_hours(self) -> bool:
        """Counters are of whole hours of UTC: a local day that begins at half past one is not to be told from them.
        Hours are UTC's, whatever the zone."""
        return self.group_by == "hour" or not any(edge.astimezone(self.zone).minute for edge in self.edges())


def length(start: datetime, end: datetime, zone: ZoneInfo) -> timedelta:
    """By the calendar, where a day is a day though a clock is put back in it, or by the clock, where it is 24 hours
    though one is put forward: whichever is shorter, since people mean the one or the other."""
    return min(end.astimezone(zone) - start.astimezone(zone), end.astimezone(UTC) - start.astimezone(UTC))


def beginning(of: date, zone: ZoneInfo) -> datetime:
    """Of a day; a moment is its own."""
    day = of if isinstance(of, datetime) else datetime.combine(of, time(), zone)
    return day.astimezone(UTC)


def ending(of: date, zone: ZoneInfo) -> datetime:
    """Of a day; a moment is its own."""
    return of.astimezone(UTC) if isinstance(of, datetime) else next_period(beginning(of, zone), "day", zone)


def next_period(after: datetime, group_by: str, zone: ZoneInfo) -> datetime:
    """When the first one begins that does so later."""
    if group_by == "hour":
        return hour_of(after) + HOUR
    today = after.astimezone(zone).date()
    days = {"day": 1, "week": 7 - today.weekday()}
    # Five weeks after the first of a month, it is the next one.
    following = today + timedelta(days[group_by]) if group_by in days else (today.replace(day=1) + timedelta(35))
    return beginning(following.replace(day=1) if group_by == "month" else following, zone)


def first_of(until: datetime, days: int, group_by: str, zone: ZoneInfo) -> datetime:
    """The first beginning of a period in so many days of the calendar until then."""
    return next_period((until.astimezone(zone) - timedelta(days)).astimezone(UTC) - INSTANT, group_by, zone)


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
