"""Serves Django's sync views: each in a thread of its own, which ends before the response is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from typing import IO, Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.db import connection
from django.http import HttpRequest, HttpResponseBase
from django.urls import set_script_prefix

from core.database import limit_statements
from core.uploads import BytesInFlight, make_upload_dir

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

STATEMENT_SECONDS = 30.0  # what the slowest page of staff may need, and what a server that hangs costs


class SyncHandler(ASGIHandler):
    """Runs Django's middleware and the view, all of them sync, in one go in the request's thread. The thread and its
    database connection are given back before the first byte is sent, so that a slow reader holds neither. Django's own
    handler keeps both until the last byte, and switches to the thread and back for each middleware."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes_in_flight = BytesInFlight()

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await self.handle(scope, receive, send)  # Django's opens the thread here

    async def handle(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        with suppress(OSError):  # what needs the folder will say so
            make_upload_dir()
        with self._bytes_in_flight.hold() as take:

            async def receive_counted() -> Mapping[str, Any]:
                message = await receive()
                take(len(message.get("body", b"")))
                return message

            try:
                body = await self.read_body(receive_counted)
            except RequestAborted:
                return
            await self._handle_body(scope, body, receive, send)

    async def _handle_body(self, scope: dict[str, Any], body: IO[bytes], receive: Receive, send: Send) -> None:
        with closing(body):
            set_script_prefix(get_script_prefix(scope))
            response_task = asyncio.create_task(self._respond(scope, body, send))
            disconnect_task = asyncio.create_task(self._cancel_on_disconnect(response_task, receive))
            try:
                await response_task
            except asyncio.CancelledError:
                if not disconnect_task.done():  # cancelled by this process's shutdown, not by a disconnect
                    raise
            finally:
                disconnect_task.cancel()

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        async with ThreadSensitiveContext():
            return await sync_to_async(self._run_view)(request)

    def _run_view(self, request: HttpRequest) -> HttpResponseBase:
        signals.request_started.send(sender=self.__class__)
        try:
            with limit_statements(STATEMENT_SECONDS):
                return self.get_response(request)
        finally:
            connection.close()

    async def _respond(self, scope: dict[str, Any], body: IO[bytes], send: Send) -> None:
        request, response = self.create_request(scope, body)
        if request is not None:
            response = await self.run_get_response(request)
        assert response
        with closing(response):
            await self.send_response(response, send)

    async def _cancel_on_disconnect(self, response_task: asyncio.Task[None], receive: Receive) -> None:
        with suppress(RequestAborted):
            await self.listen_for_disconnect(receive)
        response_task.cancel()
