"""A job's pictures while it lives: public links to them, for providers that fetch by URL, and their removal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.urls import reverse

from jobs import files
from jobs.models import MediaObject
from jobs.records import Claim, Closed, Outcome
from photoslot import images
from photoslot.database import in_thread
from providers import registry
from providers.base import PermanentError, Picture, Provider, Reason
from providers.prepare import prepared

logger = logging.getLogger(__name__)

PHOTO: Final = ""  # among the keys of template images, the job's photo


def publish(claim: Claim, provider: Provider[Any], photo: Picture, templates: Mapping[str, Picture]) -> dict[str, str]:
    """Links to copies as the provider takes them, by template key and `PHOTO`; good until the job's deadline at most.

    A job has one of each, also after a restart. Raises `PermanentError` for a picture that cannot be read."""
    known = {str(media.setting_key): media for media in MediaObject.objects.filter(job_id=claim.id)}
    for key, picture in {PHOTO: photo, **templates}.items():
        if key not in known:
            known[key] = _copy(claim, provider, key, picture)
    return {key: settings.PUBLIC_BASE_URL + reverse("public-media", args=[media.pk]) for key, media in known.items()}


def _copy(claim: Claim, provider: Provider[Any], key: str, picture: Picture) -> MediaObject:
    """The row first: a file without one would be nobody's."""
    try:
        ready = prepared(picture, max_side=provider.media_max_side, accepts=provider.media_accepts)
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_TEMPLATE if key else Reason.BAD_PHOTO, str(error)) from error
    media = MediaObject(
        job_id=claim.id,
        setting_key=key,
        mime_type=ready.mime_type,
        size_bytes=len(ready.data),
        expires_at=claim.expires_at,
    )
    media.path = files.media_path(media.pk, ready.mime_type)
    media.save(force_insert=True)
    files.save(media.path, ready.data)
    return media


async def tidy_up(ended: Closed | Outcome) -> None:
    """For whoever has ended a job: its photo goes, and the links to it and its copies lead nowhere from now on. The end
    stands whatever comes of this: the purge finds what could not be removed."""
    try:
        if not ended.photo_is_wanted:
            await asyncio.to_thread(files.delete, ended.payload_path)
        if ended.used_fallback or _publishes(ended.provider_id):
            await in_thread(_withdraw, ended.id)
    except (OSError, DatabaseError, InterfaceError) as error:
        logger.warning("The photo of job %s is left to the purge: %s", ended.id, type(error).__name__)


def _publishes(provider_id: str) -> bool:
    provider = registry.classes().get(provider_id)
    return provider is None or provider.requires_public_media


def _withdraw(job_id: UUID) -> None:
    for media in MediaObject.objects.filter(job_id=job_id, setting_key__isnull=False):
        files.delete(media.path)
        media.delete()
