"""Responses with a table: as JSON or, for a spreadsheet, the rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.utils.encoders import JSONEncoder

from staff.api.base import StaffView
from staff.api.serializers import StrictSerializer

TABLE_HEADERS = ("Content-Disposition?",)  # of the CSV


class TableQuery(StrictSerializer):
    format = serializers.ChoiceField(
        ("json", "csv"), required=False, help_text="csv: the rows as CSV, as by `Accept: text/csv`."
    )


class CSVRenderer(BaseRenderer):
    """The rows of the JSON, below a header line. No cell holds text that people wrote, which a spreadsheet could take
    for a formula."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        assert renderer_context
        view, response = renderer_context["view"], renderer_context["response"]
        name = "-".join(["statistics", *view.kwargs.values(), *([view.table] if view.kwargs else [])])
        response.headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
        out = io.StringIO()
        writer = csv.DictWriter(out, [*view.row().fields])
        writer.writeheader()
        writer.writerows({name: _format_cell(value) for name, value in row.items()} for row in data[view.table])
        return out.getvalue().encode()


class ByFormat(DefaultContentNegotiation):
    """The query's `format` takes precedence over the Accept header, which many clients send with every request."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        matching = [each for each in renderers if each.format == request.query_params.get("format")]
        return (matching[0], matching[0].media_type) if matching else super().select_renderer(request, renderers)


class TableView(StaffView):
    renderer_classes = (JSONRenderer, CSVRenderer)
    content_negotiation_class = ByFormat
    table: str  # the response's key for the rows
    row: type[serializers.Serializer[Any]]  # of one row


def as_json_or_csv(serializer: Any) -> dict[tuple[int, str], Any]:
    """For the `response` of `operation`."""
    return {(200, "application/json"): serializer, (200, "text/csv"): OpenApiTypes.STR}


def _format_cell(value: Any) -> Any:
    """A time in the format of the JSON."""
    return JSONEncoder().default(value) if isinstance(value, datetime) else value
