"""Template media: loading them for a job; validating, filling, previewing and removing one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.utils.translation import gettext_lazy as _

from core import image_work, images
from providers.base import PermanentError, Picture, Reason
from slots.models import TemplateMedia

MAX_MB: Final = 20  # each job reads it whole; a frame of 6000×4000 pixels has about 5
PREVIEW_PIXELS: Final = 400_000  # sharp across half a page
NO_IMAGE: Final = _("The file is not a JPEG, PNG or WebP image, or it is damaged or cut short.")
EXTENSIONS: Final[dict[images.Format, str]] = {"jpeg": "jpg", "png": "png", "webp": "webp"}


def load(ids: Mapping[str, str]) -> dict[str, Picture]:
    """The images of these template media ids, by key. Raises `PermanentError` if one is gone or cannot be read."""
    found = {str(media.pk): media for media in TemplateMedia.objects.filter(pk__in=ids.values())}
    try:
        return {key: Picture(found[pk].read(), found[pk].mime_type) for key, pk in ids.items()}
    except (KeyError, OSError) as error:
        raise PermanentError(Reason.BAD_TEMPLATE, f"A template image is gone ({type(error).__name__})") from None


def fill(media: TemplateMedia, upload: UploadedFile[Any]) -> None:
    """Puts the upload into a new template media, ignoring its name and declared type. Does not save it.

    Raises what `read_image` does.
    """
    picture = read_image(upload, MAX_MB)
    data, media.mime_type = picture.data, picture.mime_type
    media.size_bytes = len(data)
    media.checksum = hashlib.sha256(data).hexdigest()
    media.file = ContentFile(data, name=f"upload.{EXTENSIONS[images.FORMATS[media.mime_type]]}")


def read_image(upload: UploadedFile[Any], max_mb: int) -> Picture:
    """Raises `ValidationError` unless it is a whole JPEG, PNG or WebP of a size that jobs can use; its code is
    `too_large`, `wrong_type` or `unreadable`."""
    if (upload.size or 0) > max_mb * 1024 * 1024:
        raise ValidationError(_("The file is larger than %(limit)s MB."), "too_large", {"limit": max_mb})
    data = upload.read()
    return Picture(data, _detect_type(data))


def make_preview(media: TemplateMedia) -> Picture:
    """A small copy for staff. Raises `FileNotFoundError`."""
    data = media.read()
    pixels = images.count_decoded_pixels(images.probe(data), PREVIEW_PIXELS)
    return image_work.run(_make_preview, data, pixels=pixels)


def _make_preview(data: bytes) -> Picture:
    image = images.decode(data, useful_pixels=PREVIEW_PIXELS)  # the limit for new images may be lower by now
    format: images.Format = "png" if image.mode == "RGBA" else "jpeg"
    return Picture(images.encode(image, format, 85), images.MIME_TYPES[format])


def remove(media: TemplateMedia) -> None:
    """Deletes the row and, on commit, the file. Raises `ProtectedError` while a slot uses it."""
    with transaction.atomic():
        media.delete()
        transaction.on_commit(partial(_delete_file, str(media.file.name)))


def _delete_file(name: str) -> None:
    with suppress(FileNotFoundError):
        default_storage.delete(name)


def _detect_type(data: bytes) -> str:
    limit = min(settings.INGEST_MAX_PIXELS, images.MAX_PIXELS)  # the second holds for what providers get
    try:
        header = images.probe(data, max_pixels=limit)
        if header.mime_type not in images.FORMATS:
            raise ValidationError(NO_IMAGE, "wrong_type")
        images.decode(data, max_pixels=limit, useful_pixels=PREVIEW_PIXELS)
    except images.TooManyPixels:
        text = _("The image has more than %(limit)s megapixels, or more than %(side)s pixels a side.")
        limits = {"limit": limit // 1_000_000, "side": images.MAX_SIDE}
        raise ValidationError(text, "too_large", limits) from None
    except images.ImageError:
        raise ValidationError(NO_IMAGE, "unreadable") from None
    return header.mime_type
