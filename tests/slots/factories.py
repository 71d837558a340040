"""Template images, made without an upload by the admin or the API."""

from __future__ import annotations

from django.core.files.uploadedfile import SimpleUploadedFile

from slots import template_media
from slots.models import TemplateMedia
from tests.conftest import jpeg


def image(label: str = "Mood") -> TemplateMedia:
    media = TemplateMedia(label=label)
    template_media.fill(media, SimpleUploadedFile("x.jpg", jpeg()))
    media.save()
    return media
