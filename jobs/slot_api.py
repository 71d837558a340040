"""`/api/slots/{slot_id}`: one slot with its latest pictures, changed by whoever has seen its newest version. Here and
not in `slots` because archiving one must know, and may end, its jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.admin.models import CHANGE
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone
from django.utils.http import parse_etags
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import public
from jobs.cancel import cancel_job
from jobs.models import Job
from jobs.queue import QueueUnavailable
from photoslot.api import Fields, StaffView, WrittenFlag, asked
from photoslot.errors import ApiError, queue_unavailable
from photoslot.openapi import BODY_REFUSALS, STAFF_REFUSALS, operation
from slots.api import RECIPE, SLOT, SlotAnswer, SlotChanges, etag, judge, log, shown, slot_of
from slots.history import sign
from slots.models import Slot
from stats.table import OF_TABLE, TableQuery, TableView, as_json_or_csv

RECENT = 10
CHUNK = 1000  # jobs read at once, when the ten newest are not enough
RECENT_HOURS = timedelta(hours=72)  # contract §6
LONGEST_JOB = timedelta(minutes=1)  # contract §2
TAG = "The ETag that was last seen, or `*`."
IF_MATCH = OpenApiParameter("If-Match", location="header", description=f"{TAG} Not needed with `updated_at`.")
IF_MATCH_REQUIRED = OpenApiParameter("If-Match", location="header", description=TAG, required=True)


class VersionedChanges(SlotChanges):
    updated_at = serializers.DateTimeField(required=False, help_text="Of the version that is changed: as If-Match.")


class ArchiveQuery(Fields):
    force = WrittenFlag(default=False, help_text="true: cancels the photos that are under way.")


class RecentResult(serializers.Serializer[Any]):
    job_id = serializers.UUIDField()
    thumbnail_url = serializers.CharField()
    download_url = serializers.CharField()
    completed_at = serializers.DateTimeField()
    result_expires_at = serializers.DateTimeField()
    mime = serializers.CharField()
    size_bytes = serializers.IntegerField()


class OneSlotAnswer(SlotAnswer):
    recent_results = RecentResult(many=True)


class RecentResults(serializers.Serializer[Any]):
    slot_id = serializers.CharField()
    results = RecentResult(many=True, help_text="Newest first.")


class VersionAnswer(serializers.Serializer[Any]):
    id = serializers.CharField()
    updated_at = serializers.DateTimeField()


RESULT = {
    "job_id": "6f1c2f3e-8a55-4a4f-9a2b-0c2d8f1f7a10",
    "thumbnail_url": "http://localhost:8000/public/files/t6f1c2f3e8a554a4f9a2b0c2d8f1f7a10:c2lnbmVk",
    "download_url": "http://localhost:8000/public/results/6f1c2f3e-8a55-4a4f-9a2b-0c2d8f1f7a10?download=1",
    "completed_at": "2026-11-25T12:00:05.000000Z",
    "result_expires_at": "2026-11-28T12:00:05.000000Z",
    "mime": "image/jpeg",
    "size_bytes": 912345,
}
VERSIONS = ("version_required", "not_found", "version_conflict")


class SlotView(StaffView):
    @operation(
        "getSlot",
        "A slot, its latest pictures and, as ETag, its version",
        tag="slots",
        takes="slots:write",
        answer=OneSlotAnswer,
        example=SLOT | {"recent_results": [RESULT]},
        headers=("ETag",),
        refusals=("invalid_payload", "not_found", *STAFF_REFUSALS),
    )
    def get(self, request: Request, slot_id: str) -> Response:
        asked(request)
        slot = slot_of(Slot.objects, slot_id)
        return Response(shown(slot) | {"recent_results": recent_results(slot_id)}, headers={"ETag": etag(slot)})

    @operation(
        "changeSlot",
        "Change a slot, if it is still as it was seen",
        tag="slots",
        takes="slots:write",
        about="What is optional and not given stays. Photos under way keep the recipe that they came in with.",
        parameters=[IF_MATCH],
        request=VersionedChanges,
        request_examples={"With If-Match": RECIPE, "Without": RECIPE | {"updated_at": SLOT["updated_at"]}},
        answer=VersionAnswer,
        example={"id": SLOT["id"], "updated_at": SLOT["updated_at"]},
        headers=("ETag",),
        refusals=(*BODY_REFUSALS, *VERSIONS, "validation_failed", *STAFF_REFUSALS),
    )
    def put(self, request: Request, slot_id: str) -> Response:
        asked(request)
        form = VersionedChanges(data=request.data)
        form.is_valid(raise_exception=True)
        changes = dict(form.validated_data)
        seen = changes.pop("updated_at", None)
        with transaction.atomic():
            sign(request.user)
            slot = _as_seen(request, slot_id, seen)
            _change(slot, changes, request.user)
        return Response({"id": slot.pk, "updated_at": slot.updated_at}, headers={"ETag": etag(slot)})

    @operation(
        "archiveSlot",
        "Archive a slot, if it is still as it was seen",
        tag="slots",
        takes="slots:write",
        about="Booths get 404 from then on. Its figures and pictures stay; the admin can take it out again.",
        parameters=[IF_MATCH_REQUIRED, ArchiveQuery],
        answer=None,
        status=204,
        refusals=("invalid_payload", *VERSIONS, "jobs_under_way", "validation_failed", *STAFF_REFUSALS),
    )
    def delete(self, request: Request, slot_id: str) -> Response:
        force = asked(request, ArchiveQuery)["force"]
        with transaction.atomic():
            sign(request.user)
            slot = _as_seen(request, slot_id)
            if not force and (count := _under_way(slot_id).count()):
                raise ApiError("jobs_under_way", _("Photos of this slot are under way."), jobs=count)
            if Slot.objects.filter(pk=slot_id).archive():
                log(slot, CHANGE, [{"changed": {"fields": ["archived_at"]}}], request.user)
        if force:
            _cancel_all(slot_id, request.user.get_username())
        return Response(status=204)


class RecentResultsView(TableView):
    table = "results"
    row = RecentResult

    @operation(
        "getRecentResults",
        "A slot's latest pictures",
        tag="statistics",
        takes="stats:read",
        about="The ten newest of the last 72 hours that can still be fetched; without test runs.",
        parameters=[TableQuery],
        answer=as_json_or_csv(RecentResults),
        headers=OF_TABLE,
        example={"slot_id": SLOT["id"], "results": [RESULT]},
        refusals=("invalid_payload", "not_found", "validation_failed", *STAFF_REFUSALS),
    )
    def get(self, request: Request, slot_id: str) -> Response:
        asked(request, TableQuery)
        slot_of(Slot.objects, slot_id)
        return Response({"slot_id": slot_id, "results": recent_results(slot_id)})


def recent_results(slot_id: str) -> list[dict[str, Any]]:
    """The latest pictures that can still be fetched, newest first."""
    now = timezone.now()
    there = (job for job in _newest_first(slot_id) if job.result_file_path)
    latest = (job for job in there if job.result_expires_at and job.result_expires_at > now)
    recent = (job for job in latest if job.finalized_at and job.finalized_at > now - RECENT_HOURS)
    ten = sorted(islice(recent, RECENT), key=lambda job: str(job.finalized_at), reverse=True)
    return [_result(job) for job in ten]


def _newest_first(slot_id: str) -> Iterator[Job]:
    """Ten at first, which are enough but where the time of some is up: of the newest and not of older ones, once
    results are kept for less than before. Jobs are admitted one by one, so no two are of the same instant."""
    rows, count = recent_jobs(slot_id), RECENT
    while chunk := list(rows[:count]):
        yield from chunk
        if len(chunk) < count:
            return
        rows, count = rows.filter(created_at__lt=chunk[-1].created_at), CHUNK


def recent_jobs(slot_id: str) -> QuerySet[Job]:
    """Of which those that are there still may be shown, newest first: to be read from the top of `job_newest_of_slot`.
    Whose time is up is not asked here: such a condition would have Postgres expect next to none, and read through
    another index."""
    rows = Job.objects.filter(
        slot_id=slot_id,
        created_at__gt=Now() - RECENT_HOURS - LONGEST_JOB,
        is_finalized=True,
        failure_reason=None,
        source=Job.Source.BOOTH,
    )
    return rows.order_by("-created_at").only(*RESULT_FIELDS)


RESULT_FIELDS = ("finalized_at", "result_file_path", "result_expires_at", "result_mime_type", "result_size_bytes")


def _result(job: Job) -> dict[str, Any]:
    picture = reverse("public-result", args=[job.pk])
    return {
        "job_id": str(job.pk),
        "thumbnail_url": settings.PUBLIC_BASE_URL + public.file_url(job, public.THUMBNAIL),
        "download_url": f"{settings.PUBLIC_BASE_URL}{picture}?download=1",
        "completed_at": job.finalized_at,
        "result_expires_at": job.result_expires_at,
        "mime": job.result_mime_type,
        "size_bytes": job.result_size_bytes,
    }


def _as_seen(request: Request, slot_id: str, updated_at: Any = None) -> Slot:
    """The slot, which nobody else changes until the transaction ends. Raises unless it is as the client has seen it."""
    given = request.headers.get("If-Match")
    if given is None and updated_at is None:
        raise ApiError("version_required", _("Send If-Match with the ETag of the version that you have seen."))
    slot = slot_of(Slot.objects.select_for_update(no_key=True), slot_id)  # photos that come in meanwhile do not wait
    tags = ["*"] if given is None else parse_etags(given)
    if not {"*", etag(slot)} & set(tags) or updated_at not in (None, slot.updated_at):
        message = _("Somebody has changed the slot since: look at it again.")
        raise ApiError("version_conflict", message, updated_at=slot.updated_at.isoformat())
    return slot


def _change(slot: Slot, changes: Mapping[str, Any], by: Any) -> None:
    changed = [name for name, value in changes.items() if getattr(slot, name) != value]
    for name in changed:
        setattr(slot, name, changes[name])
    judge(slot)
    slot.save()
    log(slot, CHANGE, [{"changed": {"fields": changed}}] if changed else [], by)


def _under_way(slot_id: str) -> QuerySet[Job]:
    return Job.objects.filter(slot_id=slot_id, is_finalized=False, expires_at__gt=Now())


def jobs_with_image(media_id: UUID) -> int:
    """How many photos under way came in while their slot had this template image."""
    jobs = Job.objects.filter(is_finalized=False, expires_at__gt=Now()).values_list("template_media", flat=True)
    return sum(str(media_id) in images.values() for images in jobs)


def _cancel_all(slot_id: str, by: str) -> None:
    try:
        for job_id in _under_way(slot_id).values_list("pk", flat=True):
            cancel_job(job_id, by)
    except QueueUnavailable:
        raise queue_unavailable() from None
