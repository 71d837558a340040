"""LISTEN for the queue's notifications, with polling as the fallback.

`Listener` holds the connection; `Waiters` wakes those who wait for a job's end. A notification can get lost (a
connection pooler, a broken connection), so it only hastens what polling finds within `POLL_SECONDS`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql

from core.database import DatabaseUnavailable, listen_kwargs
from jobs.queue.verbs import Queue

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # the longest delay that a lost notification costs
PROBE_SECONDS = 10.0  # after this long without a notification, the connection is tested
RECONNECT_SECONDS = 0.5

Handler = Callable[[str], None]


class Listener:
    """A dedicated LISTEN connection, opened again after any break.

    `handlers` maps a channel to the function called with each payload. `on_connect` is called after every LISTEN:
    notifications sent while the connection was down are lost, so the state must be read.
    """

    def __init__(self, handlers: Mapping[str, Handler], on_connect: Callable[[], None]) -> None:
        self._handlers = handlers
        self._on_connect = on_connect
        self.is_connected = False

    async def run(self) -> None:
        """Listens until cancelled. Returns at once where listening is switched off."""
        kwargs = listen_kwargs()
        if kwargs is None:
            return
        while True:
            try:
                await self._listen(kwargs)
            except (psycopg.Error, OSError, TimeoutError) as error:
                if self.is_connected:
                    logger.warning("The LISTEN connection broke (%s); polling until it is back", type(error).__name__)
            finally:
                self.is_connected = False
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, kwargs: dict[str, Any]) -> None:
        async with await AsyncConnection.connect(**kwargs, autocommit=True) as connection:
            for channel in self._handlers:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            self.is_connected = True
            self._on_connect()
            while True:
                async for notice in connection.notifies(timeout=PROBE_SECONDS):
                    self._handlers[notice.channel](notice.payload)
                async with asyncio.timeout(PROBE_SECONDS):
                    await connection.execute("SELECT 1")


class Waiters:
    """The coroutines of this process that wait for a job to end."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._events: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def wait_for(self, job_id: UUID) -> Iterator[asyncio.Event]:
        """Yields an event that is set when the job may have ended; its state must then be read."""
        event = asyncio.Event()
        self._events[job_id].add(event)
        try:
            yield event
        finally:
            self._events[job_id].discard(event)
            if not self._events[job_id]:
                del self._events[job_id]

    def wake(self, payload: str) -> None:
        """Handler of `queue.DONE_CHANNEL`."""
        for event in self._events.get(UUID(payload), ()):
            event.set()

    def wake_all(self) -> None:
        for events in self._events.values():
            for event in events:
                event.set()

    async def poll(self) -> None:
        """Wakes those whose job has ended, by one query for all. Runs until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._events:
                continue
            try:
                finished = await self._queue.list_finished(self._events)
            except DatabaseUnavailable:
                continue  # the next poll may succeed; each waiter has its own deadline
            for job_id in finished:
                self.wake(str(job_id))
