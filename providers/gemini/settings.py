"""What a slot may set for Gemini; the catalogue defines what each model can do."""

from __future__ import annotations

from typing import ClassVar, Literal

from django.utils.translation import gettext_noop as _
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from providers import catalogue
from providers.base import OperationSettings, TemplateKey
from providers.faults import validation_error

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

MAX_IMAGES = 14  # including the photo, for models without a limit in the catalogue
# The list among the model's facts that a setting is checked against; a model that an operator added may have none.
_CHOICES = {"aspect_ratio": "ratios", "image_size": "sizes", "thinking_level": "thinking_levels"}


class SafetySetting(BaseModel):
    """The likelihood from which the text filters of one category block. Filters of the picture cannot be configured."""

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
        validate_default=True,  # it may have been retired after the release
        title=_("Model"),
        description=_("Models differ in quality, speed, price, and in what they can be set to."),
        json_schema_extra=catalogue.offer(PROVIDER),
    )
    template_media: list[TemplateKey] = Field(
        default=[], title=_("Template images"), description=_("Sent after the photo, in this order.")
    )
    aspect_ratio: AspectRatio | None = Field(
        default=None, title=_("Aspect ratio"), description=_("Empty: that of the photo, as near as the model has it.")
    )
    image_size: ImageSize | None = Field(
        default=None,
        title=_("Picture size"),
        description=_("1K is about 1024 x 1024 pixels; more takes longer and costs more. Empty: 1K."),
    )
    thinking_level: ThinkingLevel | None = Field(
        default=None, title=_("Thinking"), description=_("More takes longer and costs more. Empty: as the model does.")
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
    def _validate_model(cls, model: str) -> str:
        catalogue.get_usable(PROVIDER, model)
        return model

    @field_validator("aspect_ratio", "image_size", "thinking_level")
    @classmethod
    def _validate_choice(cls, value: str | None, info: ValidationInfo) -> str | None:
        model = info.data.get("model")  # absent if it is invalid itself
        if value is None or model is None:
            return value
        choices = catalogue.get_usable(PROVIDER, model).get(_CHOICES[info.field_name or ""])
        if choices is not None and value not in choices:
            if not choices:
                raise validation_error(_("%(model)s takes no such setting."), model=model)
            raise validation_error(_("%(model)s takes one of: %(choices)s."), model=model, choices=", ".join(choices))
        return value

    @field_validator("template_media")
    @classmethod
    def _validate_image_count(cls, keys: list[str], info: ValidationInfo) -> list[str]:
        if model := info.data.get("model"):
            most = catalogue.get_usable(PROVIDER, model).get("max_images", MAX_IMAGES) - 1 - len(cls._named_images())
            if len(keys) > most:
                text = _("%(model)s takes at most %(most)s of these beside the photo.")
                raise validation_error(text, model=model, most=most)
        return keys

    @field_validator("safety_settings")
    @classmethod
    def _validate_categories(cls, chosen: list[SafetySetting]) -> list[SafetySetting]:
        if len({setting.category for setting in chosen}) < len(chosen):
            raise validation_error(_("A category may be given once."))
        return chosen

    @classmethod
    def _named_images(cls) -> list[str]:
        return [name for name in cls.template_fields if name != "frame"]

    def image_keys(self) -> list[str]:
        """The keys of the template images to send, in their order, without duplicates."""
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
