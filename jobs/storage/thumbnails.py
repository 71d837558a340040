"""Small pictures of results for staff, made when no photo is under way: staff can wait, booths cannot."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from uuid import UUID

from jobs.storage import files

logger = logging.getLogger(__name__)

MAX_PAUSE_SECONDS = 5.0  # where photos come without a break, one thumbnail is made this often all the same
CLOSE_SECONDS = 3.0  # at the end of the worker; a usual backlog takes less


class Thumbnails:
    """One thread, and a queue of what it still has to do."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="thumbnail")
        self._is_quiet = threading.Event()
        self._is_quiet.set()

    def pause(self) -> None:
        """A photo is under way."""
        self._is_quiet.clear()

    def resume(self) -> None:
        """No photo is under way any more."""
        self._is_quiet.set()

    def schedule(self, job_id: UUID, path: str) -> None:
        """Makes a thumbnail of the result under `path` when there is time."""
        self._thread.submit(self._make, job_id, path)

    def close(self) -> None:
        """Makes what is still to be made, for CLOSE_SECONDS at most: after a busy evening there may be hundreds, and
        whoever stops the worker waits. Blocks."""
        self.resume()
        wait([self._thread.submit(lambda: None)], CLOSE_SECONDS)
        self._thread.shutdown(cancel_futures=True)

    def _make(self, job_id: UUID, path: str) -> None:
        """A picture that has no thumbnail is still a picture, so a fault here is only logged."""
        self._is_quiet.wait(MAX_PAUSE_SECONDS)
        try:
            files.save_thumbnail(job_id, files.read(path))
        except (OSError, ValueError):
            logger.exception("No thumbnail of job %s could be made", job_id)
