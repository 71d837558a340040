"""What a slot may set for OpenAI, checked against what the model can do (`catalogue/openai.json`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from django.utils.translation import gettext_noop as _
from pydantic import Field, ValidationInfo, field_validator

from providers import catalogue
from providers.base import OperationSettings, TemplateKey
from providers.faults import validation_error

# The fast model, at the price of the others. `gpt-image-…-sunburst` keeps more detail and takes longer.
DEFAULT_MODEL = "gpt-image-2.5-flare"
INTERMEDIATE_QUALITY = 95  # of a picture that is encoded again here: the loss is not visible

Prompt = Annotated[
    str,
    Field(
        min_length=1,
        max_length=32_000,
        title=_("Prompt"),
        description=_("What to make of the photo, in plain words. Say also what must stay as it is."),
    ),
]


def _template_media_field(most: int) -> Any:
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
        validate_default=True,  # it may have been retired after the release
        title=_("Model"),
        description=_("Flare is quick, Sunburst keeps more detail."),
        json_schema_extra=catalogue.offer("openai"),
    )
    template_media: list[TemplateKey] = _template_media_field(15)  # OpenAI takes 16 images, the photo is one
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
        default="auto", title=_("Moderation"), description=_("Low refuses less. What OpenAI forbids stays forbidden.")
    )

    @field_validator("model")
    @classmethod
    def _validate_model(cls, model: str) -> str:
        catalogue.get_usable("openai", model)
        return model

    @field_validator("size")
    @classmethod
    def _validate_size(cls, size: str, info: ValidationInfo) -> str:
        if size != "auto":
            _check_size(size, _get_model_facts(info).get("sizes"))
        return size

    @field_validator("quality")
    @classmethod
    def _validate_quality(cls, quality: str, info: ValidationInfo) -> str:
        known = _get_model_facts(info).get("qualities")
        if known and quality not in ("auto", *known):
            raise validation_error(_("This model takes only: auto, %(choices)s."), choices=", ".join(known))
        return quality

    @field_validator("background")
    @classmethod
    def _validate_background(cls, background: str, info: ValidationInfo) -> str:
        if background == "transparent":
            output = info.data.get("output")
            if not _get_model_facts(info).get("transparent", True):
                raise validation_error(_("This model makes no transparent background."))
            if output is not None and output.format == "jpeg":
                raise validation_error(_("JPEG knows no transparency: set the output's format to png or webp."))
        return background

    def template_keys(self) -> list[str]:
        return [*super().template_keys(), *self.template_media]

    def image_keys(self) -> list[str]:
        """The keys of the template images to send, in the order of the form, without duplicates."""
        return list(dict.fromkeys([*self.named_images(), *self.template_media]))

    def named_images(self) -> list[str]:
        return []

    def sides(self) -> tuple[int, ...]:
        """The requested width and height; empty for `auto`."""
        return () if self.size == "auto" else _parse_size(self.size)

    def fields(self) -> dict[str, str]:
        """The request's form without its images."""
        form = {
            name: getattr(self, name) for name in ("prompt", "model", "size", "quality", "background", "moderation")
        }
        form["output_format"] = self._output_format()
        if form["output_format"] != "png":
            form["output_compression"] = str(self._output_compression())
        return form

    def _output_format(self) -> str:
        """JPEG unless another format is needed: OpenAI responds sooner than with a PNG."""
        if self.output is not None:
            return self.output.format
        return "png" if self.background == "transparent" else "jpeg"

    def _output_compression(self) -> int:
        """The slot's own quality, but only if the bytes reach the booth unchanged."""
        output = self.output
        is_unprocessed = output is not None and self.frame is None and output.width is None and output.height is None
        return output.quality if output is not None and is_unprocessed else INTERMEDIATE_QUALITY


class StyleTransfer(ImageEdit):
    template_fields: ClassVar[tuple[str, ...]] = ("style", "frame")

    style: TemplateKey = Field(
        title=_("Style"), description=_("The image whose style the picture takes; sent after the photo.")
    )
    template_media: list[TemplateKey] = _template_media_field(14)

    def named_images(self) -> list[str]:
        return [self.style]


def _get_model_facts(info: ValidationInfo) -> dict[str, Any]:
    """The facts of the chosen model; empty if that is invalid itself."""
    return catalogue.load_models("openai").get(info.data.get("model", ""), {})


def _parse_size(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    return int(width), int(height)


def _check_size(size: str, rule: list[str] | Mapping[str, int] | None) -> None:
    """Raises a `ValueError` that names the broken rule. If the model's sizes are unknown, OpenAI checks them."""
    if isinstance(rule, list) and size not in rule:
        raise validation_error(_("This model takes only: auto, %(choices)s."), choices=", ".join(rule))
    if not isinstance(rule, Mapping):
        return
    width, height = _parse_size(size)
    if width % rule["step"] or height % rule["step"]:
        raise validation_error(_("Width and height must be multiples of %(step)s."), step=rule["step"])
    if max(width, height) > rule["max_side"]:
        raise validation_error(_("No side may be longer than %(most)s pixels."), most=rule["max_side"])
    if max(width, height) > rule["max_ratio"] * min(width, height):
        raise validation_error(_("One side may be at most %(most)s times the other."), most=rule["max_ratio"])
    if not rule["min_pixels"] <= width * height <= rule["max_pixels"]:
        text = _("Width x height must be from %(least)s to %(most)s pixels.")
        raise validation_error(text, least=rule["min_pixels"], most=rule["max_pixels"])
