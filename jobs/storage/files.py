"""A job's files: `payloads/`, `results/`, `thumbnails/`, named after the job, and `media/`, named after the link.

Through Django's storage, so that they can be elsewhere. All functions block: call them in a thread.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, default_storage

from core import image_work, images

THUMBNAIL_PIXELS = 320  # the longer side; sharp in the admin's lists on a high-density screen

EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/heic": "heic", "image/heif": "heif"}


class AtomicFileSystemStorage(FileSystemStorage):
    """Writes to a temporary name and renames, so that a file is always complete; an existing file is replaced."""

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return name

    def _save(self, name: str, content: File[Any]) -> str:
        folder, _, base = name.rpartition("/")
        temporary_name: str = super()._save(  # type: ignore[misc]
            f"{folder}/.{secrets.token_hex(8)}.{base}", content
        )
        Path(self.path(temporary_name)).replace(self.path(name))
        return name

    def delete(self, name: str) -> None:
        """Raises `FileNotFoundError`, so that of two concurrent deletions one alone succeeds."""
        Path(self.path(name)).unlink()


def payload_path(job_id: UUID, mime_type: str) -> str:
    return f"payloads/{job_id}.{EXTENSIONS[mime_type]}"


def result_path(job_id: UUID, mime_type: str) -> str:
    return f"results/{job_id}.{EXTENSIONS[mime_type]}"


def thumbnail_path(job_id: UUID) -> str:
    return f"thumbnails/{job_id}.jpg"


def media_path(media_id: UUID, mime_type: str) -> str:
    return f"media/{media_id}.{EXTENSIONS[mime_type]}"


def parse_job_id(path: str) -> UUID | None:
    """The job that a file belongs to, from its name; None for other files."""
    try:
        return UUID(Path(path).stem)
    except ValueError:
        return None


def save(path: str, content: IO[Any] | bytes) -> None:
    """Stores the file, whole or not at all. An upload that is a file on the same disk is moved, not copied."""
    default_storage.save(path, ContentFile(content) if isinstance(content, bytes) else content)


def read(path: str, first: int = 0, length: int = -1) -> bytes:
    """The whole file, or `length` bytes from offset `first`. Raises `FileNotFoundError`."""
    with default_storage.open(path) as file:
        file.seek(first)
        data: bytes = file.read(length)
        return data


def size(path: str) -> int | None:
    """In bytes; None: no such file."""
    try:
        return default_storage.size(path)
    except FileNotFoundError:
        return None


def delete(path: str | None) -> int | None:
    """Removes the file if it exists. Returns the bytes freed; None: no such file."""
    if not path or (freed := size(path)) is None:
        return None
    try:
        default_storage.delete(path)
    except FileNotFoundError:
        return None
    return freed


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def save_thumbnail(job_id: UUID, data: bytes) -> None:
    """Stores a small JPEG of a result, for staff."""
    pixels = images.count_decoded_pixels(images.probe(data), THUMBNAIL_PIXELS**2)
    save(thumbnail_path(job_id), image_work.run(_make_thumbnail, data, pixels=pixels))


def _make_thumbnail(data: bytes) -> bytes:
    image = images.decode(data, useful_pixels=THUMBNAIL_PIXELS**2)  # its longer side is never below THUMBNAIL_PIXELS
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    return images.encode(image, "jpeg", 80)
