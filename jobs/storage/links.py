"""Links to the files of jobs, signed, because a link alone permits fetching the file."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.core import signing
from django.urls import reverse

from jobs.models import Job, MediaObject

RESULT, THUMBNAIL = "r", "t"
_signer = signing.Signer(salt="public-file")


def file_url(job: Job, kind: str = RESULT) -> str:
    """The signed path of a result's file or thumbnail."""
    return reverse("public-file", args=[_signer.sign(kind + job.pk.hex)])


def parse_token(token: str) -> tuple[str, UUID]:
    """The kind of file and its job, from the token in a `file_url`. Raises `signing.BadSignature`."""
    value = _signer.unsign(token)
    return value[0], UUID(value[1:])


def media_url(media: MediaObject) -> str:
    return settings.PUBLIC_BASE_URL + reverse("public-media", args=[media.pk])
