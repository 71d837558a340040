"""Google Gemini (Developer API): one `generateContent` call with the photo, the template images and the prompt.

`settings` declares what a slot may set, `responses` and `errors` interpret responses, `files` uploads images that are
not sent inline in the request.
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
from providers.gemini.errors import Fault, make_error
from providers.gemini.files import FileCache, Files, RemoteFile, send_control
from providers.gemini.responses import read_picture
from providers.gemini.settings import PROVIDER, IdentityTransfer, ImageEdit, StyleTransfer
from providers.http import Http, Response
from providers.prepare import prepare, reencode, template_cache

logger = logging.getLogger(__name__)

ACCEPTS: Final = frozenset({"image/jpeg", "image/png", "image/webp"})
# Pixels a side that are worth sending, by the requested size of the picture: finer detail would not be visible in it.
# 3,000 is half the side of a 24 MP photo: such a JPEG is decoded at half its size, in a third of the time.
USEFUL_SIDE: Final = {"2K": 3000, "4K": 4096}
USEFUL_SIDE_1K: Final = 2048
TEMPLATE_SIDE: Final = 3000  # for every size: an uploaded template image is shared by slots of all sizes
INLINE_BYTES: Final = 20_000_000  # of images in base64; one page of the documentation allows 100 MB, another 20 MB
SHARED_BYTES: Final = 256 * 1024  # a smaller template image takes no longer to send inline than to upload
INLINE_SECONDS: Final = 60.0  # after a failed upload, before the next: until then photos do not wait for uploads

Part = dict[str, Any]


@dataclass(slots=True, repr=False)  # contains a prompt and a photo
class Payload:
    """One photo's request; an attempt changes it for the next one (`refusals`, and `Gemini._repair`)."""

    settings: ImageEdit
    photo: Picture
    templates: dict[str, Picture]
    parts: list[Part] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)  # of the shared files among the parts
    uploads: list[RemoteFile] = field(default_factory=list)  # of the photo, to be deleted when its job has ended
    refusals: Counter[str] = field(default_factory=Counter)  # of this photo, by code


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
        self._files = Files(account, self._http, cache or FileCache())
        self._inline_until = 0.0
        self._deletions: set[asyncio.Task[None]] = set()

    async def prepare_payload(self, request: Request) -> Payload:
        settings = request.settings
        assert isinstance(settings, ImageEdit)
        missing = [key for key in settings.image_keys() if key not in request.templates]
        if missing:
            raise PermanentError(Reason.BAD_TEMPLATE, f"no template media with the key {', '.join(missing)}")
        chosen = {key: request.templates[key] for key in settings.image_keys()}
        payload = Payload(settings, await _prepare_photo(request.photo, settings), chosen)
        await self._build_parts(payload)
        return payload

    async def submit_job(self, payload: Payload) -> Picture:
        response = await self._generate(payload)
        if response.status != 200 and await self._repair(payload, Fault.parse(response)):
            response = await self._generate(payload)
        secrets = self.account.key, payload.settings.prompt, payload.settings.negative_prompt or ""
        if response.status != 200:
            raise make_error(Fault.parse(response), *secrets)
        return await asyncio.to_thread(response.read, read_picture, payload.settings.model, payload.refusals, *secrets)

    async def check_account(self) -> None:
        await send_control(self._http, self.account.key, "GET", "/v1beta/models", params={"pageSize": 1})

    def release(self, payload: Payload) -> None:
        for file in payload.uploads:
            task = asyncio.create_task(self._delete(file), name="delete an uploaded photo")
            self._deletions.add(task)
            task.add_done_callback(self._deletions.discard)

    async def aclose(self) -> None:
        await asyncio.gather(*self._deletions)
        await self._files.aclose()
        await self._http.aclose()

    async def _generate(self, payload: Payload) -> Response:
        body = await asyncio.to_thread(_build_body, payload)
        url = f"/v1beta/models/{payload.settings.model}:generateContent"
        headers = {"Content-Type": "application/json"}
        return await self._http.send("POST", url, is_paid=True, content=body, headers=headers)

    async def _repair(self, payload: Payload, fault: Fault) -> bool:
        """Changes the request so that it may succeed now; returns False if it cannot. Such a refusal costs nothing."""
        if fault.is_lost_file and (payload.digests or payload.uploads):
            # Expired early or deleted; the error does not say which file, so all of this request's are uploaded again.
            for digest in payload.digests:
                await self._files.forget(digest)
        elif fault.is_unreadable_image:
            side = _useful_side(payload.settings)
            payload.photo = await asyncio.to_thread(reencode, payload.photo, max_side=side, accepts=ACCEPTS)
        else:
            return False
        await self._build_parts(payload)
        return True

    async def _build_parts(self, payload: Payload) -> None:
        """Decides which images are sent inline and which are uploaded, and uploads those."""
        payload.digests.clear()
        others = await asyncio.gather(*(self._template_part(payload, key) for key in payload.templates))
        photo = await asyncio.to_thread(_inline_part, payload.photo)
        if sum(len(part["inlineData"]["data"]) for part in (photo, *others) if "inlineData" in part) > INLINE_BYTES:
            payload.uploads.append(await self._files.upload(payload.photo, Reason.BAD_PHOTO))
            photo = payload.uploads[-1].part()
        payload.parts = [photo, *others]

    async def _template_part(self, payload: Payload, key: str) -> Part:
        picture = payload.templates[key]
        if len(picture.data) < SHARED_BYTES:
            return _inline_part(await _prepare_template(picture))
        digest = await asyncio.to_thread(self._files.digest, picture.data)
        file = await self._files.get(digest)
        if file is None:
            prepared = await _prepare_template(picture)
            file = await self._upload_shared(digest, prepared)
        if file is None:
            return await asyncio.to_thread(_inline_part, prepared)
        payload.digests.append(digest)
        return file.part()

    async def _upload_shared(self, digest: str, prepared: Picture) -> RemoteFile | None:
        """None if uploads do not work at the moment: then the image is sent inline."""
        if time.monotonic() < self._inline_until:
            return None
        try:
            return await self._files.get_or_upload(digest, prepared)
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


async def _prepare_photo(photo: Picture, settings: ImageEdit) -> Picture:
    return await _prepare(prepare, photo, _useful_side(settings), Reason.BAD_PHOTO)


async def _prepare_template(picture: Picture) -> Picture:
    return await _prepare(template_cache.prepare, picture, TEMPLATE_SIDE, Reason.BAD_TEMPLATE)


async def _prepare(prepare: Callable[..., Picture], picture: Picture, side: int, bad: Reason) -> Picture:
    try:
        return await asyncio.to_thread(prepare, picture, max_side=side, accepts=ACCEPTS)
    except images.ImageError as error:
        raise PermanentError(bad, str(error)) from error


def _inline_part(picture: Picture) -> Part:
    return {"inlineData": {"mimeType": picture.mime_type, "data": base64.b64encode(picture.data).decode()}}


def _build_body(payload: Payload) -> bytes:
    settings = payload.settings
    text = f"{settings.prompt}\n\nAvoid: {settings.negative_prompt}" if settings.negative_prompt else settings.prompt
    generation: dict[str, Any] = {"responseModalities": ["IMAGE"]}  # with TEXT allowed, some responses have no image
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
    """The slot's level; once thoughts have used up all tokens (MAX_TOKENS), the model's lowest."""
    if payload.refusals["MAX_TOKENS"]:
        levels: list[str] = catalogue.load_models(PROVIDER)[payload.settings.model].get("thinking_levels", [])
        return levels[0] if levels else None
    return payload.settings.thinking_level
