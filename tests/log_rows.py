"""Every row of the processing log that a test made the service write is as the published document says."""

from __future__ import annotations

from django.db.models import TextField
from django.db.models.functions import Cast

from staff.api.processing_log import StepAnswer
from stats.models import ProcessingLog
from tests.api import validator


def faults() -> list[str]:
    """Of the rows there are now; rows that say the same are looked at once."""
    schema = validator({"$ref": "#/components/schemas/ProcessingLog"})
    said = ("slot_id", "status", "message", "provider_latency_ms", "raw")
    rows = ProcessingLog.objects.annotate(raw=Cast("details", TextField())).order_by(*said).distinct(*said)
    found = [(row, error) for row in rows for error in schema.iter_errors(StepAnswer(row).data)]
    return [f"{row.status}: {error.message} in {row.details}" for row, error in found]
