"""Template media: reading them for a job, and checking and keeping a new one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.uploadedfile import UploadedFile

from providers.base import PermanentError, Picture, Reason
from slots.models import TemplateMedia


def load(ids: Mapping[str, str]) -> dict[str, Picture]:
    """The images of these template media ids, by key. Raises `PermanentError` when one is gone."""
    found = {str(media.pk): media for media in TemplateMedia.objects.filter(pk__in=ids.values())}
    try:
        return {key: Picture(found[pk].file.read(), found[pk].mime_type) for key, pk in ids.items()}
    except (KeyError, FileNotFoundError):
        raise PermanentError(Reason.BAD_TEMPLATE, "A template image is gone") from None


def fill(media: TemplateMedia, upload: UploadedFile[Any], mime_type: str, extension: str) -> None:
    """Puts the upload, already checked to be an image of that type, into a new template media. Does not save it."""
    data = upload.read()
    media.mime_type = mime_type
    media.size_bytes = len(data)
    media.checksum = hashlib.sha256(data).hexdigest()
    media.file = ContentFile(data, name=f"upload.{extension}")
