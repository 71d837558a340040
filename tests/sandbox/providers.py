"""Minimal adapters of the sandbox's two protocols; and Turbotext's with short pauses."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from providers.base import (
    Accepted,
    Account,
    AmbiguousError,
    Operation,
    OperationSettings,
    PermanentError,
    Picture,
    Provider,
    Reason,
    Request,
    TransientError,
)
from providers.turbotext import Turbotext


class Settings(OperationSettings):
    prompt_fields = ("scenario",)

    scenario: str = "ok"


class Payload(NamedTuple):
    photo: bytes
    scenario: str
    path: str = "/instant"


class SandboxProvider(Provider[Payload]):
    operations = (Operation("image_edit", "Negative", Settings),)

    needs_key = False

    def __init__(self, account: Account) -> None:
        super().__init__(account)
        self.client = httpx.AsyncClient(base_url=os.environ["SANDBOX_URL"], timeout=None)  # noqa: S113

    async def prepare_payload(self, request: Request) -> Payload:
        assert isinstance(request.settings, Settings)
        return Payload(request.photo.data, request.settings.scenario)

    async def call(self, method: str, path: str, scenario: str, photo: bytes = b"") -> httpx.Response:
        try:
            answer = await self.client.request(method, path, params={"scenario": scenario}, content=photo)
        except httpx.ConnectError as error:
            raise TransientError(Reason.OVERLOADED, "no connection") from error
        except httpx.HTTPError as error:
            raise AmbiguousError(Reason.SLOW, "the answer was lost") from error
        match answer.status_code:
            case 401:
                raise PermanentError(Reason.AUTH, "key refused")
            case 422:
                raise PermanentError(Reason.REFUSED, "against the rules")
            case status if status >= 400:
                wish = answer.headers.get("Retry-After")
                raise TransientError(Reason.OVERLOADED, f"HTTP {status}", retry_after=float(wish) if wish else None)
        return answer

    async def aclose(self) -> None:
        await self.client.aclose()


class Instant(SandboxProvider):
    id = "instant"
    name = "Sandbox, immediate"

    async def submit_job(self, payload: Payload) -> Picture:
        answer = await self.call("POST", payload.path, payload.scenario, payload.photo)
        return Picture(answer.content, answer.headers["Content-Type"])


class Fetching(Instant):
    """Would fetch the photo by its public link; the sandbox only records the link, in the call's path."""

    id = "fetching"
    name = "Sandbox, fetching by URL"
    requires_public_media = True

    async def prepare_payload(self, request: Request) -> Payload:
        assert request.photo_url
        payload = await super().prepare_payload(request)
        return payload._replace(path="/instant" + urlsplit(request.photo_url).path)


class Queued(SandboxProvider):
    id = "queued"
    name = "Sandbox, with a queue"
    has_queue = True
    poll_seconds = 0.05

    async def submit_job(self, payload: Payload) -> Accepted:
        answer = await self.call("POST", "/queue", payload.scenario, payload.photo)
        return Accepted(f"{answer.text} {payload.scenario}")

    async def poll_status(self, reference: str) -> Picture | None:
        queued, scenario = reference.split()
        answer = await self.call("GET", f"/queue/{queued}", scenario)
        return None if answer.status_code == 204 else Picture(answer.content, "image/jpeg")

    async def cancel(self, reference: str) -> None:
        queued, scenario = reference.split()
        await self.call("DELETE", f"/queue/{queued}", scenario)


class QuickTurbotext(Turbotext):
    """The real adapter with short pauses."""

    poll_seconds = 0.02
    download_pauses = (0.02, 0.02)
