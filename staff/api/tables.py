"""Answers that are a table, as JSON or, for a spreadsheet, its rows as CSV."""

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

OF_TABLE = ("Content-Disposition?",)  # of the CSV


class TableQuery(StrictSerializer):
    format = serializers.ChoiceField(
        ("json", "csv"), required=False, help_text="csv: the rows as CSV, as by `Accept: text/csv`."
    )


class CSVRenderer(BaseRenderer):
    """The rows that the JSON has, under their names. None of their cells is a text that people wrote, which a
    spreadsheet could take for a formula."""

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
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in data[view.table])
        return out.getvalue().encode()


class ByFormat(DefaultContentNegotiation):
    """`format`, where it names one of them, outdoes the header: it was written for this very request."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        wanted = [each for each in renderers if each.format == request.query_params.get("format")]
        return (wanted[0], wanted[0].media_type) if wanted else super().select_renderer(request, renderers)


class TableView(StaffView):
    renderer_classes = (JSONRenderer, CSVRenderer)
    content_negotiation_class = ByFormat
    table: str  # under what the answer has its rows
    row: type[serializers.Serializer[Any]]  # what each has


def as_json_or_csv(answer: Any) -> dict[tuple[int, str], Any]:
    """For the document."""
    return {(200, "application/json"): answer, (200, "text/csv"): OpenApiTypes.STR}


def _cell(value: Any) -> Any:
    """A time as JSON has it."""
    return JSONEncoder().default(value) if isinstance(value, datetime) else value
