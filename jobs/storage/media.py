"""Temporary media: pictures with a short-lived public link, for providers that fetch by URL and for staff."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import DateTimeField, Value
from django.db.models.functions import Least, Now

from core import images
from jobs.models import Job, MediaObject
from jobs.queue.records import Claim
from jobs.storage import files
from jobs.storage.links import media_url
from providers.base import PermanentError, Picture, Provider, Reason
from providers.prepare import prepare

PHOTO: Final = ""  # the key of the job's photo, beside those of its template images


def publish(claim: Claim, provider: Provider[Any], photo: Picture, templates: Mapping[str, Picture]) -> dict[str, str]:
    """Links to copies in the provider's formats, by template key and `PHOTO`; valid until the job's deadline at most.

    A job has one of each, also after it is claimed again. Raises `PermanentError` for a picture that cannot be read."""
    copies = MediaObject.objects.filter(job_id=claim.id, setting_key__isnull=False)
    known = {str(media.setting_key): media for media in copies}
    for key, picture in {PHOTO: photo, **templates}.items():
        media = known.get(key)
        if media is None or files.size(media.path) is None:  # its worker was killed between row and file
            media = media or MediaObject(job_id=claim.id, setting_key=key, expires_at=claim.expires_at)
            known[key] = _publish_copy(media, provider, picture)
    return {key: media_url(media) for key, media in known.items()}


def _publish_copy(media: MediaObject, provider: Provider[Any], picture: Picture) -> MediaObject:
    try:
        prepared = prepare(picture, max_side=provider.media_max_side, accepts=provider.media_accepts)
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_TEMPLATE if media.setting_key else Reason.BAD_PHOTO, str(error)) from error
    return _save(media, prepared)


def register(picture: Picture, job: Job | None, seconds: int) -> MediaObject:
    """Publishes a picture, upright and without metadata, for `seconds` and at most until the job's deadline. Raises
    `ImageError`."""
    prepared = prepare(picture, max_side=sys.maxsize, accepts=frozenset(images.FORMATS))
    # By the database's clock; its `Least` ignores a null.
    deadline = Value(job and job.expires_at, DateTimeField())
    media = _save(MediaObject(job=job, expires_at=Least(Now() + timedelta(seconds=seconds), deadline)), prepared)
    media.refresh_from_db()
    return media


def _save(media: MediaObject, picture: Picture) -> MediaObject:
    """Writes the row first, so that no file is without a row."""
    media.mime_type, media.size_bytes = picture.mime_type, len(picture.data)
    media.path = files.media_path(media.pk, picture.mime_type)
    media.save()
    try:
        files.save(media.path, picture.data)
    except OSError:
        media.delete()
        raise
    return media


def withdraw(job_id: UUID) -> None:
    """Removes the copies of a job's photo and template images; their links stop working."""
    for media in MediaObject.objects.filter(job_id=job_id, setting_key__isnull=False):
        files.delete(media.path)
        media.delete()
