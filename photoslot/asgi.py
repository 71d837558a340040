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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "photoslot.settings")

from django import setup

setup()

from django.conf import settings  # noqa: E402 - the rooms' models load only once Django is set up
from django.utils.translation import gettext as _  # noqa: E402
from servestatic import ServeStaticASGI  # noqa: E402

from core.database import DatabaseUnavailable, open_database  # noqa: E402
from core.errors import ApiError, make_queue_unavailable  # noqa: E402
from core.logs import correlation_id  # noqa: E402
from ingest.admission import IngestState  # noqa: E402
from ingest.handler import BoothHandler  # noqa: E402
from ingest.password import PasswordChecker  # noqa: E402
from jobs.queue.notify import Listener, Waiters  # noqa: E402
from jobs.queue.verbs import DONE_CHANNEL, Queue  # noqa: E402
from photoslot.security_headers import add_missing  # noqa: E402
from photoslot.sync_handler import SyncHandler  # noqa: E402

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Beside the photo: 64 fields of 4 KiB, their part headers and the boundary lines.
FORM_BYTES = 1024 * 1024
REPORT_SECONDS = 5.0
CORRELATION_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")

BOOTH_PATH = re.compile(r"/(api/)?ingest/[^/]+")  # as in urls.py


# What is no static file goes on to Django.
static_and_django = ServeStaticASGI(
    SyncHandler(), root=settings.STATIC_ROOT, prefix=settings.STATIC_URL, allow_all_origins=False
)
booths = BoothHandler()


class BodyTooLarge(Exception):
    """The client has sent more than any endpoint takes."""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
    else:
        await _http(scope, receive, send)


async def _http(scope: Scope, receive: Receive, send: Send) -> None:
    headers = dict(scope["headers"])
    name = headers.get(b"x-correlation-id", b"")
    correlation_id.set(name.decode() if CORRELATION_ID.fullmatch(name) else uuid4().hex)
    limit = settings.INGEST_MAX_FILE_BYTES + FORM_BYTES
    started = responded = False
    scope["state"]["disconnected"] = disconnected = asyncio.Event()

    async def send_from_handler(message: Message) -> None:
        """What the handler sends, until this module has responded in its place."""
        if not responded:
            await send_with_id(message)

    async def send_with_id(message: Message) -> None:
        nonlocal started
        if message["type"] == "http.response.start":
            started = True
            named = (b"x-correlation-id", correlation_id.get().encode())
            message = {**message, "headers": [*add_missing(scope["path"], message["headers"]), named]}
        await send(message)

    try:
        if int(headers.get(b"content-length") or 0) > limit:
            raise BodyTooLarge  # before the body is asked for: `Expect: 100-continue` is never answered
        handler = booths if BOOTH_PATH.fullmatch(scope["path"]) else static_and_django
        # In a task of its own: when it is cancelled, Django's handler first waits for its thread, which may wait for a
        # picture.
        handling = asyncio.ensure_future(handler(scope, _limit_body(receive, limit, disconnected), send_from_handler))
        await asyncio.shield(handling)
    except BodyTooLarge:
        error = ApiError(
            "payload_too_large",
            _("The photo is larger than any slot takes."),
            limit_bytes=settings.INGEST_MAX_FILE_BYTES,
        )
        if b"expect" in headers:  # what comes next on this connection may or may not be the body
            error.headers["Connection"] = "close"
        await _respond(error, send_with_id)
    except asyncio.CancelledError:
        disconnected.set()
        handling.add_done_callback(_log_abandoned_failure)
        handling.cancel()
        if not started:  # this process shuts down before the job's end; the booth can post again at once
            responded = True
            await _respond(make_queue_unavailable(), send_with_id)
        raise


def _log_abandoned_failure(handling: asyncio.Future[None]) -> None:
    if not handling.cancelled() and (error := handling.exception()):
        logger.error("A request failed that was given up", exc_info=error)


def _limit_body(receive: Receive, limit: int, disconnected: asyncio.Event) -> Receive:
    """A `receive` that raises once the body is larger than the limit, whatever the headers said, and that sets
    `disconnected` when the client has closed the connection, which sending to it does not tell."""
    size = 0

    async def receive_limited() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.disconnect":
            disconnected.set()
        size += len(message.get("body", b""))
        if size > limit:
            raise BodyTooLarge
        return message

    return receive_limited


async def _respond(error: ApiError, send: Send) -> None:
    status, headers, body = error.to_raw()
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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
