"""How Django serves the booths' view: as a coroutine and nothing else."""

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

from core.errors import EnvelopeMiddleware

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class BoothHandler(ASGIHandler):
    """The booths' view without Django's middleware, signals and closers. Those take their turns in a thread of the
    request's own, which then lives as long as the request: a held booth would cost a thread and not a coroutine."""

    def load_middleware(self, is_async: bool = False) -> None:
        """Of the middleware only what a booth has a use for, none of it in a thread."""
        self._middleware_chain = EnvelopeMiddleware(convert_exception_to_response(self._view))

    async def _view(self, request: HttpRequest) -> HttpResponseBase:
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
            answering = asyncio.create_task(self._answer(scope, body, send))
            leaving = asyncio.create_task(self._cancel_when_gone(answering, receive))
            try:
                await answering
            except asyncio.CancelledError:
                if not leaving.done():  # not the booth has left, but this process is told to
                    raise
            finally:
                leaving.cancel()

    async def _answer(self, scope: dict[str, Any], body: IO[bytes], send: Send) -> None:
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

    async def _cancel_when_gone(self, answering: asyncio.Task[None], receive: Receive) -> None:
        with suppress(RequestAborted):
            await self.listen_for_disconnect(receive)
        answering.cancel()
