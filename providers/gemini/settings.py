"""What a slot may set for Gemini; what a model can do is asked of the catalogue."""

from __future__ import annotations

from typing import ClassVar, Literal

from django.utils.translation import gettext_noop as _
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from providers import catalogue
from providers.base import OperationSettings, TemplateKey
from providers.faults import fault

PROVIDER = "gemini"
DEFAULT_MODEL = "gemini-nano-banana-2.1"

# fmt: off
AspectRatio = Literal[
    "1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9", "1:4", "4:1", "1:8", "8:1"
]
ImageSize = Literal["512", "1K", "2K", "4K"]
ThinkingLevel = Literal["minimal", "low", "medium", "high"]
Category = Literal[
    "HARM_CATEGORY_HARASSMENT", "HARM_CATEGORY_HATE_SPEECH", "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
]
Threshold = Literal["BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"]
# fmt: on

MAX_IMAGES = 14  # the photo among them, where the catalogue does not say
# Which list of the model's facts a setting is looked up in; a model an operator added may come without.
_CHOICES = {"aspect_ratio": "ratios", "image_size": "sizes", "thinking_level": "thinking_levels"}


class SafetySetting(BaseModel):
    """From which likelihood on the text filters of one category block. Filters of the picture itself cannot be set."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    category: Category
    threshold: Threshold


class ImageEdit(OperationSettings):
    prompt: str = Field(
        min_length=1,
        max_length=16_000,
        title=_("Prompt"),
        description=_("What to make of the photo, which is sent first."),
    )
    model: str = Field(
        default=DEFAULT_MODEL,
        validate_default=True,  # it may have been retired since
        title=_("Model"),
        description=_("Models differ in quality, speed, price, and in what they can be set to."),
        json_schema_extra=catalogue.offer(PROVIDER),
    )
    template_media: list[TemplateKey] = Field(
        default=[], title=_("Template images"), description=_("Sent after the photo, in this order.")
    )
    aspect_ratio: AspectRatio | None = Field(
        default=None,
        title=_("Aspect ratio"),
        description=_("Empty: that of the photo, as near as the model has it."),
    )
    image_size: ImageSize | None = Field(
        default=None,
        title=_("Picture size"),
        description=_("1K is about 1024 x 1024 pixels; more takes longer and costs more. Empty: 1K."),
    )
    thinking_level: ThinkingLevel | None = Field(
        default=None,
        title=_("Thinking"),
        description=_("More takes longer and costs more. Empty: as the model does."),
    )
    safety_settings: list[SafetySetting] = Field(
        default=[],
        title=_("Safety settings"),
        description=_('A list such as [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}].'),
    )
    negative_prompt: str | None = Field(
        default=None, max_length=4_000, title=_("Avoid"), description=_("What should not be in the picture.")
    )

    @field_validator("model")
    @classmethod
    def _is_usable(cls, model: str) -> str:
        catalogue.usable(PROVIDER, model)
        return model

    @field_validator("aspect_ratio", "image_size", "thinking_level")
    @classmethod
    def _model_has_it(cls, value: str | None, info: ValidationInfo) -> str | None:
        model = info.data.get("model")  # absent when it was refused itself
        if value is None or model is None:
            return value
        choices = catalogue.usable(PROVIDER, model).get(_CHOICES[info.field_name or ""])
        if choices is not None and value not in choices:
            if not choices:
                raise fault(_("%(model)s takes no such setting."), model=model)
            raise fault(_("%(model)s takes one of: %(choices)s."), model=model, choices=", ".join(choices))
        return value

    @field_validator("template_media")
    @classmethod
    def _model_takes_so_many(cls, keys: list[str], info: ValidationInfo) -> list[str]:
        if model := info.data.get("model"):
            most = catalogue.usable(PROVIDER, model).get("max_images", MAX_IMAGES) - 1 - len(cls._named_images())
            if len(keys) > most:
                raise fault(_("%(model)s takes at most %(most)s of these beside the photo."), model=model, most=most)
        return keys

    @field_validator("safety_settings")
    @classmethod
    def _each_category_once(cls, given: list[SafetySetting]) -> list[SafetySetting]:
        if len({setting.category for setting in given}) < len(given):
            raise fault(_("A category may be given once."))
        return given

    @classmethod
    def _named_images(cls) -> list[str]:
        return [name for name in cls.template_fields if name != "frame"]

    def image_keys(self) -> list[str]:
        """The template images to send, in their order; none twice."""
        named = [getattr(self, name) for name in self._named_images()]
        return list(dict.fromkeys([*named, *self.template_media]))

    def template_keys(self) -> list[str]:
        return [*super().template_keys(), *self.template_media]


class StyleTransfer(ImageEdit):
    template_fields: ClassVar[tuple[str, ...]] = ("style", "frame")

    style: TemplateKey = Field(
        title=_("Style"), description=_("The image whose style the picture takes; sent after the photo.")
    )


class IdentityTransfer(ImageEdit):
    template_fields: ClassVar[tuple[str, ...]] = ("face", "frame")

    face: TemplateKey = Field(
        title=_("Face"), description=_("The image whose face the picture takes; sent after the photo.")
    )
