"""The example of CONTRIBUTING, "Adding a provider": a service that turns photos into negatives."""

import asyncio
from typing import Any

from pydantic import Field

from core.images import ImageError
from providers import base
from providers.base import PermanentError, Picture, Reason, Request
from providers.http import Http, Response
from providers.prepare import prepare

FAULTS = {
    401: (PermanentError, Reason.AUTH, "the key is not accepted"),
    422: (PermanentError, Reason.REFUSED, "the photo is against the rules"),
    503: (base.TransientError, Reason.OVERLOADED, "the service is overloaded"),
}


class Negative(base.OperationSettings):
    strength: int = Field(default=100, ge=0, le=100)  # percent


class Example(base.Provider[dict[str, Any]]):
    id = "example"
    name = "Example"
    operations = (base.Operation("image_edit", "Negative", Negative),)
    default_base_url = "https://api.example.com"

    def __init__(self, account: base.Account) -> None:
        super().__init__(account)
        self._http = Http(account, {"Authorization": f"Bearer {account.key}"})

    async def prepare_payload(self, request: Request) -> dict[str, Any]:
        assert isinstance(request.settings, Negative)
        try:
            jpeg = await asyncio.to_thread(prepare, request.photo, max_side=1024, accepts=frozenset({"image/jpeg"}))
        except ImageError as error:
            raise PermanentError(Reason.BAD_PHOTO, str(error)) from error
        return {"content": jpeg.data, "params": {"strength": request.settings.strength}}

    async def submit_job(self, payload: dict[str, Any]) -> Picture:
        return Picture((await self._call("POST", "/negatives", is_paid=True, **payload)).body, "image/jpeg")

    async def check_account(self) -> None:
        await self._call("GET", "/account")

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _call(self, method: str, path: str, **request: Any) -> Response:
        response = await self._http.send(method, path, **request)
        if response.status != 200:
            unknown = PermanentError, Reason.INTERNAL, f"HTTP {response.status}"
            kind, reason, message = FAULTS.get(response.status, unknown)
            raise kind(reason, message)
        return response
