"""Google Gemini (Developer API): one `generateContent` call with the photo, the template images and the prompt.

`settings` is what a slot may set, `answers` and `errors` say what came of a call, `files` uploads what does not go
with the request itself.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from django.utils.translation import gettext_lazy as _

from core import images
from providers import catalogue
from providers.base import Account, Operation, PermanentError, Picture, Provider, ProviderError, Reason, Request
from providers.gemini.answers import picture_of
from providers.gemini.errors import Fault, error_of
from providers.gemini.files import FileCache, Files, MemoryCache, RemoteFile, control
from providers.gemini.settings import PROVIDER, IdentityTransfer, ImageEdit, StyleTransfer
from providers.http import Answer, Http
from providers.prepare import prepare, reencode, templates

logger = logging.getLogger(__name__)

ACCEPTS: Final = frozenset({"image/jpeg", "image/png", "image/webp"})
# Pixels a side that are worth sending, by the size of the picture asked for: what is finer cannot show in it.
# 3,000 is half of what a 24 MP camera has: such a JPEG is decoded at half its size, in a third of the time.
USEFUL_SIDE: Final = {"2K": 3000, "4K": 4096}
USEFUL_SIDE_1K: Final = 2048
TEMPLATE_SIDE: Final = 3000  # whatever the picture's: an uploaded template image serves slots of all sizes
INLINE_BYTES: Final = 20_000_000  # of images in base64; one page of the documentation allows 100 MB, another these
SHARED_BYTES: Final = 256 * 1024  # below, a template image takes no longer to send along than to upload
INLINE_SECONDS: Final = 60.0  # after a failed upload, before another is tried: meanwhile photos need not wait for it

Part = dict[str, Any]


@dataclass(slots=True, repr=False)  # a prompt and a photo are in it
class Payload:
    """One photo's request; attempts leave in it what the next one should do differently."""

    settings: ImageEdit
    photo: Picture
    templates: dict[str, Picture]
    parts: list[Part] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)  # of the shared files among the parts
    uploads: list[RemoteFile] = field(default_factory=list)  # of the photo, to be deleted when it is done with
    seen: Counter[str] = field(default_factory=Counter)  # refusals by kind


class Gemini(Provider[Payload]):
    id = PROVIDER
    name = _("Google Gemini")
    operations = (
        Operation("image_edit", _("Edit by a prompt"), ImageEdit),
        Operation("style_transfer", _("Style of a picture"), StyleTransfer),
        Operation("identity_transfer", _("Face of a picture"), IdentityTransfer),
    )
    default_base_url: ClassVar[str] = "https://generativelanguage.googleapis.com"

    def __init__(self, account: Account, cache: FileCache | None = None) -> None:
        super().__init__(account)
        self._http = Http(account, {"x-goog-api-key": account.key})
        self._files = Files(account, self._http, cache or MemoryCache())
        self._inline_until = 0.0
        self._clearing: set[asyncio.Task[None]] = set()

    async def prepare_payload(self, request: Request) -> Payload:
        settings = request.settings
        assert isinstance(settings, ImageEdit)
        missing = [key for key in settings.image_keys() if key not in request.templates]
        if missing:
            raise PermanentError(Reason.BAD_TEMPLATE, f"no template media with the key {', '.join(missing)}")
        chosen = {key: request.templates[key] for key in settings.image_keys()}
        payload = Payload(settings, await _ready_photo(request.photo, settings), chosen)
        await self._fill(payload)
        return payload

    async def submit_job(self, payload: Payload) -> Picture:
        answer = await self._generate(payload)
        if answer.status != 200 and await self._mended(payload, Fault.of(answer)):
            answer = await self._generate(payload)
        secrets = self.account.key, payload.settings.prompt, payload.settings.negative_prompt or ""
        if answer.status != 200:
            raise error_of(Fault.of(answer), *secrets)
        return await asyncio.to_thread(picture_of, answer, payload.settings.model, payload.seen, *secrets)

    async def check_account(self) -> None:
        await control(self._http, self.account.key, "GET", "/v1beta/models", params={"pageSize": 1})

    def release(self, payload: Payload) -> None:
        for file in payload.uploads:
            task = asyncio.create_task(self._delete(file), name="delete an uploaded photo")
            self._clearing.add(task)
            task.add_done_callback(self._clearing.discard)

    async def aclose(self) -> None:
        await asyncio.gather(*self._clearing)
        await self._files.aclose()
        await self._http.aclose()

    async def _generate(self, payload: Payload) -> Answer:
        body = await asyncio.to_thread(_body, payload)
        url = f"/v1beta/models/{payload.settings.model}:generateContent"
        headers = {"Content-Type": "application/json"}
        return await self._http.send("POST", url, is_paid=True, content=body, headers=headers)

    async def _mended(self, payload: Payload, fault: Fault) -> bool:
        """Whether the request was changed so that it may pass now. What was refused so costs nothing."""
        if fault.is_lost_file and (payload.digests or payload.uploads):
            # Expired early or deleted; nobody says which of them, so all of this photo's go again.
            for digest in payload.digests:
                await self._files.forget(digest)
        elif fault.is_unreadable_image:
            side = _useful_side(payload.settings)
            payload.photo = await asyncio.to_thread(reencode, payload.photo, max_side=side, accepts=ACCEPTS)
        else:
            return False
        await self._fill(payload)
        return True

    async def _fill(self, payload: Payload) -> None:
        """Decides what goes inline and what is uploaded, and uploads that."""
        payload.digests.clear()
        shared = await asyncio.gather(*(self._template(payload, key) for key in payload.templates))
        photo = await asyncio.to_thread(_inline, payload.photo)
        if sum(len(part["inlineData"]["data"]) for part in (photo, *shared) if "inlineData" in part) > INLINE_BYTES:
            payload.uploads.append(await self._files.upload(payload.photo, Reason.BAD_PHOTO))
            photo = payload.uploads[-1].part()
        payload.parts = [photo, *shared]

    async def _template(self, payload: Payload, key: str) -> Part:
        picture = payload.templates[key]
        if len(picture.data) < SHARED_BYTES:
            return _inline(await _ready_template(picture))
        digest = await asyncio.to_thread(self._files.digest, picture.data)
        file = await self._files.known(digest)
        if file is None:
            ready = await _ready_template(picture)
            file = await self._shared(digest, ready)
        if file is None:
            return await asyncio.to_thread(_inline, ready)
        payload.digests.append(digest)
        return file.part()

    async def _shared(self, digest: str, ready: Picture) -> RemoteFile | None:
        """None when uploads do not work: then the image goes with the request."""
        if time.monotonic() < self._inline_until:
            return None
        try:
            return await self._files.shared(digest, ready)
        except ProviderError as error:
            if error.reason is Reason.BAD_TEMPLATE:
                raise
            logger.warning("A template image could not be uploaded (%s); it goes with the request", error.reason)
            self._inline_until = time.monotonic() + INLINE_SECONDS
            return None

    async def _delete(self, file: RemoteFile) -> None:
        try:
            await self._files.delete(file)
        except ProviderError as error:
            logger.warning("An uploaded photo was not deleted (%s); the provider does so within 48 h", error.reason)


def _useful_side(settings: ImageEdit) -> int:
    return USEFUL_SIDE.get(settings.image_size or "", USEFUL_SIDE_1K)


async def _ready_photo(photo: Picture, settings: ImageEdit) -> Picture:
    return await _ready(prepare, photo, _useful_side(settings), Reason.BAD_PHOTO)


async def _ready_template(picture: Picture) -> Picture:
    return await _ready(templates.prepare, picture, TEMPLATE_SIDE, Reason.BAD_TEMPLATE)


async def _ready(prepare: Callable[..., Picture], picture: Picture, side: int, bad: Reason) -> Picture:
    try:
        return await asyncio.to_thread(prepare, picture, max_side=side, accepts=ACCEPTS)
    except images.ImageError as error:
        raise PermanentError(bad, str(error)) from error


def _inline(picture: Picture) -> Part:
    return {"inlineData": {"mimeType": picture.mime_type, "data": base64.b64encode(picture.data).decode()}}


def _body(payload: Payload) -> bytes:
    settings = payload.settings
    text = f"{settings.prompt}\n\nAvoid: {settings.negative_prompt}" if settings.negative_prompt else settings.prompt
    generation: dict[str, Any] = {"responseModalities": ["IMAGE"]}  # with prose allowed, some answers are only prose
    image = {"aspectRatio": settings.aspect_ratio, "imageSize": settings.image_size}
    if any(image.values()):
        generation["imageConfig"] = {name: value for name, value in image.items() if value}
    if level := _thinking_level(payload):
        generation["thinkingConfig"] = {"thinkingLevel": level.upper()}
    request: dict[str, Any] = {
        "contents": [{"role": "user", "parts": [*payload.parts, {"text": text}]}],
        "generationConfig": generation,
    }
    if settings.safety_settings:
        request["safetySettings"] = [setting.model_dump() for setting in settings.safety_settings]
    return json.dumps(request).encode()


def _thinking_level(payload: Payload) -> str | None:
    """The slot's wish, until thoughts have used up all tokens: then the least the model can do."""
    if payload.seen["MAX_TOKENS"]:
        levels: list[str] = catalogue.models(PROVIDER)[payload.settings.model].get("thinking_levels", [])
        return levels[0] if levels else None
    return payload.settings.thinking_level
