"""`/api/slots/{slot_id}/history`: who changed what in a slot."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from slots.history import list_differences
from slots.models import Slot, SlotChange
from staff.api.base import StaffView
from staff.api.operation import operation
from staff.api.serializers import PageMeta, PageQuery, StrictCharField, paginate
from staff.api.slots import get_slot

EVENTS = ("created", "changed")


class HistoryQuery(PageQuery):
    user = StrictCharField(required=False, max_length=150, help_text="Only what the user of this name did.")


class DifferenceAnswer(serializers.Serializer[Any]):
    field = serializers.CharField(
        help_text="As the slot has it; a setting as `settings_json.look`, an image as `template_media.` and its key."
    )

    def get_fields(self) -> dict[str, Any]:
        """Adds `from`, which Python does not allow as an attribute's name."""
        values = {name: serializers.JSONField(help_text="null: not set.") for name in ("from", "to")}
        return {**super().get_fields(), **values}


class ChangeAnswer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    user = serializers.CharField(
        allow_null=True, help_text="The name at that time; null: a command or an upgrade of the service."
    )
    action = serializers.ChoiceField(EVENTS)
    changes = DifferenceAnswer(many=True, help_text="An image is told by its id.")


class HistoryAnswer(serializers.Serializer[Any]):
    data = ChangeAnswer(many=True)  # type: ignore[assignment]  # see `staff.api.slots`
    meta = PageMeta()


CHANGE = {
    "id": 4711,
    "at": "2026-11-25T12:00:00.000000Z",
    "user": "serg",
    "action": "changed",
    "changes": [
        {"field": "name", "from": "Film noir", "to": "Evening"},
        {"field": "settings_json.strength", "from": None, "to": 80},
    ],
}


class HistoryView(StaffView):
    @operation(
        "listSlotHistory",
        "Who changed what of a slot, newest first",
        tag="slots",
        scope="slots:write",
        about=(
            "Every change, by the API, in the admin or past both, also of the template images that its keys mean and "
            "of slots in the archive. What changed nothing leaves no entry. Entries are kept for good, also when their "
            "user is removed; the slot's and each image's are entries of their own."
        ),
        query=HistoryQuery,
        response=HistoryAnswer,
        example={"data": [CHANGE], "meta": {"page": 1, "page_size": 20, "total": 1}},
        refusals=("not_found",),
    )
    def get(self, request: Request, slot_id: str, query: dict[str, Any]) -> Response:
        rows = SlotChange.objects.filter(slot=get_slot(Slot.objects, slot_id)).order_by("-id")
        if "user" in query:
            rows = rows.filter(username=query["user"])
        return Response(paginate(rows, query, _represent))


def _represent(entry: SlotChange) -> dict[str, Any]:
    return {
        "id": entry.pk,
        "at": entry.at,
        "user": entry.username,
        "action": "created" if entry.before is None else "changed",
        "changes": list_differences(entry),
    }
