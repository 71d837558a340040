"""Pictures with a public link for a short while: a job's, for providers that fetch by URL, and what staff register; and
how a job's go when it ends."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.db.models import DateTimeField, Value
from django.db.models.functions import Least, Now
from django.urls import reverse

from core import images
from core.database import in_thread
from jobs.models import Job, MediaObject
from jobs.queue.records import Claim, Closed, Outcome
from jobs.storage import files
from providers import registry
from providers.base import PermanentError, Picture, Provider, Reason
from providers.prepare import prepared

logger = logging.getLogger(__name__)

PHOTO: Final = ""  # among the keys of template images, the job's photo


def publish(claim: Claim, provider: Provider[Any], photo: Picture, templates: Mapping[str, Picture]) -> dict[str, str]:
    """Links to copies as the provider takes them, by template key and `PHOTO`; good until the job's deadline at most.

    A job has one of each, also after a restart. Raises `PermanentError` for a picture that cannot be read."""
    copies = MediaObject.objects.filter(job_id=claim.id, setting_key__isnull=False)
    known = {str(media.setting_key): media for media in copies}
    for key, picture in {PHOTO: photo, **templates}.items():
        media = known.get(key)
        if media is None or files.size(media.path) is None:  # its worker was killed between row and file
            media = media or MediaObject(job_id=claim.id, setting_key=key, expires_at=claim.expires_at)
            known[key] = _copy(media, provider, picture)
    return {key: url(media) for key, media in known.items()}


def url(media: MediaObject) -> str:
    return settings.PUBLIC_BASE_URL + reverse("public-media", args=[media.pk])


def _copy(media: MediaObject, provider: Provider[Any], picture: Picture) -> MediaObject:
    try:
        ready = prepared(picture, max_side=provider.media_max_side, accepts=provider.media_accepts)
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_TEMPLATE if media.setting_key else Reason.BAD_PHOTO, str(error)) from error
    return _kept(media, ready)


def register(picture: Picture, job: Job | None, seconds: int) -> MediaObject:
    """Publishes a picture, for so many seconds and no longer than the job may take. It goes without metadata, and
    upright. Raises `ImageError`."""
    ready = prepared(picture, max_side=sys.maxsize, accepts=frozenset(images.FORMATS))
    # By the database's clock; its `Least` leaves out a null.
    deadline = Value(job and job.expires_at, DateTimeField())
    media = _kept(MediaObject(job=job, expires_at=Least(Now() + timedelta(seconds=seconds), deadline)), ready)
    media.refresh_from_db()
    return media


def _kept(media: MediaObject, picture: Picture) -> MediaObject:
    """The row first: a file without one would be nobody's."""
    media.mime_type, media.size_bytes = picture.mime_type, len(picture.data)
    media.path = files.media_path(media.pk, picture.mime_type)
    media.save()
    try:
        files.save(media.path, picture.data)
    except OSError:
        media.delete()
        raise
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
