"""The three operations: their settings, and the form fields they are sent as."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from django.utils.translation import gettext_lazy
from django.utils.translation import gettext_noop as _
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from providers import catalogue
from providers.base import Operation, OperationSettings, PermanentError, Reason, TemplateKey
from providers.faults import validation_error

FACTS = catalogue.load_models("turbotext")
LIMITS = FACTS["generate_image2image"]["limits"]
DEFAULTS = FACTS["generate_image2image"]["defaults"]
MAX_PROMPT_CHARACTERS = 2000  # Turbotext documents no limit; anything longer was pasted by mistake


def _check_word_count(text: str) -> str:
    if len(text.split()) > LIMITS["negative_prompt_words"]:
        raise validation_error(_("Must be at most %(most)s words."), most=LIMITS["negative_prompt_words"])
    return text


Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
NegativePrompt = Annotated[Prompt, AfterValidator(_check_word_count)]


class Settings(OperationSettings):
    """`method` is Turbotext's name of the operation: the last part of its URL, and its key in the catalogue."""

    method: ClassVar[str]

    @model_validator(mode="after")
    def _validate_method(self) -> Self:
        catalogue.get_usable("turbotext", self.method)
        return self

    @abstractmethod
    def fields(self, photo_url: str, template_urls: Mapping[str, str]) -> dict[str, str]:
        """The method's form fields. Raises `PermanentError` (`bad_template`) if a template has no public link."""


class ImageEdit(Settings):
    method = "generate_image2image"

    prompt: Prompt = Field(title=_("Prompt"), description=_("What to make of the photo."))
    strength: int = Field(
        default=DEFAULTS["strength"],
        ge=LIMITS["strength"][0],
        le=LIMITS["strength"][1],
        title=_("Strength"),
        description=_("How much of the photo may change, in percent."),
    )
    seed: int | None = Field(
        default=None,
        ge=LIMITS["seed"][0],
        le=LIMITS["seed"][1],
        title=_("Seed"),
        description=_("The same number gives the same variation. Empty: another one each time."),
    )
    scale: float = Field(
        default=DEFAULTS["scale"],
        ge=LIMITS["scale"][0],
        le=LIMITS["scale"][1],
        allow_inf_nan=False,
        title=_("Scale"),
        description=_("How closely the prompt is followed."),
    )
    negative_prompt: NegativePrompt | None = Field(
        default=None, title=_("Avoid"), description=_("What should not be in the picture, in at most 80 words.")
    )
    original_language: str = Field(
        default=DEFAULTS["original_language"],
        pattern=r"^[a-z]{2}$",
        title=_("Language of the prompt"),
        description=_("Two letters, such as ru or en."),
    )

    def fields(self, photo_url: str, template_urls: Mapping[str, str]) -> dict[str, str]:
        fields = {
            "url": photo_url,
            "content": self.prompt,
            "strength": str(self.strength),
            "scale": str(self.scale),
            "original_language": self.original_language,
        }
        if self.seed is not None:
            fields["seed"] = str(self.seed)
        if self.negative_prompt is not None:
            fields["negative_prompt"] = self.negative_prompt
        return fields


class StyleTransfer(Settings):
    method = "mix_images"
    template_fields: ClassVar[tuple[str, ...]] = ("style", "frame")

    style: TemplateKey = Field(title=_("Style"), description=_("The image whose style the picture takes."))
    prompt: Prompt | None = Field(
        default=None, title=_("Prompt"), description=_("Words that help the effect. May stay empty.")
    )

    def fields(self, photo_url: str, template_urls: Mapping[str, str]) -> dict[str, str]:
        fields = {"url_image_target": photo_url, "url": _get_link(template_urls, self.style)}
        return fields | ({"content": self.prompt} if self.prompt else {})


class IdentityTransfer(Settings):
    method = "deepfake_photo"
    template_fields: ClassVar[tuple[str, ...]] = ("face", "frame")

    face: TemplateKey = Field(title=_("Face"), description=_("The image whose face the person in the photo takes."))
    face_restore: bool = Field(
        default=False, title=_("Work over the face"), description=_("The face is made clearer afterwards.")
    )

    def fields(self, photo_url: str, template_urls: Mapping[str, str]) -> dict[str, str]:
        return {
            "url": photo_url,
            "url_image_target": _get_link(template_urls, self.face),
            "face_restore": str(self.face_restore),  # "True" or "False", as Turbotext spells them
        }


OPERATIONS = (
    Operation("image_edit", gettext_lazy("Edit by a prompt"), ImageEdit),
    Operation("style_transfer", gettext_lazy("Style of a picture"), StyleTransfer),
    Operation("identity_transfer", gettext_lazy("Face of a picture"), IdentityTransfer),
)


def _get_link(template_urls: Mapping[str, str], key: str) -> str:
    if key not in template_urls:
        raise PermanentError(Reason.BAD_TEMPLATE, f"no public link to template media with the key {key}")
    return template_urls[key]
