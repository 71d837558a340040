"""Arguments and results of the queue's verbs: plain records without a connection, lighter than models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from jobs.models import Job
from providers.base import Reason
from providers.limits import CallEnding
from stats.journal import Step


@dataclass(frozen=True, slots=True)
class NewJob:
    """A checked photo, already stored under `payload_path`, and its slot's provider, operation and settings."""

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
    asked_by: str | None = None  # a test run's: the name of the user who requested it


@dataclass(frozen=True, slots=True)
class Ticket:
    """The job to wait for. `joined`: that of an earlier post of the photo, still under way or not delivered."""

    job_id: UUID
    expires_at: datetime
    seconds_left: float
    joined: bool


@dataclass(frozen=True, slots=True)
class EncryptedAccount:
    """A provider's account as stored; the defaults stand for a provider that has no account and needs none."""

    is_enabled: bool = True
    encrypted_key: str = field(default="", repr=False)
    base_url: str = ""
    encrypted_proxy_url: str = field(default="", repr=False)
    is_limited: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A job leased to a worker until the lease runs out; `token` is the fencing token."""

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
    lost_claims: int  # how many of them ended with the loss of their worker
    created_at: datetime
    expires_at: datetime
    seconds_left: float
    account: EncryptedAccount = EncryptedAccount()  # of the slot's first provider
    # What earlier workers did at the current provider (the slot's, or its fallback): how many calls ended, the id of
    # one without an end, whether one may have been billed, and whether one was refused.
    earlier_calls: int = 0
    open_call: int | None = None
    may_have_been_billed: bool = False
    was_refused: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """A stored picture. `inline_base64` where it is small, and where it could not be stored (`path` is None)."""

    path: str | None
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
    """The calls to the provider and how long they took; filled while the job runs.

    The open call is ended by the verb that ends the job, in the same transaction: as `call_ending` says, or as one that
    may have been billed."""

    call_id: int | None = None
    call_ending: CallEnding | None = None
    attempts: int = 0
    attempt_errors: int = 0
    provider_seconds: float = 0
    polls: int = 0
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CallPermit:
    """A call that may be made now (`call_id`), or only after `wait_seconds` (`call_id` is None)."""

    call_id: int | None
    wait_seconds: float = 0


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that a verb has just ended: what its caller needs for cleaning up and for the counters."""

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
    returns_original: bool  # the booth's response is the original photo: the slot has `on_failure`


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """The state of a job, for those who wait for it."""

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
        """Whether the holder of this claim ended the job: only it can end one with a result or a provider error."""
        own_end = self.failure_reason in (None, Job.Failure.PROVIDER_ERROR)
        return self.is_finalized and own_end and self.claim_token == claim.token


@dataclass(frozen=True, slots=True)
class JobInput:
    """A job's photo, provider, operation and settings."""

    provider_id: str
    operation_id: str
    settings_json: dict[str, Any]
    template_media: dict[str, str]
    payload_path: str | None  # None: the photo is removed
    payload_mime_type: str
