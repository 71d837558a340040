"""Admission: the checks of contract §4 in their order, then the queue.

A refused post leaves nothing behind: no row, no file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest
from django.utils.translation import gettext as _
from psycopg.types.json import Jsonb

from core import images
from core.database import Database, DatabaseUnavailable
from core.errors import ApiError
from core.passwords import RETRY_SECONDS, HashingBusy
from core.uploads import BytesInFlight
from ingest import form, photo
from ingest.password import RETRY_AFTER_SECONDS, PasswordChecker, TooManyFailures, WrongPassword
from ingest.withdrawal import withdraw_later
from jobs.models import Job
from jobs.queue.notify import Waiters
from jobs.queue.records import NewJob, Ticket
from jobs.queue.verbs import Queue, QueueFull, SlotArchived
from jobs.storage import files
from providers import registry

OFF_RETRY_SECONDS = 60  # staff have to act first
DAY_SECONDS = 24 * 60 * 60
SNAPSHOT_SECONDS = 1.0  # how old the slot may be that was read for the password, at the end of the body
BUSY_RETRY_SECONDS = 5  # about the time of one studio picture, or a fraction of a provider's

# Everything that admission reads, in one round trip. Slots that are off or archived are left out. Columns in `unsaved`
# override those of the saved slot.
TAKE_SNAPSHOT = """
SELECT ingest.password_hash, ingest.sync_response_seconds, slot.id AS slot_id, slot.provider_id, slot.operation_id,
    slot.settings_json, slot.size_limit_mb,
    (SELECT coalesce(jsonb_object_agg(setting_key, media_id), '{}') FROM slots_templatebinding AS binding
     WHERE binding.slot_id = slot.id) AS template_media,
    coalesce(account.is_enabled, true) AS is_enabled, coalesce(account.encrypted_key, '') <> '' AS has_key,
    coalesce(extract(epoch FROM account.open_until - clock_timestamp()), 0)::float8 AS breaker_open_seconds,
    CASE WHEN slot.settings_json ? 'daily_budget' THEN (
        SELECT coalesce(sum(cost_usd), 0) FROM providers_providercall
        WHERE slot_id = slot.id AND at >= date_trunc('day', statement_timestamp() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
    ) END AS spent_usd
FROM ingest_ingestsettings AS ingest
LEFT JOIN (slots_slot AS saved CROSS JOIN LATERAL jsonb_populate_record(saved, %(unsaved)s) AS slot)
    ON saved.id = %(slot_id)s AND slot.is_active AND slot.archived_at IS NULL
LEFT JOIN providers_provideraccount AS account ON account.provider_id = slot.provider_id
"""


@dataclass(frozen=True, slots=True)
class SlotSnapshot:
    """The booth settings and the slot as they were when the photo came in. `slot_id` is None if there is no such
    slot, or it is off."""

    password_hash: str
    sync_response_seconds: int
    slot_id: str | None
    provider_id: str
    operation_id: str
    settings_json: dict[str, Any]
    size_limit_mb: int | None
    template_media: dict[str, str]
    # From the provider's account, with defaults for a provider that has none.
    is_enabled: bool
    has_key: bool
    breaker_open_seconds: float  # how long the circuit breaker stays open; 0 or less: it is not open
    spent_usd: Decimal | None  # today (UTC); None: the slot has no budget

    @property
    def returns_original(self) -> bool:
        """If no picture can be made, the booth gets its own photo back."""
        return self.settings_json.get("on_failure") == "original"


@dataclass(frozen=True, slots=True)
class IngestState:
    """What a web process keeps for its requests; in the ASGI state under "ingest"."""

    database: Database
    queue: Queue
    waiters: Waiters
    passwords: PasswordChecker
    # Of bodies under way, before and after their password was found right: strangers cannot take the booths' share.
    unchecked_bytes: BytesInFlight = field(default_factory=BytesInFlight)
    checked_bytes: BytesInFlight = field(default_factory=BytesInFlight)
    # Test runs under way. Each needs the queue until it ends; at shutdown, to cancel its job.
    test_runs: set[asyncio.Task[Any]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Admission:
    ticket: Ticket
    returns_original: bool
    pixels: int  # of the photo


async def admit_post(state: IngestState, request: HttpRequest, slot_id: str, body: AsyncIterable[bytes]) -> Admission:
    """Admits a booth's post: all checks in the contract's order, then the queue. Raises `ApiError`.

    The password is checked as soon as its part has come, and nothing more is read if it is wrong."""
    try:
        with closing(form.FormReader(request)) as reader, ExitStack() as held:
            slot, checked_at = None, 0.0
            take = held.enter_context(state.unchecked_bytes.hold())
            async for data in body:
                take(len(data))
                reader.feed(data)
                if slot is None and reader.password is not None:
                    slot, checked_at = await _open_door(state, request, slot_id, reader.password), time.monotonic()
                    take = held.enter_context(state.checked_bytes.hold())
                if reader.must_write:
                    await asyncio.to_thread(reader.write)
            posted = await asyncio.to_thread(reader.finish)
            if slot is None:
                slot = await _open_door(state, request, slot_id, posted.password)
            elif time.monotonic() - checked_at > SNAPSHOT_SECONDS:  # it may have been changed or switched off meanwhile
                slot = await take_snapshot(state.database, slot_id)
            return await admit(state.queue, slot, posted.photo, posted.metadata)
    except form.MalformedForm as error:
        raise ApiError("invalid_payload", _("The form could not be read: %s.") % error) from None


async def _open_door(state: IngestState, request: HttpRequest, slot_id: str, password: str) -> SlotSnapshot:
    """The slot, for a booth with the right password. Raises `ApiError`."""
    slot = await take_snapshot(state.database, slot_id)
    await _check_password(state.passwords, password, slot, request.META.get("REMOTE_ADDR", ""))
    return slot


async def admit(
    queue: Queue,
    slot: SlotSnapshot,
    upload: UploadedFile[Any] | None,
    metadata: Mapping[str, str],
    source: Job.Source = Job.Source.BOOTH,
    asked_by: str | None = None,
) -> Admission:
    """Checks the slot and the photo, then enqueues the job. The caller has authenticated the client. `asked_by` is
    written to the processing log. Raises `ApiError`."""
    if slot.slot_id is None:
        raise _make_slot_not_found()
    if upload is None:
        raise ApiError("invalid_payload", _("The photo is missing: send it in the part fileToUpload."))
    info, digest = await _check_photo(upload, slot)
    job_id = uuid4()
    job = NewJob(
        id=job_id,
        slot_id=slot.slot_id,
        provider_id=slot.provider_id,
        operation_id=slot.operation_id,
        settings_json=slot.settings_json,
        template_media=slot.template_media,
        payload_path=files.payload_path(job_id, info.mime_type),
        payload_mime_type=info.mime_type,
        payload_digest=digest,
        booth_id=metadata.get("id", "")[:255],
        metadata=metadata,
        source=source.value,
        asked_by=asked_by,
    )
    # With `on_failure` the job is admitted, so that the photo goes back and the job records why.
    refusal = None if slot.returns_original else _find_budget_refusal(slot) or _find_provider_refusal(slot)
    # A booth that hangs up here must leave either a job with its photo, or neither.
    ticket = await asyncio.shield(_enqueue(queue, job, upload, slot.sync_response_seconds, refusal))
    return Admission(ticket, slot.returns_original, info.width * info.height)


async def take_snapshot(database: Database, slot_id: str, unsaved: Mapping[str, Any] | None = None) -> SlotSnapshot:
    # Postgres stores no NUL, so a slot id with one is unknown in any case.
    values = {"slot_id": slot_id.replace("\0", "?"), "unsaved": Jsonb(unsaved or {})}
    snapshot = await database.fetch_one(SlotSnapshot, TAKE_SNAPSHOT, values)
    if snapshot is None:
        raise DatabaseUnavailable("not set up yet: run manage.py bootstrap")
    return snapshot


async def _check_password(checker: PasswordChecker, password: str, slot: SlotSnapshot, address: str) -> None:
    try:
        await checker.check(password, slot.password_hash, address)
    except WrongPassword:
        raise ApiError("invalid_credentials", _("The ingest password is missing or wrong.")) from None
    except TooManyFailures:
        message = _("Too many wrong passwords from this address. Correct the password, then try again in a minute.")
        raise ApiError("rate_limited", message, retry_after=RETRY_AFTER_SECONDS) from None
    except HashingBusy:
        message = _("Too many passwords are being checked at once. Try again in a few seconds.")
        raise ApiError("rate_limited", message, retry_after=RETRY_SECONDS) from None


async def _check_photo(upload: UploadedFile[Any], slot: SlotSnapshot) -> tuple[photo.PhotoInfo, bytes]:
    limit = min(settings.INGEST_MAX_FILE_BYTES, (slot.size_limit_mb or 2048) * 1024 * 1024)
    provider = registry.get_classes().get(slot.provider_id)
    allowed = sorted(provider.photo_types) if provider else []
    info = None
    try:
        info, digest = await asyncio.to_thread(photo.probe_and_hash, upload, settings.INGEST_MAX_PIXELS)
    except photo.NotAPhoto:
        raise ApiError("invalid_payload", _("The file is not an image, or it is damaged or cut short.")) from None
    except photo.TooManyPixels as error:
        raise ApiError("payload_too_large", _("The photo has too many pixels."), limit_pixels=error.limit) from None
    except photo.SideTooLong:
        message = _("A side of the photo has more than %s pixels.") % images.MAX_SIDE
        raise ApiError("payload_too_large", message, limit_side_pixels=images.MAX_SIDE) from None
    except photo.UnsupportedPhoto:
        pass  # refused below: the size is checked before the type
    if (upload.size or 0) > limit:
        raise ApiError("payload_too_large", _("The photo is larger than this slot takes."), limit_bytes=limit)
    if info is None or info.mime_type not in allowed:
        raise ApiError("unsupported_media_type", _("Photos of this type are not taken here."), allowed=allowed)
    return info, digest


def _make_slot_not_found() -> ApiError:
    return ApiError("slot_not_found", _("There is no such slot, or it is off."))


def _find_budget_refusal(slot: SlotSnapshot) -> ApiError | None:
    """None while the slot has no budget, or some of it is left."""
    budget = slot.settings_json.get("daily_budget")
    if slot.spent_usd is None or budget is None or slot.spent_usd < budget:
        return None
    message = _("The slot's budget for today is used up. Tomorrow (UTC) it takes photos again.")
    return ApiError("budget_exhausted", message, retry_after=DAY_SECONDS - int(time.time()) % DAY_SECONDS)


def _find_provider_refusal(slot: SlotSnapshot) -> ApiError | None:
    """None if a provider can be called. Otherwise the booth need not wait to learn that none can."""
    provider = registry.get_classes().get(slot.provider_id)
    is_set_up = slot.is_enabled and (slot.has_key or provider is None or not provider.needs_key)
    if slot.settings_json.get("fallback") or (is_set_up and slot.breaker_open_seconds <= 0):
        return None
    message = _("The provider of this slot cannot be asked at the moment. Staff can see why in its account.")
    retry_after = ceil(slot.breaker_open_seconds) if slot.breaker_open_seconds > 0 else OFF_RETRY_SECONDS
    return ApiError("provider_unavailable", message, retry_after=retry_after)


async def _enqueue(
    queue: Queue, job: NewJob, upload: UploadedFile[Any], wait_seconds: int, refusal: ApiError | None
) -> Ticket:
    """Stores the photo and admits the job; deletes the photo of a job that is not admitted. A refused photo may still
    join the job of an earlier post, which is already paid for."""
    ticket, is_unknown = None, False
    try:
        if refusal is None:
            await asyncio.to_thread(files.save, job.payload_path, upload)
        ticket = await queue.admit(job, wait_seconds, only_join=refusal is not None)
    except SlotArchived:
        raise _make_slot_not_found() from None
    except QueueFull:
        message = _("As many photos are under way as may be. Try again in a few seconds.")
        raise (refusal or ApiError("queue_busy", message, retry_after=BUSY_RETRY_SECONDS)) from None
    except DatabaseUnavailable:
        is_unknown = True
        withdraw_later(queue, job, wait_seconds)
        raise
    finally:
        if not is_unknown and (ticket is None or ticket.joined):
            await asyncio.to_thread(files.delete, job.payload_path)
    return ticket
