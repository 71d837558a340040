"""A job's files: `payloads/`, named after the job; `results/` and `thumbnails/`, named after the job and the claim that
made them, so that no two workers write one file and no name follows from a public link; `media/`, named after the link.

Through Django's storage, so that they can be elsewhere. All functions block: call them in a thread. `FilePart` does so
itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, default_storage

from core import image_work, images

UUID_LENGTH = 36
THUMBNAIL_PIXELS = 320  # the longer side; sharp in the admin's lists on a high-density screen

PIECE_BYTES = 64 * 1024  # as much as the server's own buffer for a connection

EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/heic": "heic", "image/heif": "heif"}


class AtomicFileSystemStorage(FileSystemStorage):
    """Writes to a temporary name and renames, so that a file is always complete; an existing file is replaced."""

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return name

    def _save(self, name: str, content: File[Any]) -> str:
        folder, _, base = name.rpartition("/")
        draft = f"{folder}/.{secrets.token_hex(8)}.{base}"
        try:
            super()._save(draft, content)  # type: ignore[misc]
            Path(self.path(draft)).replace(self.path(name))
        except BaseException:
            with suppress(OSError):
                Path(self.path(draft)).unlink()  # what a full disk left of it
            raise
        return name

    def delete(self, name: str) -> None:
        """Raises `FileNotFoundError`, so that of two concurrent deletions one alone succeeds."""
        Path(self.path(name)).unlink()


def payload_path(job_id: UUID, mime_type: str) -> str:
    return f"payloads/{job_id}.{EXTENSIONS[mime_type]}"


def result_path(job_id: UUID, claim_token: UUID, mime_type: str) -> str:
    return f"results/{job_id}-{claim_token.hex}.{EXTENSIONS[mime_type]}"


def thumbnail_path(result_path: str) -> str:
    return f"thumbnails/{Path(result_path).stem}.jpg"


def media_path(media_id: UUID, mime_type: str) -> str:
    return f"media/{media_id}.{EXTENSIONS[mime_type]}"


def parse_job_id(path: str) -> UUID | None:
    """The job that a file belongs to, from its name; None for other files."""
    try:
        return UUID(Path(path).stem[:UUID_LENGTH])
    except ValueError:
        return None


def save(path: str, content: IO[Any] | bytes) -> None:
    """Stores the file, whole or not at all. An upload that is a file on the same disk is moved, not copied."""
    default_storage.save(path, ContentFile(content) if isinstance(content, bytes) else content)


def read(path: str) -> bytes:
    """The whole file. Raises `FileNotFoundError`."""
    with default_storage.open(path) as file:
        data: bytes = file.read()
        return data


class FilePart:
    """`length` bytes of a stored file from offset `first`, read in small pieces while they are sent: however slow its
    reader, it takes no thread and little memory. Opening it raises `FileNotFoundError`; from then on the file may be
    deleted. Whoever opens it closes it; a Django response does."""

    def __init__(self, path: str, first: int, length: int) -> None:
        self._file = default_storage.open(path)
        self._first = first
        self._length = length

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await asyncio.to_thread(self._file.seek, self._first)
        left = self._length
        while left:
            piece: bytes = await asyncio.to_thread(self._file.read, min(left, PIECE_BYTES))
            if not piece:
                raise EOFError("The file has become shorter")
            left -= len(piece)
            yield piece

    def close(self) -> None:
        self._file.close()


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


def save_thumbnail(result_path: str) -> None:
    """Stores a small JPEG of a result, for staff."""
    data = read(result_path)
    pixels = images.count_decoded_pixels(images.probe(data), THUMBNAIL_PIXELS**2)
    save(thumbnail_path(result_path), image_work.run(_make_thumbnail, data, pixels=pixels))


def _make_thumbnail(data: bytes) -> bytes:
    image = images.decode(data, useful_pixels=THUMBNAIL_PIXELS**2)  # its longer side is never below THUMBNAIL_PIXELS
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    return images.encode(image, "jpeg", 80)
