"""`/api/media`: staff register a temporary file with a public link, or request a purge of what has expired."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.admin.models import ADDITION
from django.core.exceptions import ValidationError
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core import images
from core.errors import ApiError
from ingest.models import IngestSettings
from jobs.models import Job, MediaObject
from jobs.retention import requests
from jobs.storage import links, media
from slots import template_media
from staff.api.base import FormParser, StaffView, log_change
from staff.api.operation import operation
from staff.api.serializers import StrictSerializer
from staff.api.template_media import refuse_image


class MediaRegistration(StrictSerializer):
    file = serializers.FileField(help_text="JPEG, PNG or WebP by its bytes, at most as large as a booth's photo.")
    job_id = serializers.UUIDField(
        required=False, help_text="A job under way: the link ends at its deadline at the latest."
    )


class MediaAnswer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    public_url = serializers.CharField(help_text="Good for anybody until `expires_at`, then 410.")
    expires_at = serializers.DateTimeField()
    mime = serializers.CharField(help_text="Of what is kept.")
    size_bytes = serializers.IntegerField(help_text="Of what is kept.")
    job_id = serializers.UUIDField(allow_null=True)


class PurgeRequest(StrictSerializer):
    scope = serializers.ChoiceField(
        tuple(requests.KINDS_BY_SCOPE), help_text="media_objects: temporary files, as photos are; full: results too."
    )


class PurgeAnswer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(("queued_for_gc",))
    scope = serializers.ChoiceField(tuple(requests.KINDS_BY_SCOPE))
    job_id = serializers.UUIDField(help_text="Of the purge: it is in the log, and under Purges in the admin.")
    expires_cutoff = serializers.DateTimeField(help_text="What expires later is left.")


MEDIA = {
    "id": "5d0c8a52-0f5b-4d2e-9c39-6a4c1f3b7e21",
    "public_url": "http://localhost:8000/public/media/5d0c8a52-0f5b-4d2e-9c39-6a4c1f3b7e21",
    "expires_at": "2026-11-25T12:00:48.000000Z",
    "mime": "image/jpeg",
    "size_bytes": 482133,
    "job_id": None,
}
PURGE = {
    "status": "queued_for_gc",
    "scope": "full",
    "job_id": "0c8e6f6e-3a43-4f0a-8f57-2b9c7d1e5a66",
    "expires_cutoff": "2026-11-25T12:00:00.000000Z",
}


class RegisterMediaView(StaffView):
    parser_classes = (FormParser,)

    @operation(
        "registerMedia",
        "Publish a picture for a short while",
        tag="media",
        scope="slots:write",
        about=(
            "Whoever has its link can fetch it for `public_link_ttl_sec` (see the settings), and no longer than until "
            "the job's deadline; a job that ends earlier does not end it. What is kept has no metadata (EXIF, GPS) and "
            "stands upright, like what providers get; an animation becomes its first picture."
        ),
        form=MediaRegistration,
        response=MediaAnswer,
        example=MEDIA,
        status=201,
        headers=("Location",),
        refusals=("not_found", "job_finalized"),
    )
    def post(self, request: Request, form: dict[str, Any]) -> Response:
        job = _get_job_under_way(form["job_id"]) if "job_id" in form else None
        media_object = _publish(form["file"], job)
        log_change(media_object, ADDITION, [{"added": {}}], request.user)
        headers = {"Location": reverse("public-media", args=[media_object.pk])}
        return Response(_represent(media_object), status=201, headers=headers)


class PurgeView(StaffView):
    @operation(
        "purgeMediaCache",
        "Remove what has expired now, not at the next scheduled purge",
        tag="media",
        scope="settings:write",  # it concerns the whole service, not a slot
        about=(
            "In the background, within seconds; never what has not expired. Asked again before it has begun, it is "
            "still the one purge, with its first `expires_cutoff`."
        ),
        body=PurgeRequest,
        request_examples={"Temporary files and results": {"scope": "full"}},
        response=PurgeAnswer,
        example=PURGE,
        status=202,
    )
    def post(self, request: Request, body: dict[str, Any]) -> Response:
        scope = body["scope"]
        run, is_new = requests.request_purge(scope, request.user)
        if is_new:
            log_change(run, ADDITION, [{"added": {}}], request.user)
        details = {"scope": scope, "job_id": str(run.request_id), "expires_cutoff": run.cutoff_at}
        return Response({"status": "queued_for_gc", **details}, status=202)


def _get_job_under_way(job_id: UUID) -> Job:
    matching = Job.objects.filter(pk=job_id)
    job = matching.filter(is_finalized=False, expires_at__gt=Now()).first()
    if job is None:
        if matching.exists():
            raise ApiError("job_finalized", _("The job has ended, or its time is over."))
        raise ApiError("not_found", _("There is no such job."))
    return job


def _publish(upload: Any, job: Job | None) -> MediaObject:
    limit = settings.INGEST_MAX_FILE_BYTES
    try:
        picture = template_media.read_image(upload, limit // (1024 * 1024))
        # T_public_link_ttl is T_sync_response (contract §2).
        seconds = IngestSettings.objects.values_list("sync_response_seconds", flat=True).get()
        return media.register(picture, job, seconds)
    except ValidationError as error:
        raise refuse_image(error, limit) from None
    except images.ImageError:  # `read_image` decodes a smaller size only
        raise refuse_image(ValidationError(template_media.NO_IMAGE, "unreadable"), limit) from None


def _represent(media_object: MediaObject) -> dict[str, Any]:
    return {
        "id": str(media_object.pk),
        "public_url": links.media_url(media_object),
        "expires_at": media_object.expires_at,
        "mime": media_object.mime_type,
        "size_bytes": media_object.size_bytes,
        "job_id": media_object.job_id and str(media_object.job_id),
    }
