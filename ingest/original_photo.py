"""The booth's own photo as the response, for slots that want it instead of an error (`on_failure`, contract §8)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from core import images
from core.database import DatabaseUnavailable, in_thread
from ingest.admission import Admission
from jobs.queue.records import JobInput, JobOutcome
from jobs.queue.verbs import Queue
from jobs.storage import files
from jobs.worker.postprocess import postprocess
from providers import registry
from providers.base import Picture, ProviderError
from providers.prepare import prepare
from slots import template_media

logger = logging.getLogger(__name__)

# Preparation begins this long before the deadline: enough to turn, frame and encode 24 megapixels on a busy machine.
PREPARE_SECONDS = 2.5
LATE_SECONDS = 0.2  # how long a booth waits past its deadline for a photo that is nearly ready
BOOTH_TYPES = frozenset(images.FORMATS)  # what booths print; a HEIC photo becomes a JPEG


@dataclass(frozen=True, slots=True)
class Source:
    """What the photo is made from, the photo itself aside."""

    waiting: JobOutcome  # the job before its end
    job: JobInput
    frames: Mapping[str, Picture]


class OriginalPhoto:
    """Prepared shortly before the deadline, so that the response is in time; earlier if `get` is called. What it needs
    of the database is loaded when the wait begins: at the deadline the database may be away."""

    def __init__(self, queue: Queue, admission: Admission) -> None:
        self._queue = queue
        self._ticket = admission.ticket
        self._deadline = asyncio.get_running_loop().time() + admission.ticket.seconds_left
        self._is_wanted = asyncio.Event()
        self._source: Source | None = None
        self._task = asyncio.create_task(self._prepare(), name="original photo") if admission.returns_original else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()

    async def get(self) -> Picture | None:
        """None if the slot does not want it, or preparing it failed: then the error is the response."""
        self._is_wanted.set()
        return await self._task if self._task else None

    async def get_without_outcome(self) -> tuple[JobOutcome, Picture] | None:
        """The same for a job whose end is unknown because the database is away, with what is known of the job."""
        if self._task is None:
            return None
        await asyncio.wait([self._task], timeout=LATE_SECONDS)
        photo = self._task.result() if self._task.done() else None
        return (replace(self._source.waiting, returns_original=True), photo) if self._source and photo else None

    async def _prepare(self) -> Picture | None:
        try:
            await self._load_at_first()
            try:
                async with asyncio.timeout_at(self._deadline - PREPARE_SECONDS):
                    await self._is_wanted.wait()
            except TimeoutError:
                pass
            async with asyncio.timeout_at(max(self._deadline, asyncio.get_running_loop().time() + PREPARE_SECONDS)):
                self._source = self._source or await self._load()
            return await self._frame(self._source)
        except (ProviderError, images.ImageError, OSError, DatabaseUnavailable, DatabaseError, InterfaceError) as error:
            logger.warning("Job %s: its photo cannot be sent back: %s", self._ticket.job_id, type(error).__name__)
            return None

    async def _load_at_first(self) -> None:
        with suppress(DatabaseUnavailable, DatabaseError, InterfaceError):  # it is loaded when it is needed
            self._source = await self._load()

    async def _load(self) -> Source:
        waiting = await self._queue.get_outcome(self._ticket.job_id)
        job = await self._queue.get_job_input(self._ticket.job_id)
        assert waiting, "jobs are removed long after their booths have gone"
        frame = registry.parse_settings(job.provider_id, job.operation_id, job.settings_json).frame
        ids = {key: job.template_media[key] for key in [frame] if key and key in job.template_media}
        return Source(waiting, job, await in_thread(template_media.load, ids) if ids else {})

    async def _frame(self, source: Source) -> Picture:
        """The photo upright, in the slot's size and frame."""
        job = source.job
        if job.payload_path is None:  # already sent to another waiting request, or removed by the purge
            raise FileNotFoundError
        slot_settings = registry.parse_settings(job.provider_id, job.operation_id, job.settings_json)
        photo = Picture(await asyncio.to_thread(files.read, job.payload_path), job.payload_mime_type)
        return await asyncio.to_thread(
            lambda: postprocess(_make_printable(photo), slot_settings, source.frames, settings.INGEST_MAX_PIXELS)
        )


def _make_printable(photo: Picture) -> Picture:
    """The photo without metadata or an appended video; converted only if booths cannot print its type."""
    header = images.probe(photo.data, max_pixels=settings.INGEST_MAX_PIXELS)
    return prepare(photo, max_side=max(header.width, header.height), accepts=BOOTH_TYPES)
