"""Thumbnails of results for staff, made while no job is running: staff can wait, booths cannot."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor, wait

from jobs.storage import files

logger = logging.getLogger(__name__)

MAX_PAUSE_SECONDS = 5.0  # while jobs run without a break, one thumbnail is made this often all the same
CLOSE_SECONDS = 3.0  # at the worker's shutdown; a usual backlog takes less


class Thumbnails:
    """One thread and its queue of thumbnails to make."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="thumbnail")
        self._is_idle = threading.Event()
        self._is_idle.set()

    def pause(self) -> None:
        """A job is running."""
        self._is_idle.clear()

    def resume(self) -> None:
        """No job is running any more."""
        self._is_idle.set()

    def schedule(self, path: str) -> None:
        """Makes a thumbnail of the result under `path` as soon as no job is running, or after MAX_PAUSE_SECONDS."""
        self._thread.submit(self._make, path)

    def close(self) -> None:
        """Makes the scheduled thumbnails, for CLOSE_SECONDS at most: after a busy evening there may be hundreds, and
        the worker's shutdown waits for this. Blocks."""
        self.resume()
        wait([self._thread.submit(lambda: None)], CLOSE_SECONDS)
        self._thread.shutdown(cancel_futures=True)

    def _make(self, path: str) -> None:
        """Only logs a failure, because a result is good without its thumbnail."""
        self._is_idle.wait(MAX_PAUSE_SECONDS)
        try:
            files.save_thumbnail(path)
        except (OSError, ValueError):
            logger.exception("No thumbnail of %s could be made", path)
