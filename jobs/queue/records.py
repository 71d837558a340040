"""What the queue's verbs take and give: plain records, without a connection and without a model's weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from jobs.models import Job
from providers.base import Reason
from stats.journal import Step


@dataclass(frozen=True, slots=True)
class NewJob:
    """A checked photo, already stored under `payload_path`, and the recipe of its slot."""

    id: UUID
    slot_id: str
    provider_id: str
    operation_id: str
    settings_json: Mapping[str, Any]
    template_media: Mapping[str, str]
    payload_path: str
    payload_mime_type: str
    payload_digest: bytes
    booth_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: str = Job.Source.BOOTH.value
    asked_by: str | None = None  # the user's name, of a test run


@dataclass(frozen=True, slots=True)
class Ticket:
    """The place in the queue. `joined`: an earlier post of the same photo is still under way and this is its job."""

    job_id: UUID
    expires_at: datetime
    seconds_left: float
    joined: bool


@dataclass(frozen=True, slots=True)
class EncryptedAccount:
    """A provider's account as it is stored; the defaults are those of a provider that has none and needs none."""

    is_enabled: bool = True
    encrypted_key: str = field(default="", repr=False)
    base_url: str = ""
    encrypted_proxy_url: str = field(default="", repr=False)
    is_limited: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in a worker's hands until its lease runs out; `token` is what proves it."""

    id: UUID
    token: UUID
    slot_id: str
    source: str
    provider_id: str
    operation_id: str
    settings_json: dict[str, Any]
    template_media: dict[str, str]
    metadata: dict[str, str] = field(repr=False)
    payload_path: str
    payload_mime_type: str
    provider_job_reference: str | None
    used_fallback: bool
    claims: int
    created_at: datetime
    expires_at: datetime
    seconds_left: float
    account: EncryptedAccount = EncryptedAccount()  # of the slot's first provider
    # What earlier workers did with the provider whose turn it is: how many calls, the one that is still under way, and
    # whether one may have been billed.
    earlier_calls: int = 0
    open_call: int | None = None
    may_have_been_billed: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """A stored picture. `inline_base64` only where it is small."""

    path: str
    mime_type: str
    size_bytes: int
    checksum: str
    inline_base64: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no picture; `message` is for staff."""

    reason: Reason
    message: str


@dataclass(slots=True)
class JobReport:
    """What the provider was asked and how long it took; filled while the job runs."""

    attempts: int = 0
    attempt_errors: int = 0
    provider_seconds: float = 0
    polls: int = 0
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that a verb has just ended: what its caller needs for tidying up and for the figures."""

    id: UUID
    slot_id: str
    source: str
    provider_id: str
    created_at: datetime
    claimed_at: datetime | None
    finalized_at: datetime
    expires_at: datetime
    payload_mime_type: str
    provider_job_reference: str | None
    used_fallback: bool
    returns_original: bool  # by the booth's answer: the slot has `on_failure`


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a job stands, for whoever waits for it."""

    id: UUID
    slot_id: str
    source: str
    provider_id: str
    payload_mime_type: str
    is_finalized: bool
    failure_reason: str | None
    error_reason: str | None
    result_file_path: str | None
    result_inline_base64: str | None
    result_mime_type: str | None
    result_size_bytes: int | None
    result_expires_at: datetime | None
    expires_at: datetime
    claim_token: UUID | None
    provider_job_reference: str | None
    used_fallback: bool
    reply: str | None  # the setting of this name
    returns_original: bool

    def was_ended_by(self, claim: Claim) -> bool:
        """Whether the holder of this claim ended the job; nobody else can end it in these two ways."""
        own_end = self.failure_reason in (None, Job.Failure.PROVIDER_ERROR)
        return self.is_finalized and own_end and self.claim_token == claim.token


@dataclass(frozen=True, slots=True)
class JobInput:
    """A job's photo and what was to be made of it."""

    provider_id: str
    operation_id: str
    settings_json: dict[str, Any]
    template_media: dict[str, str]
    payload_path: str | None  # None: the photo is removed
    payload_mime_type: str
