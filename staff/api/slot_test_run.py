"""`POST /api/slots/{slot_id}/test-run`: staff try a recipe on a photo, on the way that booths' photos go.

(By another name than the address has, which pytest would take for that of tests.)"""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import async_to_sync
from django.core.files.uploadedfile import UploadedFile
from django.db import connection
from django.http import HttpResponseBase
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.utils import json

from core.errors import ApiError, queue_unavailable
from core.images import FORMATS
from ingest.admission import Admission, Door, let_in, look_up
from ingest.response import answered
from jobs.models import Job
from jobs.queue.verbs import QueueUnavailable
from jobs.storage import media
from slots.models import Slot
from staff.api.base import FormParser, PictureRenderer, StaffView
from staff.api.openapi import BODY_REFUSALS, OF_PICTURE, STAFF_REFUSALS, operation
from staff.api.serializers import Fields, Text, asked, posted
from staff.api.slots import judge, slot_of

BOOTHS_OWN = ("reply", "finish_late")  # how its answer is wrapped, and a picture after it: neither is for staff
ABOUT = (
    "What is given of `provider_id`, `operation_id` and `settings_json` counts, for this photo only, as if it had been "
    "saved; the rest is as it is saved. The slot may be off. The photo goes the way of a booth's, with its checks, its "
    "place in the queue, deadline, limits, `fallback` and `on_failure`, and what it costs is spent of the slot's "
    "`daily_budget`. It takes no booth's place: once half as many photos are under way as may be "
    "(`QUEUE_MAX_IN_FLIGHT_JOBS`), it is refused (`queue_busy`). It never joins another's job. It is in no list and no "
    "figure of the slot and has no public link; `GET /api/jobs/{job_id}` has its log, and who asked (`asked_by`). The "
    "picture is in this answer only, and always by itself (`reply` and `finish_late` are for booths); hanging up "
    "cancels the job. Placeholders are filled as for a booth that sends no fields."
)


class WrittenObject(serializers.DictField):
    """A JSON object as the text of a form's field."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        try:
            written = json.loads(data)
        except (TypeError, ValueError, RecursionError):
            written = None
        if not isinstance(written, dict):
            raise serializers.ValidationError(_("Must be an object."))
        return written


class Trial(Fields):
    file = serializers.FileField(help_text="The photo: JPEG to HEIC, as from a booth.")
    settings_json = WrittenObject(required=False, help_text="As text. All settings, not only those that differ.")
    provider_id = Text(required=False, max_length=32)
    operation_id = Text(required=False, max_length=32)


class TrialView(StaffView):
    parser_classes = (FormParser,)
    renderer_classes = (PictureRenderer, JSONRenderer)

    @operation(
        "testRun",
        "Try a slot, or what it might become, on a photo",
        tag="slots",
        takes="slots:write",
        about=ABOUT,
        request={"multipart/form-data": Trial},
        answer={(200, mime_type): OpenApiTypes.BINARY for mime_type in FORMATS},
        headers=OF_PICTURE,
        refusals=(
            *BODY_REFUSALS,
            "not_found",
            "validation_failed",
            "queue_busy",
            "budget_exhausted",
            "provider_error",
            "job_cancelled",
            "provider_unavailable",
            "sync_timeout",
            *STAFF_REFUSALS,
        ),
    )
    def post(self, request: Request, slot_id: str) -> HttpResponseBase:
        asked(request)
        slot = slot_of(Slot.objects.filter(archived_at=None), slot_id)
        given = posted(request, Trial)
        upload = given.pop("file")
        if given:
            for name, value in given.items():
                setattr(slot, name, value)
            judge(slot)
        state = request.scope["state"]  # type: ignore[attr-defined]
        connection.close()  # back to the pool: a test run may wait for a minute, and ten of them would have it all
        try:
            # On the server's own event loop, which the door belongs to.
            by = request.user.get_username()
            return async_to_sync(_run)(state["door"], slot, upload, by, state["gone"])
        except QueueUnavailable:
            raise queue_unavailable() from None


async def _run(door: Door, slot: Slot, upload: UploadedFile[Any], by: str, gone: asyncio.Event) -> HttpResponseBase:
    """In a task of its own, for which the process waits when it leaves, and this when it is cancelled: it still has the
    upload to read, or the job to cancel."""
    trying = asyncio.create_task(_tried(door, slot, upload, by, gone), name="test run")
    door.trials.add(trying)
    trying.add_done_callback(door.trials.discard)
    try:
        return await asyncio.shield(trying)
    except asyncio.CancelledError:
        await asyncio.gather(trying, return_exceptions=True)
        raise


async def _tried(door: Door, slot: Slot, upload: UploadedFile[Any], by: str, gone: asyncio.Event) -> HttpResponseBase:
    settings_json = {name: value for name, value in slot.settings_json.items() if name not in BOOTHS_OWN}
    recipe = {"provider_id": slot.provider_id, "operation_id": slot.operation_id, "settings_json": settings_json}
    tried = await look_up(door.queue, slot.pk, recipe | {"is_active": True})
    if tried.slot_id is None:  # archived just now
        raise ApiError("not_found", _("There is no such slot."))
    if gone.is_set():
        raise asyncio.CancelledError
    admission = await let_in(door.queue, tried, upload, {}, Job.Source.TEST, asked_by=by)
    return await _answered_or_cancelled(door, admission, gone)


async def _answered_or_cancelled(door: Door, admission: Admission, gone: asyncio.Event) -> HttpResponseBase:
    """Nobody can come back for the picture: once nobody waits for it, no more is spent on it."""
    answering = asyncio.create_task(answered(door, admission, gone), name="answer")
    leaving = asyncio.create_task(gone.wait(), name="leave")
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() and (closed := await door.queue.cancel(admission.ticket.job_id, by=None)):
            await media.tidy_up(closed)
        return await answering
    finally:
        answering.cancel()
        leaving.cancel()
