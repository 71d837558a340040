"""Ending a job from outside its worker, and cleaning up after a job that has ended."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import DatabaseError, InterfaceError

from core.database import in_thread, open_database
from jobs.queue.records import EndedJob, JobOutcome
from jobs.queue.verbs import Queue
from jobs.storage import files, media
from providers import registry

logger = logging.getLogger(__name__)


async def expire(queue: Queue, job_id: UUID) -> bool:
    """Ends a job that is past its deadline. False: it has ended already or is not due."""
    ended = await queue.expire(job_id)
    if ended is not None:
        await clean_up(ended)
    return ended is not None


async def cancel(queue: Queue, job_id: UUID, by: str | None) -> bool:
    """Ends a job for staff, or (`by` is None) because no booth waits for it any more. False: it has ended already."""
    ended = await queue.cancel(job_id, by)
    if ended is not None:
        await clean_up(ended)
    return ended is not None


def cancel_job(job_id: UUID, by: str) -> bool:
    """`cancel` for synchronous code. Raises `DatabaseUnavailable`."""
    return async_to_sync(_cancel)(job_id, by)


async def _cancel(job_id: UUID, by: str) -> bool:
    async with open_database(connections=1) as database:
        return await cancel(Queue(database), job_id, by)


async def clean_up(ended: EndedJob | JobOutcome) -> None:
    """Removes the photo of a job that has ended, and withdraws the public links to its copies. If this fails, the job
    stays ended and the purge removes what is left."""
    try:
        if not ended.returns_original:
            await asyncio.to_thread(files.delete, files.payload_path(ended.id, ended.payload_mime_type))
        if ended.used_fallback or _has_public_media(ended.provider_id):
            await in_thread(media.withdraw, ended.id)
    except (OSError, DatabaseError, InterfaceError) as error:
        logger.warning("The photo of job %s is left to the purge: %s", ended.id, type(error).__name__)


def _has_public_media(provider_id: str) -> bool:
    provider = registry.get_classes().get(provider_id)
    return provider is None or provider.requires_public_media
