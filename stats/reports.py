"""Figures of a slot, or of all, by period. They come from the hourly counters: jobs and their log are purged.

A report is kept in the memory of the process that made it. That is right with many processes because it is kept under
the version of the figures, which Postgres knows (`SlotFigures`) and the job's own end moves: what another process has
counted makes another key.
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
NOTHING = dict.fromkeys(COUNTERS, 0)
Row = dict[str, Any]

RESET = """
INSERT INTO stats_slotfigures AS old (slot_id, reset_generation, last_reset_at) VALUES (%s, 1, clock_timestamp())
ON CONFLICT (slot_id) DO UPDATE SET reset_generation = old.reset_generation + 1, last_reset_at = clock_timestamp()
"""


class PeriodOf(Func):
    """The number of the period that an hour falls into, from 1. Its bounds are written as Postgres writes an array:
    the 744 hours of a month as 744 parameters would take longer than the query."""

    template = "width_bucket(%(expressions)s::timestamptz[])"
    output_field = IntegerField()


def version_of_all() -> int:
    """Moves whenever the figures of any slot do: each slot's only grows."""
    return int(SlotFigures.objects.aggregate(sum=Sum("version"))["sum"] or 0)


def report(window: Window, seconds: int, version: int, **of: Any) -> list[Row]:
    """A row for each period, zeros included; `of` narrows it to rows of `HourlyCounter`. It is reckoned at most once in
    so many seconds while `version`, which must have been read before, stays the same."""
    key = hashlib.sha256(repr((window, version, sorted(of.items()))).encode()).hexdigest()
    return cast(list[Row], cache.get_or_set(f"stats:{key}", lambda: reckon(window, **of), seconds))


def reckon(window: Window, **of: Any) -> list[Row]:
    edges = window.edges()
    found = {row.pop("period"): row for row in sums(edges, **of)}
    local = [edge.astimezone(window.zone) for edge in edges]
    return [
        {"period_start": start, "period_end": end} | found.get(number, NOTHING)
        for number, (start, end) in enumerate(pairwise(local), 1)
    ]


def sums(edges: list[datetime], **of: Any) -> QuerySet[Any, Any]:
    """Of each period that has any, by its number from 1. Test runs are no booth's photos."""
    hours: QuerySet[Any] = HourlyTotal.objects.all()
    if "slot_id" in of:
        hours = HourlyCounter.objects.filter(source="booth")
    period = PeriodOf("hour", Value("{" + ",".join(edge.isoformat() for edge in edges) + "}"))
    rows = hours.filter(hour__gte=edges[0], hour__lt=edges[-1], **of).values(period=period)
    totals: QuerySet[Any, Any] = rows.annotate(**{name: Sum(name) for name in COUNTERS})
    return totals


def total(rows: Iterable[Row]) -> Row:
    rows = list(rows)
    return {name: sum(row[name] for row in rows) for name in COUNTERS}


def reset(slot_id: str) -> None:
    """From now on the slot's report counts what comes in from now on. Until the transaction ends, its jobs cannot."""
    with connection.cursor() as cursor:
        cursor.execute(RESET, [slot_id])
