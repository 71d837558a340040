"""Figures of a slot, or of all, by period. They come from the hourly counters: jobs and their log are purged.

A report is cached in the memory of the process that computed it. With many processes none is stale, because the cache
key holds the version of the figures: a column in Postgres (`SlotFigures`) that the end of each job increases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from typing import Any, cast

from django.core.cache import cache
from django.db import connection
from django.db.models import Func, IntegerField, QuerySet, Sum, Value

from stats.journal import OUTCOMES
from stats.models import HourlyCounter, HourlyTotal, SlotFigures
from stats.periods import Window

COUNTERS = (*OUTCOMES, "ingest_count")
ZEROS = dict.fromkeys(COUNTERS, 0)
Row = dict[str, Any]

RESET = """
INSERT INTO stats_slotfigures AS old (slot_id, reset_generation, last_reset_at) VALUES (%s, 1, clock_timestamp())
ON CONFLICT (slot_id) DO UPDATE SET reset_generation = old.reset_generation + 1, last_reset_at = clock_timestamp()
"""


class PeriodNumber(Func):
    """The number of the period that an hour falls into, from 1. The periods' bounds are passed as one array literal:
    the 744 hours of a month as 744 parameters would take longer than the query."""

    template = "width_bucket(%(expressions)s::timestamptz[])"
    output_field = IntegerField()


def sum_versions() -> int:
    """The version of all slots' figures: each slot's only grows, so the sum changes with any of them."""
    return int(SlotFigures.objects.aggregate(sum=Sum("version"))["sum"] or 0)


def get_report(window: Window, seconds: int, version: int, **filters: Any) -> list[Row]:
    """A row for each period, also for empty ones; `filters` are fields of `HourlyCounter`. Cached for `seconds` while
    `version`, which must have been read before, stays the same."""
    key = hashlib.sha256(repr((window, version, sorted(filters.items()))).encode()).hexdigest()
    return cast(list[Row], cache.get_or_set(f"stats:{key}", lambda: compute(window, **filters), seconds))


def compute(window: Window, **filters: Any) -> list[Row]:
    edges = window.edges()
    found = {row.pop("period"): row for row in sum_by_period(edges, **filters)}
    local = [edge.astimezone(window.zone) for edge in edges]
    return [
        {"period_start": start, "period_end": end} | found.get(number, ZEROS)
        for number, (start, end) in enumerate(pairwise(local), 1)
    ]


def sum_by_period(edges: list[datetime], **filters: Any) -> QuerySet[Any, Any]:
    """A row of sums for each period that is not empty, with its number from 1. Test runs are not counted."""
    hours: QuerySet[Any] = HourlyTotal.objects.all()
    if "slot_id" in filters:
        hours = HourlyCounter.objects.filter(source="booth")
    period = PeriodNumber("hour", Value("{" + ",".join(edge.isoformat() for edge in edges) + "}"))
    rows = hours.filter(hour__gte=edges[0], hour__lt=edges[-1], **filters).values(period=period)
    totals: QuerySet[Any, Any] = rows.annotate(**{name: Sum(name) for name in COUNTERS})
    return totals


def sum_rows(rows: Iterable[Row]) -> Row:
    rows = list(rows)
    return {name: sum(row[name] for row in rows) for name in COUNTERS}


def reset(slot_id: str) -> None:
    """Restarts the slot's report from now on. Until the caller's transaction ends, no job of the slot can end."""
    with connection.cursor() as cursor:
        cursor.execute(RESET, [slot_id])
