"""The adapter of the fake provider: the same work as the floor's, behind the service's provider interface."""

from __future__ import annotations

import os
from typing import NamedTuple

import httpx

from bench import wire
from providers.base import Account, AmbiguousError, Operation, OperationSettings, Picture, Provider, Reason, Request


class Settings(OperationSettings):
    seconds: float = 0.5


class Payload(NamedTuple):
    body: bytes
    seconds: float


class Bench(Provider[Payload]):
    id = "bench"
    name = "Bench"
    operations = (Operation("image_edit", "Fixed time", Settings),)
    needs_key = False

    def __init__(self, account: Account) -> None:
        super().__init__(account)
        self._url = os.environ["BENCH_PROVIDER_URL"]
        self._client = wire.make_client()

    async def prepare_payload(self, request: Request) -> Payload:
        assert isinstance(request.settings, Settings)
        return Payload(wire.encode_request(request.photo.data), request.settings.seconds)

    async def submit_job(self, payload: Payload) -> Picture:
        try:
            response = await self._client.post(
                self._url,
                params={"seconds": payload.seconds},
                content=payload.body,
                headers={"Content-Type": "application/json"},
            )
        except httpx.HTTPError as error:
            raise AmbiguousError(Reason.OVERLOADED, f"the fake provider: {type(error).__name__}") from error
        return Picture(wire.decode_response(response.content), "image/jpeg")

    async def aclose(self) -> None:
        await self._client.aclose()
