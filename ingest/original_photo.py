"""The booth's own photo as the answer, for slots that want it instead of an error (`on_failure`, contract §8)."""

from __future__ import annotations

import asyncio
import logging
from typing import Self

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from core import images
from core.database import in_thread
from ingest.admission import Admission
from jobs.queue.verbs import Queue, QueueUnavailable
from jobs.storage import files
from jobs.worker.postprocess import finish
from providers import registry
from providers.base import Picture, ProviderError
from providers.prepare import prepared
from slots import template_media

logger = logging.getLogger(__name__)

# Before the deadline: a photo of 24 megapixels is turned, framed and encoded within this time on a busy machine.
READY_SECONDS = 2.5
BOOTH_TYPES = frozenset(images.FORMATS)  # what booths print; a HEIC photo becomes a JPEG


class Spare:
    """Made ready shortly before the deadline, so that the booth has its answer in time; or when it is asked for."""

    def __init__(self, queue: Queue, admission: Admission) -> None:
        self._queue = queue
        self._ticket = admission.ticket
        self._is_wanted = asyncio.Event()
        self._making = asyncio.create_task(self._made(), name="spare") if admission.returns_original else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._making:
            self._making.cancel()

    async def photo(self) -> Picture | None:
        """None: the slot does not want it, or it could not be made, and the error is the answer after all."""
        self._is_wanted.set()
        return await self._making if self._making else None

    async def _made(self) -> Picture | None:
        try:
            async with asyncio.timeout(max(0, self._ticket.seconds_left - READY_SECONDS)):
                await self._is_wanted.wait()
        except TimeoutError:
            pass
        try:
            return await self._framed()
        except (ProviderError, images.ImageError, OSError, QueueUnavailable, DatabaseError, InterfaceError) as error:
            logger.warning("Job %s: its photo cannot be sent back: %s", self._ticket.job_id, type(error).__name__)
            return None

    async def _framed(self) -> Picture:
        """Upright, at the size and in the frame of the slot."""
        job = await self._queue.recipe(self._ticket.job_id)
        recipe = registry.parsed(job.provider_id, job.operation_id, job.settings_json)
        ids = {key: job.template_media[key] for key in [recipe.frame] if key and key in job.template_media}
        frames = await in_thread(template_media.load, ids) if ids else {}
        photo = Picture(await asyncio.to_thread(files.read, job.payload_path), job.payload_mime_type)
        return await asyncio.to_thread(lambda: finish(_upright(photo), recipe, frames, settings.INGEST_MAX_PIXELS))


def _upright(photo: Picture) -> Picture:
    """As it came but for metadata and films behind it, unless a booth could not print it so."""
    header = images.probe(photo.data, max_pixels=settings.INGEST_MAX_PIXELS)
    return prepared(photo, max_side=max(header.width, header.height), accepts=BOOTH_TYPES)
