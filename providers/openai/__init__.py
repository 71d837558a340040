"""OpenAI's image models: one `POST /images/edits` sends photo, template images and prompt and returns the picture.

The call takes from six seconds to two minutes and is paid. OpenAI has no idempotency key and no way to fetch a lost
response, so a request that may have been processed is never repeated (`AmbiguousError`). `form` declares the settings,
`responses` interprets responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from django.utils.translation import gettext_lazy as _

from core import images
from providers.base import Account, Operation, PermanentError, Picture, Provider, Reason, Request
from providers.http import Http
from providers.openai import responses
from providers.openai.form import ImageEdit, StyleTransfer
from providers.prepare import prepare, template_cache

USEFUL_SIDE = 2048  # pixels; a larger input raises the cost and hardly improves a picture of 1536
ACCEPTS = frozenset({"image/jpeg", "image/png", "image/webp"})
MAX_BYTES = 50_000_000  # each image has to be smaller

File = tuple[str, tuple[str, bytes, str]]  # part, (file name, bytes, type)


@dataclass(frozen=True, slots=True)
class Payload:
    """One request's form."""

    fields: dict[str, str] = field(repr=False)
    files: list[File] = field(repr=False)


class OpenAI(Provider[Payload]):
    id = "openai"
    name = _("OpenAI")
    default_base_url: ClassVar[str] = "https://api.openai.com/v1"
    operations = (
        Operation("image_edit", _("Edit by a prompt"), ImageEdit),
        Operation("style_transfer", _("Style of a picture"), StyleTransfer),
    )

    def __init__(self, account: Account) -> None:
        super().__init__(account)
        self._http = Http(account, {"Authorization": f"Bearer {account.key}"})

    async def prepare_payload(self, request: Request) -> Payload:
        return await asyncio.to_thread(_build_payload, request)

    async def submit_job(self, payload: Payload) -> Picture:
        response = await self._http.send(
            "POST", "/images/edits", is_paid=True, data=payload.fields, files=payload.files
        )
        if not 200 <= response.status < 300:
            raise responses.make_error(response, self.account.key, payload.fields["prompt"])
        # A 4K picture is up to 30 MB of base64.
        return await asyncio.to_thread(response.read, responses.read_picture, payload.fields["model"])

    async def check_account(self) -> None:
        """Lists the models: free, and fails for a key that is not accepted."""
        response = await self._http.send("GET", "/models")
        if response.status != 200:
            raise responses.make_error(response, self.account.key)
        responses.check_models(response)

    async def aclose(self) -> None:
        await self._http.aclose()


def _build_payload(request: Request) -> Payload:
    settings = request.settings
    assert isinstance(settings, ImageEdit)
    side = max((USEFUL_SIDE, *settings.sides()))
    files = [_build_file("photo", request.photo, side, prepare, Reason.BAD_PHOTO)]
    for key in settings.image_keys():
        if key not in request.templates:
            raise PermanentError(Reason.BAD_TEMPLATE, f"no template media with the key {key}")
        files.append(_build_file(key, request.templates[key], side, template_cache.prepare, Reason.BAD_TEMPLATE))
    return Payload(settings.fields(), files)


def _build_file(name: str, picture: Picture, side: int, prepare: Callable[..., Picture], reason: Reason) -> File:
    try:
        prepared = prepare(picture, max_side=side, accepts=ACCEPTS)
    except images.ImageError as error:
        raise PermanentError(reason, f"{name}: {error}") from error
    if len(prepared.data) >= MAX_BYTES:
        raise PermanentError(reason, f"{name}: larger than {MAX_BYTES} bytes")
    return "image[]", (f"{name}.{images.FORMATS[prepared.mime_type]}", prepared.data, prepared.mime_type)
