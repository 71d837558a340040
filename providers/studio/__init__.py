"""The built-in provider, without key and network: named looks (`looks`) and style transfer (`style`).

`darkroom` has the image operations of the looks. The same photo and settings always give the same bytes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop
from PIL import Image
from pydantic import Field

from core import image_work, images
from providers.base import Operation, OperationSettings, PermanentError, Picture, Provider, Reason, Request, TemplateKey
from providers.studio.looks import LOOKS, LookName
from providers.studio.style import transfer_style

STYLE_PIXELS = 1_000_000  # far more than its palette is taken from
QUALITY = 93  # JPEG; a frame or an `output` encodes again, and at 93 the loss is not visible

Strength = Annotated[
    int,
    Field(
        ge=0,
        le=100,
        title=gettext_noop("Strength"),
        description=gettext_noop("In percent: 0 is the photo itself, 100 the whole effect."),
    ),
]


def _add_labels(schema: dict[str, Any]) -> None:
    schema["enumNames"] = [str(LOOKS[name].label) for name in schema["enum"]]


class ImageEdit(OperationSettings):
    look: LookName = Field(
        title=gettext_noop("Look"),
        description=gettext_noop("What the photo is made to look like."),
        json_schema_extra=_add_labels,
    )
    strength: Strength = 100


class StyleTransfer(OperationSettings):
    template_fields: ClassVar[tuple[str, ...]] = ("style", "frame")

    style: TemplateKey = Field(
        title=gettext_noop("Style"), description=gettext_noop("The image whose colours and light the picture takes.")
    )
    strength: Strength = 100


@dataclass(frozen=True, slots=True)
class Payload:
    """The photo is encoded still: decoded it takes up to 100 MB, and the job may have to wait for its turn."""

    photo: bytes = field(repr=False)
    pixels: int  # what the photo has when decoded
    settings: ImageEdit | StyleTransfer
    style: Image.Image | None


class Studio(Provider[Payload]):
    id = "studio"
    name = _("Studio (built in)")
    operations = (
        Operation("image_edit", _("Look"), ImageEdit),
        Operation("style_transfer", _("Palette of a picture"), StyleTransfer),
    )
    repeatable = True
    needs_key = False

    async def prepare_payload(self, request: Request) -> Payload:
        return await asyncio.to_thread(_prepare, request)

    async def submit_job(self, payload: Payload) -> Picture:
        # A thread cannot be stopped: after a cancellation it still runs to its end, within two seconds.
        return await asyncio.to_thread(_make_picture, payload)


def _prepare(request: Request) -> Payload:
    settings = request.settings
    assert isinstance(settings, ImageEdit | StyleTransfer)
    style = _load_style(request, settings.style) if isinstance(settings, StyleTransfer) else None
    try:
        header = images.probe(request.photo.data)
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_PHOTO, str(error)) from error
    pixels = images.count_decoded_pixels(header, images.USEFUL_PIXELS)
    return Payload(request.photo.data, pixels, settings, style)


def _load_style(request: Request, key: str) -> Image.Image:
    try:
        data = request.templates[key].data
        pixels = images.count_decoded_pixels(images.probe(data), STYLE_PIXELS)
        return image_work.run(partial(images.decode, useful_pixels=STYLE_PIXELS), data, pixels=pixels)
    except KeyError as error:
        raise PermanentError(Reason.BAD_TEMPLATE, f"no template media with the key {key}") from error
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_TEMPLATE, f"{key}: {error}") from error


def _make_picture(payload: Payload) -> Picture:
    settings, needed = payload.settings, image_work.BYTES_PER_PIXEL
    if isinstance(settings, ImageEdit):
        needed = LOOKS[settings.look].bytes_per_pixel
    try:
        return image_work.run(_apply_effect, payload, pixels=payload.pixels, bytes_per_pixel=needed)
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_PHOTO, str(error)) from error


def _apply_effect(payload: Payload) -> Picture:
    settings = payload.settings
    image = images.decode(payload.photo, useful_pixels=images.USEFUL_PIXELS)
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    photo = images.flatten(image)
    if payload.style is not None:
        result = transfer_style(photo, payload.style)
    else:
        assert isinstance(settings, ImageEdit)
        result = LOOKS[settings.look].apply(photo)
    if settings.strength < 100:
        result = Image.blend(photo, result, settings.strength / 100)
    if alpha is not None:  # a cut-out keeps its transparency
        result.putalpha(alpha)
    format: images.Format = "png" if result.mode == "RGBA" else "jpeg"
    return Picture(images.encode(result, format, QUALITY), images.MIME_TYPES[format])
