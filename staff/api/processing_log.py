"""The processing log in the API: `ProcessingLog` and `ProcessingLogList` of the published document."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from stats.journal import ERROR_LENGTH, MESSAGE_LENGTH
from stats.models import ProcessingLog

TEXT = {"type": "string"}
DETAILS = {
    "type": "object",
    "description": "What is known of the step, in the order in which it was written; a newer version may add to it.",
    "properties": {
        "provider_id": TEXT,
        "provider_reference": TEXT,
        "attempt": {"type": "integer", "minimum": 1},
        "error": TEXT | {"maxLength": ERROR_LENGTH},
        "expires_at": TEXT | {"format": "date-time"},
        "payload_path": TEXT,
        "result_file_path": TEXT,
        "result_checksum": TEXT | {"pattern": "^[0-9a-f]{64}$"},
        "inline_preview": {"type": "boolean", "description": "The picture was small enough to be handed over at once."},
        "failure_reason": TEXT | {"enum": ["timeout", "provider_error", "cancelled"]},
        "slot_id": TEXT,
        "asked_by": TEXT | {"description": "Of a test run's first step: the user's name."},
    },
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
}
STEP = {
    "id": "1042",
    "job_id": "6f1c2f3e-8a55-4a4f-9a2b-0c2d8f1f7a10",
    "slot_id": "slot-001",
    "status": "provider_responded",
    "occurred_at": "2026-11-25T12:00:04.250000Z",
    "message": "The provider answered with a picture",
    "provider_latency_ms": 3917,
    "details": {"provider_id": "gemini", "attempt": 1, "model": "gemini-3-pro-image", "cost_usd": "0.134"},
}


@extend_schema_field(DETAILS)
class Details(serializers.JSONField):
    pass


@extend_schema_serializer(component_name="ProcessingLog")
class StepAnswer(serializers.Serializer[ProcessingLog]):
    id = serializers.CharField(help_text="A number, which grows with each step.")
    job_id = serializers.UUIDField()
    slot_id = serializers.CharField()
    status = serializers.ChoiceField(choices=ProcessingLog.Status.choices)
    occurred_at = serializers.DateTimeField()
    message = serializers.CharField(
        source="message_for_staff", allow_blank=True, max_length=MESSAGE_LENGTH, help_text="In the reader's language."
    )
    provider_latency_ms = serializers.IntegerField(min_value=0, allow_null=True)
    details = Details()


@extend_schema_field(StepAnswer(many=True), component_name="ProcessingLogList")
class Steps(serializers.Field[Any, Any, Any, Any]):
    """The steps of one job, in order."""

    def to_representation(self, value: Any) -> Any:
        return StepAnswer(value, many=True).data
