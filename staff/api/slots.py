"""`/api/slots`: list, create and read slots; change or archive the version that the client has seen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.http import parse_etags
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import ApiError
from jobs.lifecycle import cancel_job
from jobs.models import Job
from slots.models import Slot
from slots.settings_validation import group_by_field
from staff.api.base import StaffView, log_change
from staff.api.exceptions import refuse_fields
from staff.api.operation import operation
from staff.api.recent_results import RESULT, RecentResult, get_recent_results
from staff.api.serializers import (
    PageMeta,
    PageQuery,
    QueryBooleanField,
    StrictBooleanField,
    StrictCharField,
    StrictIntegerField,
    StrictSerializer,
    paginate,
)

SLOT_ID = RegexValidator(r"^slot-[0-9]{3,}\Z", gettext_lazy("A slot's id looks like slot-001."))
SORTS = ("id", "name", "updated_at")
TAG = "The ETag that was last seen, or `*`."
IF_MATCH = OpenApiParameter("If-Match", location="header", description=f"{TAG} Not needed with `updated_at`.")
IF_MATCH_REQUIRED = OpenApiParameter("If-Match", location="header", description=TAG, required=True)


class SlotChanges(StrictSerializer):
    name = StrictCharField(max_length=120)
    provider_id = StrictCharField(max_length=32)
    operation_id = StrictCharField(max_length=32)
    settings_json = serializers.DictField(help_text="As the operation's schema says: `schema_ref` of the provider.")
    is_active = StrictBooleanField(required=False, help_text="A slot that is off answers booths with 404.")
    size_limit_mb = StrictIntegerField(
        required=False, allow_null=True, min_value=1, max_value=2048, help_text="null: the service's."
    )


class NewSlot(SlotChanges):
    id = StrictCharField(
        required=False, max_length=32, validators=[SLOT_ID], help_text="Without: the next one that is free."
    )


class VersionedChanges(SlotChanges):
    updated_at = serializers.DateTimeField(required=False, help_text="Of the version that is changed: as If-Match.")


class SlotQuery(PageQuery):
    provider_id = StrictCharField(required=False)
    operation_id = StrictCharField(required=False)
    search = StrictCharField(
        required=False, allow_blank=True, max_length=120, help_text="A part of the id or the name."
    )
    is_active = QueryBooleanField(required=False)
    archived = QueryBooleanField(default=False, help_text="true: those in the archive, and no others.")
    sort_by = serializers.ChoiceField(SORTS, default="id")
    sort_order = serializers.ChoiceField(("asc", "desc"), default="asc")


class ArchiveQuery(StrictSerializer):
    force = QueryBooleanField(default=False, help_text="true: cancels the photos that are under way.")


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


class OneSlotAnswer(SlotAnswer):
    recent_results = RecentResult(many=True)


class SlotList(serializers.Serializer[Any]):
    data = SlotAnswer(many=True)  # type: ignore[assignment]  # a field: DRF removes it from the class
    meta = PageMeta()


class VersionAnswer(serializers.Serializer[Any]):
    id = serializers.CharField()
    updated_at = serializers.DateTimeField()


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
VERSIONS = ("version_required", "not_found", "version_conflict")


class SlotsView(StaffView):
    @operation(
        "listSlots",
        "The slots",
        tag="slots",
        scope="slots:write",
        query=SlotQuery,
        response=SlotList,
        example={"data": [SLOT], "meta": {"page": 1, "page_size": 20, "total": 1}},
    )
    def get(self, request: Request, query: dict[str, Any]) -> Response:
        direction = "-" if query["sort_order"] == "desc" else ""
        rows = Slot.objects.filter(_filter(query)).order_by(direction + query["sort_by"], "id")
        return Response(paginate(rows, query, represent_slot))

    @operation(
        "createSlot",
        "A new slot",
        tag="slots",
        scope="slots:write",
        about="It has no template images yet: settings that point to one are set once it is registered.",
        body=NewSlot,
        request_examples={"The next free id": RECIPE},
        response=SlotAnswer,
        example=SLOT,
        status=201,
        headers=("ETag", "Location"),
        refusals=("slot_exists",),
    )
    def post(self, request: Request, body: dict[str, Any]) -> Response:
        slot = _create(body)
        log_change(slot, ADDITION, [{"added": {}}], request.user)
        headers = {"ETag": make_etag(slot), "Location": reverse("slot", args=[slot.pk])}
        return Response(represent_slot(slot), status=201, headers=headers)


class SlotView(StaffView):
    @operation(
        "getSlot",
        "A slot, its latest pictures and, as ETag, its version",
        tag="slots",
        scope="slots:write",
        response=OneSlotAnswer,
        example=SLOT | {"recent_results": [RESULT]},
        headers=("ETag",),
        refusals=("not_found",),
    )
    def get(self, request: Request, slot_id: str) -> Response:
        slot = get_slot(Slot.objects, slot_id)
        return Response(
            represent_slot(slot) | {"recent_results": get_recent_results(slot_id)}, headers={"ETag": make_etag(slot)}
        )

    @operation(
        "changeSlot",
        "Change a slot, if it is still as it was seen",
        tag="slots",
        scope="slots:write",
        about="What is optional and not given stays. Photos under way keep the recipe that they came in with.",
        parameters=[IF_MATCH],
        body=VersionedChanges,
        request_examples={"With If-Match": RECIPE, "Without": RECIPE | {"updated_at": SLOT["updated_at"]}},
        response=VersionAnswer,
        example={"id": SLOT["id"], "updated_at": SLOT["updated_at"]},
        headers=("ETag",),
        refusals=(*VERSIONS,),
    )
    def put(self, request: Request, slot_id: str, body: dict[str, Any]) -> Response:
        seen = body.pop("updated_at", None)
        with transaction.atomic():
            slot = _lock_version(request, slot_id, seen)
            _change(slot, body, request.user)
        return Response({"id": slot.pk, "updated_at": slot.updated_at}, headers={"ETag": make_etag(slot)})

    @operation(
        "archiveSlot",
        "Archive a slot, if it is still as it was seen",
        tag="slots",
        scope="slots:write",
        about="Booths get 404 from then on. Its figures and pictures stay; the admin can take it out again.",
        query=ArchiveQuery,
        parameters=[IF_MATCH_REQUIRED],
        response=None,
        status=204,
        refusals=(*VERSIONS, "jobs_under_way"),
    )
    def delete(self, request: Request, slot_id: str, query: dict[str, Any]) -> Response:
        force = query["force"]
        with transaction.atomic():
            slot = _lock_version(request, slot_id, waits_for_photos=True)
            if not force and (count := _list_jobs_under_way(slot_id).count()):
                raise ApiError("jobs_under_way", _("Photos of this slot are under way."), jobs=count)
            if Slot.objects.filter(pk=slot_id).archive():
                log_change(slot, CHANGE, [{"changed": {"fields": ["archived_at"]}}], request.user)
        if force:
            _cancel_all(slot_id, request.user.get_username())
        return Response(status=204)


def represent_slot(slot: Slot) -> dict[str, Any]:
    return {name: getattr(slot, name) for name in SLOT}


def get_slot(rows: Any, slot_id: str) -> Slot:
    """The slot of this id among the rows. Raises `ApiError` (404)."""
    slot: Slot | None = rows.filter(pk=slot_id).first() if re.fullmatch(SLOT_ID.regex, slot_id) else None
    if slot is None:
        raise ApiError("not_found", _("There is no such slot."))
    return slot


def make_etag(slot: Slot) -> str:
    """The slot's version: every change of a slot sets `updated_at`."""
    return f'"{slot.updated_at.isoformat()}"'


def validate_slot(slot: Slot) -> None:
    """Raises `ApiError` (422) if the slot breaks a rule."""
    try:
        slot.full_clean(validate_unique=False)
    except ValidationError as error:
        raise refuse_fields(group_by_field(error)) from None


def _filter(query: Mapping[str, Any]) -> Q:
    same = {name: query[name] for name in ("provider_id", "operation_id", "is_active") if name in query}
    condition = Q(**same, archived_at__isnull=not query["archived"])
    if text := query.get("search"):
        condition &= Q(id__icontains=text) | Q(name__icontains=text)
    return condition


def _create(values: Mapping[str, Any]) -> Slot:
    """Two concurrent requests never share a slot: the next free id is tried again, a requested id gets 409."""
    while True:
        slot = Slot(**{"id": Slot.next_id(), **values})
        validate_slot(slot)
        try:
            with transaction.atomic():
                slot.save(force_insert=True)
        except IntegrityError:  # on the id: nothing else is unique
            if "id" in values:
                raise ApiError("slot_exists", _("There is a slot with this id already."), id=slot.pk) from None
        else:
            slot.refresh_from_db()
            return slot


def _lock_version(request: Request, slot_id: str, updated_at: Any = None, *, waits_for_photos: bool = False) -> Slot:
    """Locks the slot until the transaction ends; with `waits_for_photos` against the admission of photos too, so that
    those under way are all that there will be. Raises `ApiError` unless the client has seen its current version."""
    if_match = request.headers.get("If-Match")
    if if_match is None and updated_at is None:
        raise ApiError("version_required", _("Send If-Match with the ETag of the version that you have seen."))
    slot = get_slot(Slot.objects.select_for_update(no_key=not waits_for_photos), slot_id)
    tags = ["*"] if if_match is None else parse_etags(if_match)
    if not {"*", make_etag(slot)} & set(tags) or updated_at not in (None, slot.updated_at):
        message = _("Somebody has changed the slot since: look at it again.")
        raise ApiError("version_conflict", message, updated_at=slot.updated_at.isoformat())
    return slot


def _change(slot: Slot, changes: Mapping[str, Any], by: Any) -> None:
    changed = [name for name, value in changes.items() if getattr(slot, name) != value]
    for name in changed:
        setattr(slot, name, changes[name])
    validate_slot(slot)
    slot.save()
    log_change(slot, CHANGE, [{"changed": {"fields": changed}}] if changed else [], by)


def _list_jobs_under_way(slot_id: str) -> QuerySet[Job]:
    return Job.objects.filter(slot_id=slot_id, is_finalized=False, expires_at__gt=Now())


def _cancel_all(slot_id: str, by: str) -> None:
    for job_id in _list_jobs_under_way(slot_id).values_list("pk", flat=True):
        cancel_job(job_id, by)
