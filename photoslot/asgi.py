"""The ASGI entry: what stands in front of Django.

It bounds the body before Django spools it, gives each response its correlation id and security headers, and keeps what
`ingest` needs (pool, queue, notifications, password checker) for the life of the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "photoslot.settings")

from django import setup
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from photoslot.environment import check_media_root

try:
    setup()
    check_media_root(settings.FILE_UPLOAD_TEMP_DIR)
except ImproperlyConfigured as error:
    sys.exit(str(error))

from django.utils.translation import gettext as _
from servestatic import ServeStaticASGI

from core.database import DatabaseUnavailable, open_database
from core.errors import ApiError, make_queue_unavailable
from core.logs import correlation_id
from core.uploads import MAX_BODY_BYTES
from ingest.admission import IngestState
from ingest.handler import BoothHandler
from ingest.password import PasswordChecker
from jobs.queue.notify import Listener, Waiters
from jobs.queue.verbs import DONE_CHANNEL, Queue
from photoslot.security_headers import add_missing
from photoslot.sync_handler import SyncHandler

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

REPORT_SECONDS = 5.0
CORRELATION_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")

BOOTH_PATH = re.compile(r"/(api/)?ingest/[^/]+")  # as in urls.py


# What is no static file goes on to Django.
static_and_django = ServeStaticASGI(
    SyncHandler(), root=settings.STATIC_ROOT, prefix=settings.STATIC_URL, allow_all_origins=False
)
booths = BoothHandler()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
    else:
        await _http(scope, receive, send)


class Exchange:
    """One request and its response: the limits of its body, and what its handler must not do."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self._path = scope["path"]
        self.is_booth = BOOTH_PATH.fullmatch(self._path) is not None
        self.limit = _find_body_limit(headers, self.is_booth)
        self.declared = int(headers.get(b"content-length") or 0)
        self.disconnected = scope["state"]["disconnected"] = asyncio.Event()
        self.has_started = False
        self._body_ended = not self.declared and b"transfer-encoding" not in headers
        self._size = 0
        self._is_taken_over = False
        self._receive, self._send = receive, send

    async def receive(self) -> Message:
        """Raises `ApiError` once the body is larger than its limit, whatever the headers said. Sets `disconnected` when
        the client has closed the connection, which sending to it does not tell."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.disconnected.set()
        elif not message.get("more_body", False):
            self._body_ended = True
        self._size += len(message.get("body", b""))
        if self._size > self.limit:
            raise _make_size_error(self.limit)
        return message

    async def send_from_handler(self, message: Message) -> None:
        """What the handler sends, until this module has responded in its place."""
        if not self._is_taken_over:
            await self.send(message)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            named = (b"x-correlation-id", correlation_id.get().encode())
            headers = [*add_missing(self._path, message["headers"]), named]
            if not self._body_ended:  # its rest is not read: the next request could not be told apart from it
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def respond(self, error: ApiError) -> None:
        """In the handler's place."""
        self._is_taken_over = True
        status, headers, body = error.to_raw()
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


async def _http(scope: Scope, receive: Receive, send: Send) -> None:
    name = dict(scope["headers"]).get(b"x-correlation-id", b"")
    correlation_id.set(name.decode() if CORRELATION_ID.fullmatch(name) else uuid4().hex)
    exchange = Exchange(scope, receive, send)
    if exchange.declared > exchange.limit:
        # Before the body is asked for: `Expect: 100-continue` is never answered.
        await exchange.respond(_make_size_error(exchange.limit))
        return
    # In a task of its own: when it is cancelled, Django's handler first waits for its thread, which may wait for a
    # picture.
    handler = booths if exchange.is_booth else static_and_django
    handling = asyncio.ensure_future(handler(scope, exchange.receive, exchange.send_from_handler))
    try:
        await asyncio.shield(handling)
    except ApiError as error:  # of a body that Django's handler was reading
        await exchange.respond(error)
    except asyncio.CancelledError:
        exchange.disconnected.set()
        handling.add_done_callback(_log_abandoned_failure)
        handling.cancel()
        if not exchange.has_started:  # this process shuts down before the job's end; the booth can post again at once
            await exchange.respond(make_queue_unavailable())
        raise


def _find_body_limit(headers: Mapping[bytes, bytes], is_booth: bool) -> int:
    """The most bytes that a request's body may have. What holds no file is small: Django would refuse to read more of
    it, but only after spooling all of it."""
    if is_booth or headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data"):
        return MAX_BODY_BYTES
    return min(MAX_BODY_BYTES, settings.DATA_UPLOAD_MAX_MEMORY_SIZE)


def _make_size_error(limit: int) -> ApiError:
    if limit == MAX_BODY_BYTES:
        message = _("The photo is larger than any slot takes.")
        return ApiError("payload_too_large", message, limit_bytes=settings.INGEST_MAX_FILE_BYTES)
    return ApiError("payload_too_large", _("The body is too large."), limit_bytes=limit)


def _log_abandoned_failure(handling: asyncio.Future[None]) -> None:
    if not handling.cancelled() and (error := handling.exception()):
        logger.error("A request failed that was given up", exc_info=error)


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    async with _open_ingest_state() as state:
        scope["state"]["ingest"] = state
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def _open_ingest_state() -> AsyncIterator[IngestState]:
    async with open_database() as database:
        queue = Queue(database)
        waiters = Waiters(queue)
        listener = Listener({DONE_CHANNEL: waiters.wake}, waiters.wake_all)
        tasks = [
            asyncio.create_task(listener.run(), name="listen"),
            asyncio.create_task(waiters.poll(), name="poll"),
            asyncio.create_task(_report_process(queue, listener), name="report process"),
        ]
        for task in tasks:
            task.add_done_callback(_exit_on_failure)
        state = IngestState(database, queue, waiters, PasswordChecker(database))
        try:
            yield state
        finally:
            await asyncio.gather(*state.test_runs, return_exceptions=True)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _report_process(queue: Queue, listener: Listener) -> None:
    process_id = uuid4()
    name = f"{socket.gethostname()} {os.getpid()}"
    try:
        while True:
            try:
                await queue.record_process(
                    id=process_id, kind="web", name=name, capacity=0, busy=0, is_listening=listener.is_connected
                )
            except DatabaseUnavailable as error:
                logger.warning("The database does not answer (%s)", error)
            await asyncio.sleep(REPORT_SECONDS)
    finally:
        with suppress(DatabaseUnavailable):  # shutting down together with the database is no fault
            await queue.remove_process(process_id)


def _exit_on_failure(task: asyncio.Task[None]) -> None:
    """A side task that fails ends the process, so that its supervisor starts it again."""
    if not task.cancelled() and (error := task.exception()):
        logger.critical("Task %r died", task.get_name(), exc_info=error)
        os._exit(1)
