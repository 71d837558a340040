"""What a slot of OpenAI may be set to, checked against what the model can do (`catalogue/openai.json`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from django.utils.translation import gettext_noop as _
from pydantic import Field, ValidationInfo, field_validator

from providers import catalogue
from providers.base import OperationSettings, TemplateKey
from providers.faults import fault

# Made for speed, at the price of the others. `gpt-image-…-sunburst` keeps more detail and takes longer.
DEFAULT_MODEL = "gpt-image-2.5-flare"
QUALITY_IN_BETWEEN = 95  # of a picture that is encoded once more here: what is lost cannot be seen

Prompt = Annotated[
    str,
    Field(
        min_length=1,
        max_length=32_000,
        title=_("Prompt"),
        description=_("What to make of the photo, in plain words. Say also what must stay as it is."),
    ),
]


def _media(most: int) -> Any:
    return Field(
        default_factory=list,
        max_length=most,
        title=_("Template images"),
        description=_("Sent after the photo and the style, in this order."),
    )


class ImageEdit(OperationSettings):
    prompt: Prompt
    model: str = Field(
        default=DEFAULT_MODEL,
        validate_default=True,  # it may have been retired since
        title=_("Model"),
        description=_("Flare is quick, Sunburst keeps more detail."),
        json_schema_extra=catalogue.offer("openai"),
    )
    template_media: list[TemplateKey] = _media(15)  # OpenAI takes 16 images, the photo is one
    size: str = Field(
        default="auto",
        pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$",
        title=_("Picture size"),
        description=_("Width x height in pixels such as 1536x1024, or auto: the model chooses."),
    )
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max"] = Field(
        default="medium",
        validate_default=True,
        title=_("Quality"),
        description=_("The higher, the longer it takes and the more it costs."),
    )
    background: Literal["auto", "opaque", "transparent"] = Field(
        default="auto",
        title=_("Background"),
        description=_("Transparent: only what the photo shows in front is kept. Not as a JPEG."),
    )
    moderation: Literal["auto", "low"] = Field(
        default="auto",
        title=_("Moderation"),
        description=_("Low refuses less. What OpenAI forbids stays forbidden."),
    )

    @field_validator("model")
    @classmethod
    def _is_usable(cls, model: str) -> str:
        catalogue.usable("openai", model)
        return model

    @field_validator("size")
    @classmethod
    def _size_fits(cls, size: str, info: ValidationInfo) -> str:
        if size != "auto":
            _check_size(size, _facts(info).get("sizes"))
        return size

    @field_validator("quality")
    @classmethod
    def _quality_fits(cls, quality: str, info: ValidationInfo) -> str:
        known = _facts(info).get("qualities")
        if known and quality not in ("auto", *known):
            raise fault(_("This model takes only: auto, %(choices)s."), choices=", ".join(known))
        return quality

    @field_validator("background")
    @classmethod
    def _background_fits(cls, background: str, info: ValidationInfo) -> str:
        if background == "transparent":
            output = info.data.get("output")
            if not _facts(info).get("transparent", True):
                raise fault(_("This model makes no transparent background."))
            if output is not None and output.format == "jpeg":
                raise fault(_("JPEG knows no transparency: set the output's format to png or webp."))
        return background

    def template_keys(self) -> list[str]:
        return [*super().template_keys(), *self.template_media]

    def image_keys(self) -> list[str]:
        """The template images that are sent, in the order of the form; none twice."""
        return list(dict.fromkeys([*self.named_images(), *self.template_media]))

    def named_images(self) -> list[str]:
        return []

    def sides(self) -> tuple[int, ...]:
        """Width and height asked for, or neither."""
        return () if self.size == "auto" else _sides(self.size)

    def fields(self) -> dict[str, str]:
        """The request's form without its images."""
        form = {
            name: getattr(self, name) for name in ("prompt", "model", "size", "quality", "background", "moderation")
        }
        form["output_format"] = self._format()
        if form["output_format"] != "png":
            form["output_compression"] = str(self._compression())
        return form

    def _format(self) -> str:
        """JPEG where nothing else is wanted: OpenAI answers sooner than with a PNG."""
        if self.output is not None:
            return self.output.format
        return "png" if self.background == "transparent" else "jpeg"

    def _compression(self) -> int:
        """The slot's own quality only if the bytes reach the booth as they come."""
        output = self.output
        as_it_comes = output is not None and self.frame is None and output.width is None and output.height is None
        return output.quality if output is not None and as_it_comes else QUALITY_IN_BETWEEN


class StyleTransfer(ImageEdit):
    template_fields: ClassVar[tuple[str, ...]] = ("style", "frame")

    style: TemplateKey = Field(
        title=_("Style"), description=_("The image whose style the picture takes; sent after the photo.")
    )
    template_media: list[TemplateKey] = _media(14)

    def named_images(self) -> list[str]:
        return [self.style]


def _facts(info: ValidationInfo) -> dict[str, Any]:
    """Of the model chosen; empty where that was refused already."""
    return catalogue.models("openai").get(info.data.get("model", ""), {})


def _sides(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    return int(width), int(height)


def _check_size(size: str, rule: list[str] | Mapping[str, int] | None) -> None:
    """Raises `ValueError` with the rule that is broken. A model of unknown sizes is left to OpenAI's own judgement."""
    if isinstance(rule, list) and size not in rule:
        raise fault(_("This model takes only: auto, %(choices)s."), choices=", ".join(rule))
    if not isinstance(rule, Mapping):
        return
    width, height = _sides(size)
    if width % rule["step"] or height % rule["step"]:
        raise fault(_("Width and height must be multiples of %(step)s."), step=rule["step"])
    if max(width, height) > rule["max_side"]:
        raise fault(_("No side may be longer than %(most)s pixels."), most=rule["max_side"])
    if max(width, height) > rule["max_ratio"] * min(width, height):
        raise fault(_("One side may be at most %(most)s times the other."), most=rule["max_ratio"])
    if not rule["min_pixels"] <= width * height <= rule["max_pixels"]:
        text = _("Width x height must be from %(least)s to %(most)s pixels.")
        raise fault(text, least=rule["min_pixels"], most=rule["max_pixels"])
