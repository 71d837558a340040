"""Checks every row of the processing log that a test made the service write against the published document."""

from __future__ import annotations

from django.db.models import TextField
from django.db.models.functions import Cast

from staff.api.processing_log import StepAnswer
from stats.models import ProcessingLog
from tests.api import make_validator


def find_invalid_rows() -> list[str]:
    """A sentence for each error in the present rows; equal rows are checked once."""
    schema = make_validator({"$ref": "#/components/schemas/ProcessingLog"})
    columns = ("slot_id", "status", "message", "provider_latency_ms", "raw")
    rows = ProcessingLog.objects.annotate(raw=Cast("details", TextField())).order_by(*columns).distinct(*columns)
    errors = [(row, error) for row in rows for error in schema.iter_errors(StepAnswer(row).data)]
    return [f"{row.status}: {error.message} in {row.details}" for row, error in errors]
