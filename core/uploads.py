"""What bodies under way may take of this process's disk, and where they are put."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _

from core.errors import ApiError

# Beside the photo: 64 fields of 4 KiB, their part headers and the boundary lines.
FORM_BYTES = 1024 * 1024
MAX_BODY_BYTES = settings.INGEST_MAX_FILE_BYTES + FORM_BYTES  # of any request
# As many photos of the largest size as may be under way: more of them could not be admitted anyway.
MAX_BYTES_IN_FLIGHT = settings.QUEUE_MAX_IN_FLIGHT_JOBS * MAX_BODY_BYTES
RETRY_SECONDS = 5


class BytesInFlight:
    """Counts the bytes of bodies under way, for one event loop."""

    def __init__(self) -> None:
        self._taken = 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that takes so many bytes more, until the end of the block. It raises `ApiError` (503) once
        there are more than `MAX_BYTES_IN_FLIGHT`."""
        held = 0

        def take(count: int) -> None:
            nonlocal held
            if self._taken + count > MAX_BYTES_IN_FLIGHT:
                message = _("Too many photos are being sent at once. Try again in a few seconds.")
                raise ApiError("queue_unavailable", message, retry_after=RETRY_SECONDS)
            self._taken += count
            held += count

        try:
            yield take
        finally:
            self._taken -= held


def make_upload_dir() -> Path:
    """The folder for uploads, made again if somebody has removed it; MEDIA_ROOT is for the service alone. Raises
    `OSError`."""
    folder: Path = settings.FILE_UPLOAD_TEMP_DIR
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    return folder
