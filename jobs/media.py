"""A job's photo while the job lives: the public link for providers that fetch it by URL, and its removal at the end."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.urls import reverse

from jobs import files
from jobs.models import MediaObject
from jobs.queue import Claim, Closed
from photoslot.database import in_thread
from providers import registry

logger = logging.getLogger(__name__)


def publish(claim: Claim, size_bytes: int) -> str:
    """The link to the job's photo, good until the job's deadline at most. A job has one, also after a restart."""
    media, _ = MediaObject.objects.get_or_create(
        job_id=claim.id,
        defaults={
            "path": claim.payload_path,
            "mime_type": claim.payload_mime_type,
            "size_bytes": size_bytes,
            "expires_at": claim.expires_at,
        },
    )
    return settings.PUBLIC_BASE_URL + reverse("public-media", args=[media.pk])


async def tidy_up(ended: Closed | Claim) -> None:
    """For whoever has ended a job: its photo goes, and the link to it leads nowhere from now on. The end stands
    whatever comes of this: the purge finds what could not be removed."""
    try:
        await asyncio.to_thread(files.delete, ended.payload_path)
        provider = registry.classes().get(ended.provider_id)
        if provider is None or provider.requires_public_media:
            await in_thread(_withdraw, ended.id)
    except (OSError, DatabaseError, InterfaceError) as error:
        logger.warning("The photo of job %s is left to the purge: %s", ended.id, type(error).__name__)


def _withdraw(job_id: UUID) -> None:
    MediaObject.objects.filter(job_id=job_id).delete()
