"""The adapter interface: what a provider receives, what it returns, and how it fails.

A provider turns a `Request` into a `Picture`. A synchronous provider returns the picture from `submit_job`; one with a
queue of its own returns `Accepted(reference)`, and the picture from a later `poll_status`. Adapters implement no
retries, time-outs or deadline: `attempts` does that for all providers.

Errors, all of them `ProviderError` with one of the ten reasons of the contract (§4):

    ProviderError
    ├── TransientError    nothing was made and nothing is billed: may be repeated
    ├── AmbiguousError    the request was sent, the response was lost: repeating it may pay twice
    └── PermanentError    repeating it ends the same way
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar
from uuid import UUID

from django.db.models import TextChoices
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop
from pydantic import BaseModel, ConfigDict, Field, field_validator

from providers import placeholders
from providers.faults import validation_error

Text = str | Promise
PHOTO_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/heic", "image/heif"})
TEMPLATE_KEY = "template-key"  # in JSON Schema, the `format` of a `setting_key` of the slot
TemplateKey = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64, json_schema_extra={"format": TEMPLATE_KEY})
]


class Reason(TextChoices):
    """Why a picture could not be made: the ten codes used everywhere (contract §4)."""

    NO_IMAGE = "no_image", _("the model answered without a picture")
    REFUSED = "refused", _("the provider's safety rules refused the photo or the prompt")
    BAD_PHOTO = "bad_photo", _("the photo could not be used")
    BAD_TEMPLATE = "bad_template", _("a template image is missing or could not be used")
    BAD_SETTINGS = "bad_settings", _("the slot's settings are not accepted")
    AUTH = "auth", _("the provider did not accept the key")
    QUOTA = "quota", _("the provider's quota or balance is used up")
    OVERLOADED = "overloaded", _("the provider is overloaded or unavailable")
    SLOW = "slow", _("the provider did not answer in time")
    INTERNAL = "internal", _("a fault of this service")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one call used, in the provider's own units, and what that costs by our dated price table.

    `cost` is None if the price is not known: it is displayed as unknown, never as 0.
    """

    units: Mapping[str, int]  # such as {"input_tokens": 260, "output_tokens": 1120}
    model: str
    cost: Decimal | None = None  # US dollars


class ProviderError(Exception):
    """A picture could not be made. `message` is for staff: it never contains a key, a prompt or image bytes."""

    def __init__(
        self, reason: Reason, message: str, *, retry_after: float | None = None, usage: Usage | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after  # seconds, as the provider requested
        self.usage = usage  # what the provider bills despite the error: a refusal costs its prompt


class TransientError(ProviderError):
    """Nothing was made and nothing is billed; may be repeated while time is left."""


class AmbiguousError(ProviderError):
    """The request was sent, its response was lost or unusable: a paid call that may have been billed."""


class PermanentError(ProviderError):
    """Repeating the call would end the same way."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image. `mime_type` is read from the bytes, not from a header."""

    data: bytes = field(repr=False)
    mime_type: str
    usage: Usage | None = None  # of the call that made it


@dataclass(frozen=True, slots=True)
class Account:
    """How to reach a provider: the key, its address, and a proxy if it can only be reached by one."""

    key: str = field(repr=False)
    base_url: str
    proxy_url: str | None = field(default=None, repr=False)  # may hold a password


@dataclass(frozen=True, slots=True)
class Accepted:
    """A provider's queue accepted the job; `reference` is all that polling needs, also from another worker process."""

    reference: str


class Output(BaseModel):
    """The exact picture the booth wants. With both sides set, the picture is cropped to them (`cover`) or fitted on
    white (`contain`); with one, it is scaled to it; with none, it keeps its own size."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["jpeg", "png", "webp"] = Field(
        default="jpeg", title=gettext_noop("Format"), description=gettext_noop("The type of the picture's file.")
    )
    quality: int = Field(  # 92 shows no blocks in a 10×15 cm print
        default=92,
        ge=1,
        le=100,
        title=gettext_noop("Quality"),
        description=gettext_noop("Of JPEG and WebP: the higher, the larger the file."),
    )
    width: int | None = Field(
        default=None,
        ge=16,
        le=8192,
        title=gettext_noop("Width"),
        description=gettext_noop("In pixels. Empty: as the height and the picture give it."),
    )
    height: int | None = Field(
        default=None,
        ge=16,
        le=8192,
        title=gettext_noop("Height"),
        description=gettext_noop("In pixels. Empty: as the width and the picture give it."),
    )
    fit: Literal["cover", "contain"] = Field(
        default="cover",
        title=gettext_noop("Fit"),
        description=gettext_noop("Where both sides are given: cover crops the picture, contain adds white borders."),
    )


class Retry(BaseModel):
    """Overrides PROVIDER_ATTEMPTS and PROVIDER_RETRY_PAUSE_SECONDS for one slot."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    attempts: int | None = Field(
        default=None,
        ge=1,
        le=5,
        title=gettext_noop("Attempts"),
        description=gettext_noop("In all, while there is time. Empty: as the whole service does."),
    )
    pause_seconds: float | None = Field(
        default=None,
        ge=0,
        le=30,
        title=gettext_noop("Pause"),
        description=gettext_noop("Seconds between two attempts. Empty: as the whole service does."),
    )
    repeat_ambiguous: bool = Field(  # rule 12
        default=False,
        title=gettext_noop("Repeat lost calls"),
        description=gettext_noop("Also a paid call whose answer was lost is tried again: it may be billed twice."),
    )


class Fallback(BaseModel):
    """Tried when the slot's own provider fails permanently and time is left. Its settings are those of its operation,
    without `SLOT_SETTINGS`; `output` and `frame` default to the slot's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    provider_id: str = Field(
        max_length=32, title=gettext_noop("Provider"), description=gettext_noop("Who makes the picture then.")
    )
    operation_id: str = Field(
        max_length=32, title=gettext_noop("Operation"), description=gettext_noop("One that this provider has.")
    )
    settings_json: dict[str, Any] = Field(
        default_factory=dict,
        title=gettext_noop("Settings"),
        description=gettext_noop('Those of that operation as a JSON object, such as {"look": "sepia"}.'),
    )


class OperationSettings(BaseModel):
    """What every operation's `settings_json` may hold; an operation declares its own in a subclass."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    template_fields: ClassVar[tuple[str, ...]] = ("frame",)  # the fields whose value is a template media key
    prompt_fields: ClassVar[tuple[str, ...]] = ("prompt", "negative_prompt")  # where placeholders are replaced

    output: Output | None = Field(
        default=None,
        title=gettext_noop("Output"),
        description=gettext_noop("The exact picture that the booth wants. Empty: as the provider made it."),
    )
    frame: TemplateKey | None = Field(
        default=None,
        title=gettext_noop("Frame"),
        description=gettext_noop("A template image with open parts, laid over the finished picture."),
    )
    retry: Retry | None = Field(
        default=None,
        title=gettext_noop("Trying again"),
        description=gettext_noop("When the provider fails in a way that may pass."),
    )
    # These belong to the slot, whichever provider makes the picture (contract §8).
    fallback: Fallback | None = Field(
        default=None,
        title=gettext_noop("Fallback"),
        description=gettext_noop("Another recipe, tried when this provider fails for good and there is time."),
    )
    on_failure: Literal["original"] | None = Field(
        default=None,
        title=gettext_noop("When no picture can be made"),
        description=gettext_noop("original: the booth gets its own photo back instead of an error. Empty: the error."),
    )
    finish_late: bool = Field(
        default=False,
        title=gettext_noop("Finish late"),
        description=gettext_noop(
            "After the deadline the provider may finish, which costs as usual; guests find the picture under the link."
        ),
    )
    max_concurrent: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        title=gettext_noop("Jobs at once"),
        description=gettext_noop("More photos of this slot wait their turn. Empty: no limit of the slot's own."),
    )
    daily_budget: float | None = Field(
        default=None,
        gt=0,
        le=100_000,
        allow_inf_nan=False,
        title=gettext_noop("Budget a day, USD"),
        description=gettext_noop("When it is used up, new photos are refused until midnight (UTC). Empty: no limit."),
    )
    reply: Literal["picture", "multipart"] = Field(
        default="picture",
        title=gettext_noop("Answer"),
        description=gettext_noop("multipart: JSON and picture as two parts of one answer, for booths that ask for it."),
    )

    @field_validator("prompt", "negative_prompt", check_fields=False)
    @classmethod
    def _validate_placeholders(cls, text: str | None) -> str | None:
        if names := placeholders.find_unknown(text or ""):
            listed = ", ".join(f"{{{name}}}" for name in names)
            raise validation_error(gettext_noop("Booths send nothing for the placeholder %(names)s."), names=listed)
        return text

    def fill_placeholders(self, fields: Mapping[str, str]) -> Self:
        """A copy whose prompts have the booth's fields in place of the placeholders."""
        prompts = {name: getattr(self, name, None) for name in self.prompt_fields}
        return self.model_copy(update={n: placeholders.fill(text, fields) for n, text in prompts.items() if text})

    def template_keys(self) -> list[str]:
        """The keys of all template media that these settings refer to."""
        return [key for name in self.template_fields if (key := getattr(self, name)) is not None]


# The settings of the slot, not of one provider: a fallback has none of its own.
SLOT_SETTINGS = ("fallback", "on_failure", "finish_late", "max_concurrent", "daily_budget", "reply")


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a provider does. Form, JSON Schema and validation all derive from the one declaration `settings`."""

    id: str
    name: Text
    settings: type[OperationSettings]


@dataclass(frozen=True, slots=True)
class Request:
    """One photo to be made into a picture."""

    job_id: UUID
    operation: str
    settings: OperationSettings
    photo: Picture
    templates: Mapping[str, Picture]  # by `setting_key`
    # Public, temporary links for providers with `requires_public_media`: to the photo, and to templates by key.
    photo_url: str | None = None
    template_urls: Mapping[str, str] = field(default_factory=dict)


P = TypeVar("P")


class Provider(ABC, Generic[P]):
    """A provider's adapter; `P` is what its `prepare_payload` returns for its `submit_job`.

    One instance serves all jobs of a worker process concurrently, so it keeps no state of a job.
    """

    id: ClassVar[str]
    name: ClassVar[Text]
    operations: ClassVar[tuple[Operation, ...]]
    default_base_url: ClassVar[str] = ""
    needs_key: ClassVar[bool] = True
    requires_public_media: ClassVar[bool] = False  # it fetches the photo by URL
    has_queue: ClassVar[bool] = False  # `submit_job` is a short control call that returns `Accepted`
    repeatable: ClassVar[bool] = False  # repeating a call after an `AmbiguousError` costs nothing
    poll_seconds: ClassVar[float] = 2.5
    photo_types: ClassVar[frozenset[str]] = PHOTO_TYPES  # what a slot of this provider accepts from booths

    # The pictures behind public links, for `requires_public_media`: their types, and the useful pixels a side.
    media_accepts: ClassVar[frozenset[str]] = frozenset({"image/jpeg", "image/png"})
    media_max_side: ClassVar[int] = 2400

    def __init__(self, account: Account) -> None:
        self.account = account

    @classmethod
    def public_base_url_problem(cls, public_base_url: str, base_url: str) -> Promise | None:
        """For `requires_public_media`: a sentence that says why no slot can work with that PUBLIC_BASE_URL; None if one
        can. `base_url` is the provider's own address."""
        return None

    @abstractmethod
    async def prepare_payload(self, request: Request) -> P:
        """Does what need not be repeated for each attempt: scaling, encoding, uploads. Raises `ProviderError`."""

    @abstractmethod
    async def submit_job(self, payload: P) -> Picture | Accepted:
        """Makes one attempt. Raises `ProviderError`; is cancelled when its time is up."""

    def release(self, payload: P) -> None:
        """Removes what `prepare_payload` left at the provider. Called once for each payload, however its job ended.
        Must not block: what takes time runs in a task that `aclose` waits for."""

    async def poll_status(self, reference: str) -> Picture | None:
        """The picture, or None while the provider still works on it. Raises `ProviderError`."""
        raise NotImplementedError(f"{self.id} has no queue")

    async def cancel(self, reference: str) -> None:
        """Cancels the job at the provider, if its API can do that."""

    async def check_account(self) -> None:
        """Makes the cheapest harmless call that shows whether the account works. Raises `ProviderError`."""

    async def aclose(self) -> None:
        """Closes the HTTP clients before the worker exits."""
