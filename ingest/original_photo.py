"""The booth's own photo as the response, for slots that want it instead of an error (`on_failure`, contract §8)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from core import image_work, images
from core.database import DatabaseUnavailable, in_thread
from ingest.admission import Admission
from jobs.queue.records import JobInput, JobOutcome
from jobs.queue.verbs import Queue
from jobs.storage import files
from jobs.worker.postprocess import check, postprocess
from providers import registry
from providers.base import OperationSettings, Picture, ProviderError
from providers.prepare import prepare
from slots import template_media

logger = logging.getLogger(__name__)

# Preparation begins this long before the deadline: enough to turn, frame and encode 24 megapixels on a busy machine,
# and 100 megapixels in a process of their own (`core.image_work`).
PREPARE_SECONDS = 2.5
PREPARE_LARGE_SECONDS = 8.0
LATE_SECONDS = 0.2  # how long a booth waits past its deadline for a photo that is nearly ready
BOOTH_TYPES = frozenset(images.FORMATS)  # what booths print; a HEIC photo becomes a JPEG

# Threads of their own, in which photos wait their turn: asyncio's are few, and admission needs them. Large photos do
# not hold up the others.
_threads = ThreadPoolExecutor(2, thread_name_prefix="original photo")
_large_thread = ThreadPoolExecutor(1, thread_name_prefix="large original photo")


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
        self._early = PREPARE_LARGE_SECONDS if admission.pixels > image_work.LARGE_PIXELS else PREPARE_SECONDS
        # A post that joins an ended job has its own time for it.
        self._deadline = asyncio.get_running_loop().time() + max(admission.ticket.seconds_left, self._early)
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
                async with asyncio.timeout_at(self._deadline - self._early):
                    await self._is_wanted.wait()
            except TimeoutError:
                pass
            async with asyncio.timeout_at(max(self._deadline, asyncio.get_running_loop().time() + self._early)):
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
        """The photo upright, in the slot's size and frame; if there are too many to do that in time, as it is."""
        job = source.job
        if job.payload_path is None:  # already sent to another waiting request, or removed by the purge
            raise FileNotFoundError
        slot_settings = registry.parse_settings(job.provider_id, job.operation_id, job.settings_json)
        executor = _threads if self._early == PREPARE_SECONDS else _large_thread
        framing = asyncio.get_running_loop().run_in_executor(
            executor, _make_framed, job.payload_path, job.payload_mime_type, slot_settings, source.frames
        )
        try:
            async with asyncio.timeout_at(self._deadline):
                return await framing
        except TimeoutError:  # its thread is given up if it has not begun
            logger.warning("Job %s: no time is left to frame its photo", self._ticket.job_id)
            return await asyncio.to_thread(_read_unchanged, job.payload_path, job.payload_mime_type)


def _make_framed(path: str, mime_type: str, slot_settings: OperationSettings, frames: Mapping[str, Picture]) -> Picture:
    check(slot_settings, frames)
    printable = _make_printable(Picture(files.read(path), mime_type))
    if slot_settings.frame is None and slot_settings.output is None:
        return printable
    return postprocess(printable, slot_settings, frames, settings.INGEST_MAX_PIXELS)


def _make_printable(photo: Picture) -> Picture:
    """The photo without metadata or an appended video; converted only if booths cannot print its type."""
    header = images.probe(photo.data, max_pixels=settings.INGEST_MAX_PIXELS)
    return prepare(photo, max_side=max(header.width, header.height), accepts=BOOTH_TYPES)


def _read_unchanged(path: str, mime_type: str) -> Picture:
    """The photo as the booth sent it. Raises `ImageError` if booths cannot print it."""
    if mime_type not in BOOTH_TYPES:
        raise images.ImageError(f"{mime_type} has to be converted")
    return Picture(files.read(path), mime_type)
