"""`/api/template-media`: the permanent images that slots' settings refer to by key. Only staff can fetch them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.admin.models import ADDITION, DELETION
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile
from django.core.validators import RegexValidator
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from core import images
from core.errors import ApiError
from jobs.models import Job
from slots import settings_validation, template_media
from slots.models import Slot, TemplateBinding, TemplateMedia
from staff.api.base import FormParser, PictureRenderer, StaffView, log_change
from staff.api.operation import operation
from staff.api.serializers import PageMeta, PageQuery, QueryBooleanField, StrictCharField, StrictSerializer, paginate
from staff.api.slots import SLOT_ID

KEY = RegexValidator(r"^[a-z][a-z0-9_-]*\Z", gettext_lazy("Use a-z, 0-9, - and _."))


class Registration(StrictSerializer):
    file = serializers.FileField(help_text=f"JPEG, PNG or WebP of at most {template_media.MAX_MB} MB.")
    slot_id = StrictCharField(max_length=32, validators=[SLOT_ID])
    setting_key = StrictCharField(
        max_length=64, validators=[KEY], help_text="The name by which the slot's settings point to it."
    )
    label = StrictCharField(required=False, allow_blank=True, max_length=120)  # type: ignore[assignment]  # see `staff.api.slots`
    replace = QueryBooleanField(
        default=False, help_text="true: in place of the image under this key, which stays in the list."
    )


class TemplateQuery(PageQuery):
    slot_id = StrictCharField(required=False, max_length=32)


class RemovalQuery(StrictSerializer):
    slot_id = StrictCharField(
        required=False, max_length=32, help_text="With setting_key: the use that it is removed from."
    )
    setting_key = StrictCharField(required=False, max_length=64)
    force = QueryBooleanField(default=False, help_text="true: also where it is used elsewhere.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("slot_id" in attrs) != ("setting_key" in attrs):
            raise serializers.ValidationError(_("Give both slot_id and setting_key, or neither."))
        return attrs


class UseAnswer(serializers.Serializer[Any]):
    slot_id = serializers.CharField()
    setting_key = serializers.CharField()


class RegisteredAnswer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    slot_id = serializers.CharField()
    setting_key = serializers.CharField()
    label = serializers.CharField(allow_blank=True)  # type: ignore[assignment]
    checksum = serializers.CharField(help_text="SHA-256 of the file, in hex.")
    mime = serializers.CharField()
    size_bytes = serializers.IntegerField()
    uploaded_by = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()


class TemplateAnswer(RegisteredAnswer):
    slot_id = serializers.CharField(allow_null=True, help_text="null: no slot uses it.")
    setting_key = serializers.CharField(allow_null=True)
    preview_url = serializers.CharField(help_text="A small copy, for staff with a token.")


class OneTemplateAnswer(TemplateAnswer):
    used_by = UseAnswer(many=True)


class TemplateList(serializers.Serializer[Any]):
    data = TemplateAnswer(many=True, help_text="An image for each of its uses.")  # type: ignore[assignment]
    meta = PageMeta()


ID = "9b2d6c1e-4a55-4c4f-8a2b-1c2d8f1f7a20"
USE = {"slot_id": "slot-002", "setting_key": "style"}
REGISTERED = {
    "id": ID,
    **USE,
    "label": "Evening",
    "checksum": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "mime": "image/png",
    "size_bytes": 482133,
    "uploaded_by": "serg",
    "created_at": "2026-11-25T12:00:00.000000Z",
}
TEMPLATE = REGISTERED | {"preview_url": f"http://localhost:8000/api/template-media/{ID}/preview"}


class TemplatesView(StaffView):
    @operation(
        "listTemplateMedia",
        "The template images, newest first",
        tag="template media",
        scope="slots:write",
        query=TemplateQuery,
        response=TemplateList,
        example={"data": [TEMPLATE], "meta": {"page": 1, "page_size": 20, "total": 1}},
    )
    def get(self, request: Request, query: dict[str, Any]) -> Response:
        uses = _list_uses().order_by("-created_at", "id", "slot_id", "setting_key")
        rows = uses.filter(slot_id=query["slot_id"]) if "slot_id" in query else uses
        return Response(paginate(rows, query, _represent))


class RegisterView(StaffView):
    parser_classes = (FormParser,)

    @operation(
        "registerTemplateMedia",
        "Upload an image for a slot's settings to point to",
        tag="template media",
        scope="slots:write",
        form=Registration,
        response=RegisteredAnswer,
        example=REGISTERED,
        status=201,
        headers=("Location",),
        refusals=("not_found", "key_taken"),
    )
    def post(self, request: Request, form: dict[str, Any]) -> Response:
        media = _register(form, request.user)
        log_change(media, ADDITION, [{"added": {}}], request.user)
        row = _represent(media)
        location = reverse("template-image", args=[media.pk])
        return Response({name: row[name] for name in REGISTERED}, status=201, headers={"Location": location})


class TemplateView(StaffView):
    @operation(
        "getTemplateMedia",
        "A template image and where it is used",
        tag="template media",
        scope="slots:write",
        response=OneTemplateAnswer,
        example=TEMPLATE | {"used_by": [USE]},
        refusals=("not_found",),
    )
    def get(self, request: Request, media_id: UUID) -> Response:
        found = _list_uses().filter(pk=media_id).order_by("slot_id", "setting_key").first()
        if found is None:
            raise _make_not_found()
        bindings = TemplateBinding.objects.filter(media_id=media_id).order_by("slot_id", "setting_key")
        return Response(_represent(found) | {"used_by": [*bindings.values("slot_id", "setting_key")]})

    @operation(
        "deleteTemplateMedia",
        "Remove a template image, with its file",
        tag="template media",
        scope="slots:write",
        about=(
            "`slot_id` and `setting_key` name the use that is meant to go. Refused while it has others, or that slot's "
            "settings still point to it, or photos under way need it, unless `force` is given."
        ),
        query=RemovalQuery,
        response=None,
        status=204,
        refusals=("not_found", "template_in_use", "jobs_under_way"),
    )
    def delete(self, request: Request, media_id: UUID, query: dict[str, Any]) -> Response:
        with transaction.atomic():
            media = TemplateMedia.objects.select_for_update().filter(pk=media_id).first()
            if media is None:
                raise _make_not_found()
            if not query["force"] and (count := _count_jobs_under_way(media_id)):
                raise ApiError("jobs_under_way", _("Photos under way need this image."), jobs=count)
            _unbind(media, query)
            log_change(media, DELETION, "", request.user)
            template_media.remove(media)
        return Response(status=204)


class PreviewView(StaffView):
    renderer_classes = (PictureRenderer, JSONRenderer)

    @operation(
        "getTemplateMediaPreview",
        "A small copy of a template image",
        tag="template media",
        scope="slots:write",
        response={(200, mime_type): OpenApiTypes.BINARY for mime_type in ("image/jpeg", "image/png")},
        refusals=("not_found",),
    )
    def get(self, request: Request, media_id: UUID) -> HttpResponse:
        media = TemplateMedia.objects.filter(pk=media_id).first()
        try:
            if media is None:
                raise FileNotFoundError
            picture = template_media.make_preview(media)
        except FileNotFoundError:
            raise _make_not_found() from None
        return HttpResponse(picture.data, picture.mime_type, headers={"X-Content-Type-Options": "nosniff"})


def _list_uses() -> Any:
    """A row for each use of each image, and one for each unused image."""
    rows = TemplateMedia.objects.select_related("uploaded_by")
    return rows.annotate(slot_id=F("bindings__slot_id"), setting_key=F("bindings__setting_key"))


def _represent(use: Any) -> dict[str, Any]:
    names = ("slot_id", "setting_key", "label", "checksum", "size_bytes", "created_at")
    return {
        "id": str(use.pk),
        **{name: getattr(use, name) for name in names},
        "mime": use.mime_type,
        "uploaded_by": use.uploaded_by.get_username() if use.uploaded_by else None,
        "preview_url": settings.PUBLIC_BASE_URL + reverse("template-preview", args=[use.pk]),
    }


def _register(form: dict[str, Any], by: Any) -> Any:
    """Writes the file before the transaction that binds it to the slot, and removes it again if that fails."""
    _check_key_is_free(form)  # before the expensive check of the image
    media = TemplateMedia(label=form.get("label", ""), uploaded_by=by)
    _fill(media, form["file"])
    media.save(force_insert=True)
    try:
        with transaction.atomic():
            _check_frame(_check_key_is_free(form, is_locked=True), form["setting_key"], media)
            names = {"slot_id": form["slot_id"], "setting_key": form["setting_key"]}
            TemplateBinding.objects.update_or_create(**names, defaults={"media": media})
            return _list_uses().get(pk=media.pk)
    except Exception:
        template_media.remove(media)
        raise


def _check_key_is_free(form: dict[str, Any], *, is_locked: bool = False) -> Slot:
    slots = Slot.objects.select_for_update(no_key=True) if is_locked else Slot.objects
    slot: Slot | None = slots.filter(pk=form["slot_id"]).first()
    if slot is None:
        raise ApiError("not_found", _("There is no such slot."))
    key = form["setting_key"]
    if not form["replace"] and TemplateBinding.objects.filter(slot_id=form["slot_id"], setting_key=key).exists():
        raise ApiError("key_taken", _("The slot has an image under this key already."), setting_key=key)
    return slot


def _check_frame(slot: Slot, key: str, media: TemplateMedia) -> None:
    """Raises `ApiError` if the image becomes the slot's frame and cannot be one."""
    is_frame = key in settings_validation.find_frame_keys(slot.provider_id, slot.operation_id, slot.settings_json)
    if is_frame and (problem := settings_validation.describe_frame_fault(media.read)):
        raise ApiError("invalid_payload", str(problem), file=[str(problem)])


def _fill(media: TemplateMedia, upload: UploadedFile[Any]) -> None:
    try:
        template_media.fill(media, upload)
    except ValidationError as error:
        raise refuse_image(error, template_media.MAX_MB * 1024 * 1024) from None


def refuse_image(error: ValidationError, limit_bytes: int) -> ApiError:
    """The refusal for an error of `template_media.read_image`: the same as for a booth's photo."""
    text = error.messages[0]
    match error.code:
        case "too_large":
            return ApiError("payload_too_large", text, limit_bytes=limit_bytes)
        case "wrong_type":
            return ApiError("unsupported_media_type", text, allowed=[*images.FORMATS])
    return ApiError("invalid_payload", text, file=[text])


def _count_jobs_under_way(media_id: UUID) -> int:
    """How many jobs under way were admitted while their slot had this template image."""
    jobs = Job.objects.filter(is_finalized=False, expires_at__gt=Now()).values_list("template_media", flat=True)
    return sum(str(media_id) in images.values() for images in jobs)


def _unbind(media: TemplateMedia, query: dict[str, Any]) -> None:
    """Removes all uses. Unless forced, raises `ApiError` (409) for each use that the query does not name, and for the
    named one while the slot's settings refer to the image. Raises the 404 if there is no such use."""
    bindings = media.bindings.order_by("slot_id", "setting_key")
    named = (query.get("slot_id"), query.get("setting_key"))
    uses = [(each.slot_id, each.setting_key) for each in bindings]
    if named != (None, None) and named not in uses:
        raise _make_not_found()
    locked = Slot.objects.select_for_update(no_key=True).filter(pk__in={slot_id for slot_id, _key in uses})
    pointing = {(slot.pk, key) for slot in locked.order_by("pk") for key in _find_named_keys(slot)}
    blocking = [use for use in uses if use != named or use in pointing]
    if blocking and not query["force"]:
        used_by = [{"slot_id": slot_id, "setting_key": key} for slot_id, key in blocking]
        raise ApiError("template_in_use", _("The image is in use."), used_by=used_by)
    bindings.delete()


def _find_named_keys(slot: Slot) -> set[str]:
    return settings_validation.find_template_keys(slot.provider_id, slot.operation_id, slot.settings_json)


def _make_not_found() -> ApiError:
    return ApiError("not_found", _("There is no such template image."))
