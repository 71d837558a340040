"""Gemini's HTTP errors in the service's classes and reasons. The status and the details decide, not the prose."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any, Final

from providers.base import PermanentError, ProviderError, Reason, TransientError
from providers.http import Answer

MIN_PAUSE_SECONDS: Final = 1.0  # also where RetryInfo says "0s"
JITTER: Final = 0.1  # so that booths refused together do not come back together
MAX_MESSAGE: Final = 500  # characters

# What a rejected request may be quoted with: base64 and other unbroken runs that no sentence has.
_DATA: Final = re.compile(r"[A-Za-z0-9+/_=-]{48,}")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)s")

_PERMANENT: Final = {
    401: Reason.AUTH,
    402: Reason.QUOTA,  # prepaid credits are used up
    403: Reason.AUTH,
    404: Reason.BAD_SETTINGS,  # the model is retired or not for this account
    413: Reason.BAD_PHOTO,
    499: Reason.SLOW,
}
_TRANSIENT: Final = {408: Reason.SLOW, 504: Reason.SLOW}  # and every other 3xx and 5xx: overloaded


@dataclass(frozen=True, slots=True)
class Fault:
    """An error answer, taken apart."""

    http_status: int
    status: str = ""
    message: str = ""
    details: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, answer: Answer) -> Fault:
        """Also of a list with one error, and of what is no JSON at all: a page of some proxy's."""
        try:
            body = answer.json()
            error = (body[0] if isinstance(body, list) else body)["error"]
            details = [detail for detail in error.get("details") or [] if isinstance(detail, dict)]
            return cls(answer.status, str(error.get("status", "")), str(error.get("message", "")), details)
        except (ValueError, LookupError, TypeError, AttributeError):
            return cls(answer.status)

    def detail(self, kind: str) -> dict[str, Any]:
        """The first detail of a `google.rpc` type; empty when there is none."""
        return next((d for d in self.details if str(d.get("@type", "")).endswith(f".{kind}")), {})

    @property
    def info(self) -> str:
        return str(self.detail("ErrorInfo").get("reason", ""))

    @property
    def is_lost_file(self) -> bool:
        """For a request that named uploaded files: one of them may have expired, or be another project's."""
        return self.http_status in (403, 404) and not self.info and "models/" not in self.message

    @property
    def is_unreadable_image(self) -> bool:
        return self.http_status == 400 and "process input image" in self.message

    @property
    def is_used_up(self) -> bool:
        """A limit that waiting a minute does not lift: the day's, or one of 0, which means no billing."""
        violations = self.detail("QuotaFailure").get("violations") or []
        return any("PerDay" in str(v.get("quotaId", "")) or str(v.get("quotaValue", "")) == "0" for v in violations)

    @property
    def retry_after(self) -> float | None:
        """Seconds, from RetryInfo only: the prose beside it names other figures."""
        found = _DURATION.fullmatch(str(self.detail("RetryInfo").get("retryDelay", "")))
        return max(MIN_PAUSE_SECONDS, float(found[1])) * random.uniform(1, 1 + JITTER) if found else None


def error_of(fault: Fault, *secrets: str) -> ProviderError:
    """The error to raise. `secrets` (the key, the prompt) are cut out of what the provider says."""
    message = said(f"HTTP {fault.http_status} {fault.info or fault.status}: {fault.message}", *secrets)
    status = fault.http_status
    if status == 400:
        return PermanentError(_reason_of_400(fault), message)
    if status in _PERMANENT:
        return PermanentError(_PERMANENT[status], message)
    if status == 429 and fault.is_used_up:
        return PermanentError(Reason.QUOTA, message)
    if status == 429 or status in _TRANSIENT or status >= 500 or 300 <= status < 400:
        return TransientError(_TRANSIENT.get(status, Reason.OVERLOADED), message, retry_after=fault.retry_after)
    return PermanentError(Reason.BAD_SETTINGS, message)


def _reason_of_400(fault: Fault) -> Reason:
    if fault.info.startswith("API_KEY") or fault.status == "FAILED_PRECONDITION":  # the latter: region, billing
        return Reason.AUTH
    return Reason.BAD_PHOTO if fault.is_unreadable_image else Reason.BAD_SETTINGS


def said(text: str, *secrets: str) -> str:
    """The provider's own words, without what it may quote of ours."""
    for secret in secrets:
        text = text.replace(secret, "…") if len(secret) > 5 else text  # shorter ones are words of anybody
    return _DATA.sub("…", text)[:MAX_MESSAGE]
