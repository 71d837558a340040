"""`/api/slots`: the list of slots, and new ones. One slot, which needs to know of its jobs, is `jobs.slot_api`'s; what
both say of a slot is here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from photoslot.api import Fields, Flag, PageMeta, PageQuery, StaffView, Text, Whole, WrittenFlag, asked, page_of
from photoslot.errors import ApiError
from photoslot.openapi import BODY_REFUSALS, STAFF_REFUSALS, operation
from slots import operations
from slots.history import sign
from slots.models import Slot

SLOT_ID = RegexValidator(r"^slot-[0-9]{3,}\Z", gettext_lazy("A slot's id looks like slot-001."))
SORTS = ("id", "name", "updated_at")


class SlotChanges(Fields):
    name = Text(max_length=120)
    provider_id = Text(max_length=32)
    operation_id = Text(max_length=32)
    settings_json = serializers.DictField(help_text="As the operation's schema says: `schema_ref` of the provider.")
    is_active = Flag(required=False, help_text="A slot that is off answers booths with 404.")
    size_limit_mb = Whole(
        required=False, allow_null=True, min_value=1, max_value=2048, help_text="null: the service's."
    )


class NewSlot(SlotChanges):
    id = Text(required=False, max_length=32, validators=[SLOT_ID], help_text="Without: the next one that is free.")


class SlotQuery(PageQuery):
    provider_id = Text(required=False)
    operation_id = Text(required=False)
    search = Text(required=False, allow_blank=True, max_length=120, help_text="A part of the id or the name.")
    is_active = WrittenFlag(required=False)
    archived = WrittenFlag(default=False, help_text="true: those in the archive, and no others.")
    sort_by = serializers.ChoiceField(SORTS, default="id")
    sort_order = serializers.ChoiceField(("asc", "desc"), default="asc")


class SlotAnswer(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField()
    provider_id = serializers.CharField()
    operation_id = serializers.CharField()
    settings_json = serializers.DictField()
    is_active = serializers.BooleanField()
    size_limit_mb = serializers.IntegerField(allow_null=True)
    archived_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    ingest_url = serializers.CharField(help_text="Where booths post to.")


class SlotList(serializers.Serializer[Any]):
    data = SlotAnswer(many=True)  # type: ignore[assignment]  # a field, which DRF takes off the class
    meta = PageMeta()


RECIPE = {
    "name": "Film noir",
    "provider_id": "studio",
    "operation_id": "image_edit",
    "settings_json": {"look": "noir", "strength": 80},
}
SLOT = {
    "id": "slot-002",
    **RECIPE,
    "is_active": True,
    "size_limit_mb": None,
    "archived_at": None,
    "created_at": "2026-11-25T12:00:00.000000Z",
    "updated_at": "2026-11-25T12:00:00.000000Z",
    "ingest_url": "http://localhost:8000/ingest/slot-002",
}


class SlotsView(StaffView):
    @operation(
        "listSlots",
        "The slots",
        tag="slots",
        takes="slots:write",
        parameters=[SlotQuery],
        answer=SlotList,
        example={"data": [SLOT], "meta": {"page": 1, "page_size": 20, "total": 1}},
        refusals=("invalid_payload", "validation_failed", *STAFF_REFUSALS),
    )
    def get(self, request: Request) -> Response:
        query = asked(request, SlotQuery)
        direction = "-" if query["sort_order"] == "desc" else ""
        rows = Slot.objects.filter(_wanted(query)).order_by(direction + query["sort_by"], "id")
        return Response(page_of(rows, query, shown))

    @operation(
        "createSlot",
        "A new slot",
        tag="slots",
        takes="slots:write",
        about="It has no template images yet: settings that point to one are set once it is registered.",
        request=NewSlot,
        request_examples={"The next free id": RECIPE},
        answer=SlotAnswer,
        example=SLOT,
        status=201,
        headers=("ETag", "Location"),
        refusals=(*BODY_REFUSALS, "slot_exists", "validation_failed", *STAFF_REFUSALS),
    )
    def post(self, request: Request) -> Response:
        asked(request)
        form = NewSlot(data=request.data)
        form.is_valid(raise_exception=True)
        slot = _added(form.validated_data, request.user)
        log(slot, ADDITION, [{"added": {}}], request.user)
        headers = {"ETag": etag(slot), "Location": reverse("slot", args=[slot.pk])}
        return Response(shown(slot), status=201, headers=headers)


def shown(slot: Slot) -> dict[str, Any]:
    return {name: getattr(slot, name) for name in SLOT}


def slot_of(rows: Any, slot_id: str) -> Slot:
    """The one of the rows that an address means. Raises the 404 where there is none."""
    slot: Slot | None = rows.filter(pk=slot_id).first() if re.fullmatch(SLOT_ID.regex, slot_id) else None
    if slot is None:
        raise ApiError("not_found", _("There is no such slot."))
    return slot


def etag(slot: Slot) -> str:
    """A version of it: every change of a slot moves `updated_at`."""
    return f'"{slot.updated_at.isoformat()}"'


def judge(slot: Slot) -> None:
    """Raises the 422 of a slot that breaks a rule."""
    try:
        slot.full_clean(validate_unique=False)
    except ValidationError as error:
        message = _("Some fields are missing, unknown or not as they must be: see details.")
        refusal = ApiError("validation_failed", message)
        refusal.details = dict(operations.by_field(error))
        raise refusal from None


def log(changed: models.Model, flag: int, message: Any, by: Any) -> None:
    """In the admin's history, as if it had been done there."""
    assert isinstance(by, AbstractBaseUser)
    LogEntry.objects.log_actions(by.pk, [changed], flag, message, single_object=True)


def _wanted(query: Mapping[str, Any]) -> Q:
    same = {name: query[name] for name in ("provider_id", "operation_id", "is_active") if name in query}
    wanted = Q(**same, archived_at__isnull=not query["archived"])
    if text := query.get("search"):
        wanted &= Q(id__icontains=text) | Q(name__icontains=text)
    return wanted


def _added(given: Mapping[str, Any], by: Any) -> Slot:
    """Of two who add a slot at once, each gets one of its own, or its 409."""
    while True:
        slot = Slot(**{"id": Slot.next_id(), **given})
        judge(slot)
        try:
            with transaction.atomic():
                sign(by)
                slot.save(force_insert=True)
        except IntegrityError:  # the id, which is all that is unique
            if "id" in given:
                raise ApiError("slot_exists", _("There is a slot with this id already."), id=slot.pk) from None
        else:
            slot.refresh_from_db()
            return slot
