"""Serves the booths' view as a coroutine, without a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from typing import IO, Any

from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import resolve
from django.utils import translation

from core.errors import apply_envelope

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class BoothHandler(ASGIHandler):
    """Serves the booths' view without Django's middleware, request signals and resource closers. Those run in a thread
    per request that lives as long as the request: each waiting booth would cost a thread instead of a coroutine."""

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
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with closing(body):
            response_task = asyncio.create_task(self._respond(scope, body, send))
            disconnect_task = asyncio.create_task(self._cancel_on_disconnect(response_task, receive))
            try:
                await response_task
            except asyncio.CancelledError:
                if not disconnect_task.done():  # cancelled by this process's shutdown, not by a disconnect
                    raise
            finally:
                disconnect_task.cancel()

    async def _respond(self, scope: dict[str, Any], body: IO[bytes], send: Send) -> None:
        request, response = self.create_request(scope, body)
        if request is None:
            assert response
            await self.send_response(response, send)
            return
        with closing(request):  # its uploaded file
            response = await self.run_get_response(request)
            if isinstance(response, HttpResponse):
                response.headers["Content-Length"] = str(len(response.content))
            await self.send_response(response, send)

    async def _cancel_on_disconnect(self, response_task: asyncio.Task[None], receive: Receive) -> None:
        with suppress(RequestAborted):
            await self.listen_for_disconnect(receive)
        response_task.cancel()
