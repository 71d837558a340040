"""Small pictures of results for staff, made when no photo is under way: staff can wait, booths cannot."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from uuid import UUID

from jobs.storage import files

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0  # in a rush without end one is made this often all the same
CLOSE_SECONDS = 3.0  # at the end of the worker; a usual backlog takes less


class Thumbnails:
    """One thread, and a queue of what it still has to do."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="thumbnail")
        self._is_quiet = threading.Event()
        self._is_quiet.set()

    def rush(self) -> None:
        """A photo is under way."""
        self._is_quiet.clear()

    def rest(self) -> None:
        """No photo is under way any more."""
        self._is_quiet.set()

    def make_later(self, job_id: UUID, path: str) -> None:
        """Of the result under `path`."""
        self._thread.submit(self._make, job_id, path)

    def close(self) -> None:
        """Makes what is still to be made, as far as that goes quickly: after a long rush it is the whole evening's, and
        whoever stops the worker waits. Blocks."""
        self.rest()
        wait([self._thread.submit(lambda: None)], CLOSE_SECONDS)
        self._thread.shutdown(cancel_futures=True)

    def _make(self, job_id: UUID, path: str) -> None:
        """A picture that has no thumbnail is still a picture, so a fault here is only logged."""
        self._is_quiet.wait(PATIENCE_SECONDS)
        try:
            files.save_thumbnail(job_id, files.read(path))
        except (OSError, ValueError):
            logger.exception("No thumbnail of job %s could be made", job_id)
