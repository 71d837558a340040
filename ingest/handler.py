"""Serves the booths' view as a coroutine, without a thread."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import closing
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import resolve
from django.utils import translation

from core.errors import apply_envelope

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Body:
    """A request's body, in the pieces in which it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_ended = asyncio.Event()
        self.is_disconnected = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """A client that disconnects cancels the task that reads its body."""
        while not self._has_ended.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_disconnected = True
                raise asyncio.CancelledError
            if not message.get("more_body", False):
                self._has_ended.set()
            yield message.get("body", b"")

    async def wait_for_disconnect(self) -> None:
        """Only after the body's end: until then its reader would miss what this receives."""
        await self._has_ended.wait()
        await self._receive()  # nothing else can come any more
        self.is_disconnected = True


class BoothHandler(ASGIHandler):
    """Serves the booths' view without Django's middleware, request signals and resource closers. Those run in a thread
    per request that lives as long as the request: each waiting booth would cost a thread instead of a coroutine.

    The view reads the body itself, from `request.scope["state"]["body"]`."""

    def load_middleware(self, is_async: bool = False) -> None:
        """No middleware but the envelope, which needs no thread."""
        call_view = convert_exception_to_response(self._call_view)

        async def respond(request: HttpRequest) -> HttpResponseBase:
            return apply_envelope(request, await call_view(request))  # type: ignore[misc]  # the stubs know sync views only

        self._middleware_chain = respond

    async def _call_view(self, request: HttpRequest) -> HttpResponseBase:
        request.get_host()  # ALLOWED_HOSTS holds here too
        translation.activate(translation.get_language_from_request(request))
        match = resolve(request.path_info)
        response: HttpResponseBase = await match.func(request, **match.kwargs)
        return response

    async def handle(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body = scope["state"]["body"] = Body(receive)
        response_task = asyncio.create_task(self._respond(scope, send))
        disconnect_task = asyncio.create_task(self._cancel_on_disconnect(response_task, body))
        try:
            await response_task
        except asyncio.CancelledError:
            if not body.is_disconnected:  # cancelled by this process's shutdown
                raise
        finally:
            disconnect_task.cancel()

    async def _respond(self, scope: dict[str, Any], send: Send) -> None:
        request, response = self.create_request(scope, io.BytesIO())
        if request is None:
            assert response
            await self.send_response(response, send)
            return
        with closing(request):
            response = await self.run_get_response(request)
            if isinstance(response, HttpResponse):
                response.headers["Content-Length"] = str(len(response.content))
            await self.send_response(response, send)

    async def _cancel_on_disconnect(self, response_task: asyncio.Task[None], body: Body) -> None:
        await body.wait_for_disconnect()
        response_task.cancel()
