"""LISTEN for the queue's notifications, with polling as the fallback.

`Listener` holds the connection; `Waiters` wakes those who wait for a job's end. A notification can get lost (a
connection pooler, a broken connection), so it only hastens what polling finds within `POLL_SECONDS`. Anybody who may
connect to the database may send one, so its payload is not trusted (`parse_job_id`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from core.database import BoundedAsyncConnection, DatabaseUnavailable, connection_kwargs, listen_kwargs
from jobs.queue.verbs import Queue

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # the longest delay that a lost notification costs
# A listener notifies itself this often, and must hear it before the next. It is rare because at commit a NOTIFY takes a
# lock that the whole database shares.
PROBE_SECONDS = 10.0
RECONNECT_SECONDS = 0.5
MAX_RECONNECT_SECONDS = 60.0  # where LISTEN does not work, as through PgBouncer in transaction mode

Handler = Callable[[str], None]


class NothingHeard(Exception):
    """The connection looks sound, but a notification to itself did not arrive."""


class Listener:
    """A dedicated LISTEN connection, opened again after any break.

    `handlers` maps a channel to the function called with each payload. `on_connect` is called each time the connection
    has proved that it hears: notifications sent while it did not are lost, so the state must be read. It proves so by
    a notification to itself, sent as all others are: by another connection, to the address of the pool.
    """

    def __init__(self, handlers: Mapping[str, Handler], on_connect: Callable[[], None]) -> None:
        self._probe_channel = f"photoslot_probe_{secrets.token_hex(8)}"
        self._handlers: Mapping[str, Handler] = {self._probe_channel: self._on_probe, **handlers}
        self._on_connect = on_connect
        self._has_heard = False
        self.is_connected = False

    async def run(self) -> None:
        """Listens until cancelled. Returns at once where listening is switched off."""
        kwargs = listen_kwargs()
        if kwargs is None:
            return
        pause, is_known = RECONNECT_SECONDS, False
        while True:
            try:
                await self._listen(kwargs)
            except NothingHeard:
                if not is_known:
                    logger.warning(
                        "LISTEN does not work: notifications do not arrive, and polling takes their place. Behind "
                        "PgBouncer set DATABASE_LISTEN_URL to the server's own address, or to off"
                    )
                pause = RECONNECT_SECONDS if self.is_connected else min(2 * pause, MAX_RECONNECT_SECONDS)
                is_known = True
            except (psycopg.Error, OSError, TimeoutError) as error:
                if self.is_connected:
                    logger.warning("The LISTEN connection broke (%s); polling until it is back", type(error).__name__)
                    is_known = False
                pause = RECONNECT_SECONDS
            finally:
                self.is_connected = False
            await asyncio.sleep(pause)

    async def _listen(self, kwargs: dict[str, Any]) -> None:
        async with await BoundedAsyncConnection.connect(**kwargs, autocommit=True) as connection:
            for channel in self._handlers:
                async with asyncio.timeout(PROBE_SECONDS):
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            while True:
                self._has_heard = False
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._notify_itself()
                async for notice in connection.notifies(timeout=PROBE_SECONDS):
                    self._handlers[notice.channel](notice.payload)
                if not self._has_heard:
                    raise NothingHeard

    async def _notify_itself(self) -> None:
        async with await BoundedAsyncConnection.connect(**connection_kwargs(), autocommit=True) as connection:
            await connection.execute(sql.SQL("NOTIFY {}").format(sql.Identifier(self._probe_channel)))

    def _on_probe(self, payload: str) -> None:
        self._has_heard = True
        if not self.is_connected:
            self.is_connected = True
            self._on_connect()


def parse_job_id(payload: str) -> UUID | None:
    """The job that a notification of `queue.DONE_CHANNEL` names; None: it is a stray one, which is logged."""
    try:
        return UUID(payload)
    except ValueError:
        logger.warning("A notification that names no job is ignored: %.100r", payload)
        return None


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
        if job_id := parse_job_id(payload):
            for event in self._events.get(job_id, ()):
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
