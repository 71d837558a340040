"""The built-in provider, without key and network: named looks (`looks`) and style transfer (`style`).

`darkroom` has the image operations of the looks. The same photo and settings always give the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop
from PIL import Image
from pydantic import Field

from core import images
from providers.base import Operation, OperationSettings, PermanentError, Picture, Provider, Reason, Request, TemplateKey
from providers.studio.looks import LOOKS, LookName
from providers.studio.style import transfer_style

USEFUL_PIXELS = 24_000_000  # 51×34 cm at 300 dpi: no booth prints larger, and a look needs 0.6 GB of memory for it
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
    photo: Image.Image
    effect: Callable[[Image.Image], Image.Image]
    strength: int


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
        return await asyncio.to_thread(_apply_effect, payload)


def _prepare(request: Request) -> Payload:
    settings = request.settings
    assert isinstance(settings, ImageEdit | StyleTransfer)
    effect = LOOKS[settings.look].apply if isinstance(settings, ImageEdit) else _load_style(request, settings.style)
    try:
        photo = images.decode(request.photo.data, useful_pixels=USEFUL_PIXELS)
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_PHOTO, str(error)) from error
    return Payload(photo, effect, settings.strength)


def _load_style(request: Request, key: str) -> Callable[[Image.Image], Image.Image]:
    try:
        return partial(transfer_style, style=images.decode(request.templates[key].data, useful_pixels=1_000_000))
    except KeyError as error:
        raise PermanentError(Reason.BAD_TEMPLATE, f"no template media with the key {key}") from error
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_TEMPLATE, f"{key}: {error}") from error


def _apply_effect(payload: Payload) -> Picture:
    photo = images.flatten(payload.photo)
    result = payload.effect(photo)
    if payload.strength < 100:
        result = Image.blend(photo, result, payload.strength / 100)
    if payload.photo.mode == "RGBA":  # a cut-out keeps its transparency
        result.putalpha(payload.photo.getchannel("A"))
    format: images.Format = "png" if result.mode == "RGBA" else "jpeg"
    return Picture(images.encode(result, format, QUALITY), images.MIME_TYPES[format])
