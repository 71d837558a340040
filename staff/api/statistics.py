"""`/api/stats`: how many photos had which outcome, in all slots or in one; and resetting a slot's statistics."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.contrib.admin.models import CHANGE
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from slots.models import Slot
from staff.api.base import StaffView, log_change
from staff.api.operation import operation
from staff.api.recent_results import RESULT, RecentResult, RecentResults, get_recent_results
from staff.api.serializers import PageMeta, PageQuery, StrictCharField
from staff.api.slots import SLOT, get_slot
from staff.api.tables import TABLE_HEADERS, TableQuery, TableView, as_json_or_csv
from stats import reports
from stats.models import SlotFigures
from stats.periods import Window, end_in_utc, find_first_period, measure_duration, start_in_utc
from stats.reports import COUNTERS

GLOBAL_SECONDS, SLOT_SECONDS = 60, 300  # how old a report may be, contract §6
MOMENT = re.compile(r"20\d\d-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d))?", re.ASCII)


@extend_schema_field({"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]})
class Moment(serializers.Field[date, str, str, Any]):
    default_error_messages = {
        "invalid": gettext_lazy(
            "Give a day as 2026-11-25, or a time with its offset as 2026-11-25T18:00:00Z. "
            "In an address, a plus is written %2B."
        )
    }

    def to_internal_value(self, data: str) -> date:
        try:
            if not MOMENT.fullmatch(data):
                raise ValueError
            return datetime.fromisoformat(data) if "T" in data else date.fromisoformat(data)
        except ValueError:
            self.fail("invalid")


ZONES = (
    "Whose days, weeks and months: a name such as Europe/Berlin. A zone that is not whole hours from UTC, such as "
    "Asia/Kolkata or Asia/Kathmandu, has none of them here, for figures are kept by the hour of UTC; only hours are of "
    "every zone."
)


class PeriodQuery(TableQuery):
    default_days = max_days = 0  # of the window
    tz = StrictCharField(default="UTC", max_length=64, help_text=ZONES)

    def get_fields(self) -> dict[str, Any]:
        default = f"Without: the first period that begins in the {self.default_days} days before the end."
        since = f"A day, or a time with its offset, of which the hour counts. {default}"
        until = f"The last day, or the time of the end. Without: today. At most {self.max_days} days in all."
        window = {"from": since, "to": until}
        return {name: Moment(required=False, help_text=text) for name, text in window.items()} | super().get_fields()

    def validate_tz(self, name: str) -> str:
        if name not in _list_zones():
            raise serializers.ValidationError(_("There is no such time zone."))
        return name

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        zone, group_by = ZoneInfo(attrs["tz"]), attrs["group_by"]
        end = end_in_utc(attrs.get("to", timezone.now().astimezone(zone).date()), zone)
        start = (
            start_in_utc(attrs["from"], zone)
            if "from" in attrs
            else find_first_period(end, self.default_days, group_by, zone)
        )
        if start >= end:
            raise serializers.ValidationError({"from": [_("It must begin before it ends.")]})
        if measure_duration(start, end, zone) > timedelta(self.max_days):  # before rounding to whole hours
            text = _("A report is of at most %(count)s days.") % {"count": self.max_days}
            raise serializers.ValidationError({"from": [text]})
        attrs["window"] = window = Window.from_range(start, end, group_by, zone)
        if not window.has_whole_hours():
            text = _("Figures are kept by the hour of UTC, and days of this time zone do not begin with one.")
            raise serializers.ValidationError({"tz": [text]})
        return attrs


class GlobalQuery(PeriodQuery, PageQuery):
    default_days, max_days = 56, 90
    group_by = serializers.ChoiceField(("day", "week", "month"), default="week", help_text="Weeks begin on Monday.")
    provider_id = StrictCharField(required=False, max_length=32, help_text="Of the slot when the photo came in.")
    slot_id = StrictCharField(required=False, max_length=32)
    sort_by = serializers.ChoiceField(("period_start", *COUNTERS), default="period_start")
    sort_order = serializers.ChoiceField(("asc", "desc"), default="asc")


class SlotQuery(PeriodQuery):
    default_days, max_days = 14, 31
    group_by = serializers.ChoiceField(("hour", "day", "week"), default="day", help_text="Weeks begin on Monday.")


class Bounds(serializers.Serializer[Any]):
    period_start = serializers.DateTimeField(help_text="In the time zone that was asked for.")
    period_end = serializers.DateTimeField(
        help_text="When the next begins. The first and last may be cut by the window."
    )


class Figures(serializers.Serializer[Any]):
    success = serializers.IntegerField(min_value=0, help_text="A picture was made in time.")
    timeouts = serializers.IntegerField(min_value=0, help_text="The deadline passed.")
    provider_errors = serializers.IntegerField(min_value=0, help_text="The provider failed for good.")
    cancelled = serializers.IntegerField(min_value=0, help_text="By staff.")
    errors = serializers.IntegerField(min_value=0, help_text="Our own faults.")  # type: ignore[assignment]  # a field
    ingest_count = serializers.IntegerField(min_value=0, help_text="Photos that came in then and have ended: the sum.")


class PeriodAnswer(Bounds, Figures):
    pass


class RangeAnswer(serializers.Serializer[Any]):
    group_by = serializers.CharField()
    tz = serializers.CharField()

    def get_fields(self) -> dict[str, Any]:
        until = serializers.DateTimeField(help_text="The end, which is no part of it.")
        return {"from": serializers.DateTimeField(), "to": until, **super().get_fields()}


class GlobalSummary(Figures):
    total_runs = serializers.IntegerField(min_value=0, help_text="Jobs that have ended, each photo's one.")


class GlobalMeta(PageMeta):
    range = RangeAnswer()


class GlobalAnswer(serializers.Serializer[Any]):
    summary = GlobalSummary(help_text="Of the whole window, whatever the page.")
    data = PeriodAnswer(many=True)  # type: ignore[assignment]  # a field: DRF removes it from the class
    meta = GlobalMeta()


class SlotSummary(Figures):
    title = serializers.CharField(help_text="The slot's name.")
    last_reset_at = serializers.DateTimeField(allow_null=True)


class SlotStatsAnswer(serializers.Serializer[Any]):
    slot_id = serializers.CharField()
    range = RangeAnswer()
    summary = SlotSummary()
    metrics = PeriodAnswer(many=True)


FIGURES = {"success": 118, "timeouts": 3, "provider_errors": 2, "cancelled": 1, "errors": 0, "ingest_count": 124}
WEEK = {"period_start": "2026-11-16T00:00:00+01:00", "period_end": "2026-11-23T00:00:00+01:00"}
RANGE = {"from": WEEK["period_start"], "to": WEEK["period_end"], "group_by": "week", "tz": "Europe/Berlin"}


class GlobalStatsView(TableView):
    table = "data"
    row = PeriodAnswer

    @operation(
        "getGlobalStats",
        "What came of the booths' photos, in all slots",
        tag="statistics",
        scope="stats:read",
        about=(
            "By the hour in which the photo came in. Periods in which nothing did are there too; filters narrow what "
            "is counted. Test runs are not counted; what came before a slot's reset is. At most a minute old, and "
            "fresh as soon as a job ends. As CSV: the rows of the page."
        ),
        query=GlobalQuery,
        response=as_json_or_csv(GlobalAnswer),
        headers=TABLE_HEADERS,
        example={
            "summary": FIGURES | {"total_runs": FIGURES["ingest_count"]},
            "data": [WEEK | FIGURES],
            "meta": {"page": 1, "page_size": 20, "total": 1, "range": RANGE},
        },
    )
    def get(self, request: Request, query: dict[str, Any]) -> Response:
        filters = {name: query[name] for name in ("provider_id", "slot_id") if name in query}
        rows = reports.get_report(query["window"], GLOBAL_SECONDS, reports.sum_versions(), **filters)
        rows = sorted(rows, key=lambda row: row[query["sort_by"]], reverse=query["sort_order"] == "desc")
        page, size = query["page"], query["page_size"]
        summary = reports.sum_rows(rows)
        return Response(
            {
                "summary": summary | {"total_runs": summary["ingest_count"]},
                "data": rows[(page - 1) * size : page * size],
                "meta": {
                    "page": page,
                    "page_size": size,
                    "total": len(rows),
                    "range": _represent_range(query["window"]),
                },
            }
        )


class SlotStatsView(TableView):
    table = "metrics"
    row = PeriodAnswer

    @operation(
        "getSlotStats",
        "What came of the photos of one slot",
        tag="statistics",
        scope="stats:read",
        about=(
            "By the hour in which the photo came in, from the slot's last reset on. Periods in which nothing did are "
            "there too; test runs are not counted. At most five minutes old, and fresh as soon as a job ends. As CSV: "
            "the rows of `metrics`."
        ),
        query=SlotQuery,
        response=as_json_or_csv(SlotStatsAnswer),
        headers=TABLE_HEADERS,
        example={
            "slot_id": "slot-002",
            "range": RANGE,
            "summary": FIGURES | {"title": "Film noir", "last_reset_at": None},
            "metrics": [WEEK | FIGURES],
        },
        refusals=("not_found",),
    )
    def get(self, request: Request, slot_id: str, query: dict[str, Any]) -> Response:
        window = query["window"]
        slot = get_slot(Slot.objects.select_related("figures"), slot_id)
        figures = getattr(slot, "figures", None) or SlotFigures(version=0, reset_generation=0)
        rows = reports.get_report(
            window, SLOT_SECONDS, figures.version, slot_id=slot_id, reset_generation=figures.reset_generation
        )
        details = {"title": slot.name, "last_reset_at": figures.last_reset_at}
        return Response(
            {
                "slot_id": slot_id,
                "range": _represent_range(window),
                "summary": reports.sum_rows(rows) | details,
                "metrics": rows,
            }
        )


class ResetView(StaffView):
    @operation(
        "resetSlotStats",
        "Begin a slot's statistics anew",
        tag="statistics",
        scope="slots:write",
        about="Its report counts the photos that come in from now on. The figures of all slots, and metrics, go on.",
        response=None,
        status=204,
        refusals=("not_found",),
    )
    def post(self, request: Request, slot_id: str) -> Response:
        slot = get_slot(Slot.objects, slot_id)
        with transaction.atomic():
            log_change(slot, CHANGE, _("Statistics reset"), request.user)
            reports.reset(slot_id)
        return Response(status=204)


class RecentResultsView(TableView):
    table = "results"
    row = RecentResult

    @operation(
        "getRecentResults",
        "A slot's latest pictures",
        tag="statistics",
        scope="stats:read",
        about="The ten newest of the last 72 hours that can still be fetched; without test runs.",
        query=TableQuery,
        response=as_json_or_csv(RecentResults),
        headers=TABLE_HEADERS,
        example={"slot_id": SLOT["id"], "results": [RESULT]},
        refusals=("not_found",),
    )
    def get(self, request: Request, slot_id: str, query: dict[str, Any]) -> Response:
        get_slot(Slot.objects, slot_id)
        return Response({"slot_id": slot_id, "results": get_recent_results(slot_id)})


@cache
def _list_zones() -> set[str]:
    """Cached: the list is read from the disk."""
    return available_timezones()


def _represent_range(window: Window) -> dict[str, Any]:
    start, end = (moment.astimezone(window.zone) for moment in (window.start, window.end))
    return {"from": start, "to": end, "group_by": window.group_by, "tz": window.zone.key}
