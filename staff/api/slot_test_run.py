"""`POST /api/slots/{slot_id}/test-run`: staff try a slot's settings on a photo, processed like a booth's."""

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

from core.errors import ApiError
from core.images import FORMATS
from ingest.admission import Admission, IngestState, admit, take_snapshot
from ingest.response import wait_and_respond
from jobs import lifecycle
from jobs.models import Job
from slots.models import Slot
from staff.api.base import FormParser, PictureRenderer, StaffView
from staff.api.openapi import PICTURE_HEADERS
from staff.api.operation import operation
from staff.api.serializers import JSONTextField, StrictCharField, StrictSerializer
from staff.api.slots import get_slot, validate_slot

BOOTH_SETTINGS = ("reply", "finish_late")  # a wrapped response, a picture after the deadline: not for staff
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


class SlotTestRun(StrictSerializer):
    file = serializers.FileField(help_text="The photo: JPEG to HEIC, as from a booth.")
    settings_json = JSONTextField(required=False, help_text="As text. All settings, not only those that differ.")
    provider_id = StrictCharField(required=False, max_length=32)
    operation_id = StrictCharField(required=False, max_length=32)


class SlotTestRunView(StaffView):
    parser_classes = (FormParser,)
    renderer_classes = (PictureRenderer, JSONRenderer)

    @operation(
        "testRun",
        "Try a slot, or what it might become, on a photo",
        tag="slots",
        scope="slots:write",
        about=ABOUT,
        form=SlotTestRun,
        response={(200, mime_type): OpenApiTypes.BINARY for mime_type in FORMATS},
        headers=PICTURE_HEADERS,
        refusals=(
            "not_found",
            "queue_busy",
            "budget_exhausted",
            "provider_error",
            "job_cancelled",
            "provider_unavailable",
            "sync_timeout",
        ),
    )
    def post(self, request: Request, slot_id: str, form: dict[str, Any]) -> HttpResponseBase:
        slot = get_slot(Slot.objects.filter(archived_at=None), slot_id)
        upload = form.pop("file")
        if form:
            for name, value in form.items():
                setattr(slot, name, value)
            validate_slot(slot)
        state = request.scope["state"]  # type: ignore[attr-defined]
        connection.close()  # back to the pool: a test run may wait a minute, and ten would exhaust the pool
        # On the server's event loop, to which the ingest state belongs.
        by = request.user.get_username()
        return async_to_sync(_run)(state["ingest"], slot, upload, by, state["disconnected"])


async def _run(
    state: IngestState, slot: Slot, upload: UploadedFile[Any], by: str, disconnected: asyncio.Event
) -> HttpResponseBase:
    """Does the work in a task. Shutdown waits for the task, and so does this function when it is cancelled: the task
    may still have to read the upload or to cancel the job."""
    task = asyncio.create_task(_admit_and_respond(state, slot, upload, by, disconnected), name="test run")
    state.test_runs.add(task)
    task.add_done_callback(state.test_runs.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _admit_and_respond(
    state: IngestState, slot: Slot, upload: UploadedFile[Any], by: str, disconnected: asyncio.Event
) -> HttpResponseBase:
    settings_json = {name: value for name, value in slot.settings_json.items() if name not in BOOTH_SETTINGS}
    unsaved = {"provider_id": slot.provider_id, "operation_id": slot.operation_id, "settings_json": settings_json}
    snapshot = await take_snapshot(state.database, slot.pk, unsaved | {"is_active": True})
    if snapshot.slot_id is None:  # archived just now
        raise ApiError("not_found", _("There is no such slot."))
    if disconnected.is_set():
        raise asyncio.CancelledError
    admission = await admit(state.queue, snapshot, upload, {}, Job.Source.TEST, asked_by=by)
    return await _respond_or_cancel(state, admission, disconnected)


async def _respond_or_cancel(state: IngestState, admission: Admission, disconnected: asyncio.Event) -> HttpResponseBase:
    """Cancels the job when the client disconnects: a picture that nobody can fetch is worth no more calls."""
    responding = asyncio.create_task(wait_and_respond(state, admission, disconnected), name="respond")
    disconnecting = asyncio.create_task(disconnected.wait(), name="wait for disconnect")
    try:
        await asyncio.wait((responding, disconnecting), return_when=asyncio.FIRST_COMPLETED)
        if not responding.done():
            await lifecycle.cancel(state.queue, admission.ticket.job_id, by=None)
        return await responding
    finally:
        responding.cancel()
        disconnecting.cancel()
