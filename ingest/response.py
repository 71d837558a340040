"""The response to a booth, once its job has ended."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
from collections.abc import AsyncIterator, Mapping

from django.conf import settings
from django.http import HttpResponseBase, StreamingHttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from core.database import DatabaseUnavailable
from core.errors import ApiError, make_internal_error
from ingest.admission import Admission, IngestState
from ingest.original_photo import OriginalPhoto
from ingest.wait import wait_for_end
from jobs.models import Job
from jobs.queue.records import JobOutcome
from jobs.queue.verbs import Queue
from jobs.storage import files
from providers.base import Picture, Reason

logger = logging.getLogger(__name__)

# Turns of the event loop between a connection's break, which ends a pending send, and `disconnected` being set.
LOOP_TURNS = 3


async def wait_and_respond(state: IngestState, admission: Admission, disconnected: asyncio.Event) -> HttpResponseBase:
    """Waits for the job's end, then `respond`."""
    async with OriginalPhoto(state.queue, admission) as original:
        try:
            outcome = await wait_for_end(state.queue, state.waiters, admission.ticket)
        except DatabaseUnavailable:
            if known := await original.get_without_outcome():  # a booth that would have 504 has its photo
                return _respond_with_original(state.queue, *known, disconnected)
            raise
        return await respond(state.queue, outcome, original, disconnected)


async def respond(
    queue: Queue, outcome: JobOutcome, original: OriginalPhoto, disconnected: asyncio.Event
) -> HttpResponseBase:
    """Returns the picture, or the booth's own photo if the slot wants that. Raises the `ApiError` that says why there
    is no picture. `disconnected` is set once the booth has hung up, or this process shuts down."""
    if outcome.returns_original and (photo := await original.get()):
        return _respond_with_original(queue, outcome, photo, disconnected)
    match outcome.failure_reason:
        case None:
            return await _respond_with_picture(queue, outcome, disconnected)
        case "timeout":
            raise ApiError(
                "sync_timeout",
                _("The picture was not ready in time."),
                job_id=str(outcome.id),
                expires_at=outcome.expires_at.isoformat(),
                reason=outcome.error_reason,
            )
        case "cancelled":
            raise ApiError("job_cancelled", _("Staff cancelled this photo."), job_id=str(outcome.id))
        case _:
            raise _make_provider_error(outcome)


def _make_provider_error(outcome: JobOutcome) -> ApiError:
    reason = Reason(outcome.error_reason or Reason.INTERNAL)
    if reason is Reason.INTERNAL:
        error = make_internal_error()
        error.details |= {"reason": reason.value, "job_id": str(outcome.id)}
        return error
    message = _("No picture could be made: %s.") % reason.label
    return ApiError("provider_error", message, reason=reason.value, job_id=str(outcome.id))


async def _respond_with_picture(queue: Queue, outcome: JobOutcome, disconnected: asyncio.Event) -> HttpResponseBase:
    data = await asyncio.to_thread(_read_result, outcome)
    outcome_headers = {"X-Outcome": "fallback" if outcome.used_fallback else "made"}
    if outcome.source == Job.Source.BOOTH and outcome.result_file_path:
        assert outcome.result_expires_at
        outcome_headers["X-Result-Url"] = settings.PUBLIC_BASE_URL + reverse("guest-page", args=[outcome.id])
        outcome_headers["X-Result-Expires-At"] = outcome.result_expires_at.isoformat()
    return _build_response(queue, outcome, Picture(data, str(outcome.result_mime_type)), outcome_headers, disconnected)


def _respond_with_original(
    queue: Queue, outcome: JobOutcome, photo: Picture, disconnected: asyncio.Event
) -> HttpResponseBase:
    return _build_response(queue, outcome, photo, {"X-Outcome": "original"}, disconnected)


def _build_response(
    queue: Queue, outcome: JobOutcome, picture: Picture, outcome_headers: dict[str, str], disconnected: asyncio.Event
) -> HttpResponseBase:
    headers = {"X-Job-Id": str(outcome.id)} | outcome_headers
    name = f"{outcome.slot_id}-{outcome.id}.{files.EXTENSIONS[picture.mime_type]}"
    body, content_type = picture.data, picture.mime_type
    if outcome.reply == "multipart":
        body, content_type = _make_multipart(picture, name, headers)
    return StreamingHttpResponse(
        _stream(queue, outcome, body, disconnected),
        content_type=content_type,
        headers={
            "Content-Length": str(len(body)),
            "Content-Disposition": f'inline; filename="{name}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        | headers,
    )


def _make_multipart(picture: Picture, name: str, headers: Mapping[str, str]) -> tuple[bytes, str]:
    """JSON with the values of the headers, then the picture: the format of Breeze Booth (`reply: multipart`)."""
    metadata = {header.removeprefix("X-").lower().replace("-", "_"): value for header, value in headers.items()}
    boundary = secrets.token_hex(16)
    lines = [
        f"--{boundary}",
        'Content-Disposition: form-data; name="metadata"',
        "Content-Type: application/json",
        "",
        json.dumps(metadata),
        f"--{boundary}",
        f'Content-Disposition: form-data; name="image"; filename="{name}"',
        f"Content-Type: {picture.mime_type}",
        f"Content-Length: {len(picture.data)}",
        "",
        "",
    ]
    body = "\r\n".join(lines).encode() + picture.data + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def _read_result(outcome: JobOutcome) -> bytes:
    if outcome.result_inline_base64 is not None:
        return base64.b64decode(outcome.result_inline_base64)
    assert outcome.result_file_path
    return files.read(outcome.result_file_path)


async def _stream(queue: Queue, outcome: JobOutcome, data: bytes, disconnected: asyncio.Event) -> AsyncIterator[bytes]:
    """Sends the picture and, after its last byte, records the delivery; not if the connection broke before that.

    The last byte is sent separately: a booth that hangs up before it lacks the picture, one that does after it has it.
    """
    yield data[:-1]
    if await _is_disconnected(disconnected):
        return
    waited = asyncio.Event()
    asyncio.get_running_loop().call_soon(waited.set)
    yield data[-1:]
    if waited.is_set() and await _is_disconnected(disconnected):  # it had to wait for the bytes before it
        return
    # A booth that has everything may hang up at once, which cancels this; the delivery is still recorded.
    await asyncio.shield(_record_delivery(queue, outcome))


async def _record_delivery(queue: Queue, outcome: JobOutcome) -> None:
    """Also deletes the photo if it was the response."""
    try:
        await queue.mark_delivered(outcome.id)
        if outcome.returns_original:
            await asyncio.to_thread(files.delete, files.payload_path(outcome.id, outcome.payload_mime_type))
    except (DatabaseUnavailable, OSError):
        logger.warning("Delivery of job %s could not be recorded; posting it again would join it", outcome.id)


async def _is_disconnected(disconnected: asyncio.Event) -> bool:
    """Sending to a broken connection looks successful; the disconnect is known some turns of the loop later."""
    for _turn in range(LOOP_TURNS):
        await asyncio.sleep(0)
    return disconnected.is_set()
