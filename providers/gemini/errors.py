"""Maps Gemini's HTTP errors to the service's classes and reasons, by status and details, not by message text."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any, Final

from providers.base import PermanentError, ProviderError, Reason, TransientError
from providers.http import Response

MIN_PAUSE_SECONDS: Final = 1.0  # even if RetryInfo says "0s"
JITTER: Final = 0.1  # so that photos refused together are not repeated at the same moment
MAX_MESSAGE: Final = 500  # characters

# An error may quote the request: base64 and other long runs without a space are data, not words.
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
    """A parsed error response."""

    http_status: int
    status: str = ""
    message: str = ""
    details: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def parse(cls, response: Response) -> Fault:
        """Also parses a list with one error, and a body that is not JSON, such as the page of a proxy."""
        try:
            body = response.json()
            error = (body[0] if isinstance(body, list) else body)["error"]
            details = [detail for detail in error.get("details") or [] if isinstance(detail, dict)]
            return cls(response.status, str(error.get("status", "")), str(error.get("message", "")), details)
        except (ValueError, LookupError, TypeError, AttributeError):
            return cls(response.status)

    def detail(self, kind: str) -> dict[str, Any]:
        """The first detail of a `google.rpc` type; empty if there is none."""
        return next((d for d in self.details if str(d.get("@type", "")).endswith(f".{kind}")), {})

    @property
    def info(self) -> str:
        return str(self.detail("ErrorInfo").get("reason", ""))

    @property
    def is_lost_file(self) -> bool:
        """For a request that refers to uploaded files: one of them may have expired, or belong to another project."""
        return self.http_status in (403, 404) and not self.info and "models/" not in self.message

    @property
    def is_unreadable_image(self) -> bool:
        return self.http_status == 400 and "process input image" in self.message

    @property
    def is_used_up(self) -> bool:
        """A limit that waiting a minute does not lift: the day's, or a limit of 0, which means no billing."""
        violations = self.detail("QuotaFailure").get("violations") or []
        return any("PerDay" in str(v.get("quotaId", "")) or str(v.get("quotaValue", "")) == "0" for v in violations)

    @property
    def retry_after(self) -> float | None:
        """Seconds, from RetryInfo only: the message beside it contains other figures."""
        found = _DURATION.fullmatch(str(self.detail("RetryInfo").get("retryDelay", "")))
        return max(MIN_PAUSE_SECONDS, float(found[1])) * random.uniform(1, 1 + JITTER) if found else None


def make_error(fault: Fault, *secrets: str) -> ProviderError:
    """The error to raise. `secrets` (the key, the prompt) are removed from the provider's message."""
    message = redact(f"HTTP {fault.http_status} {fault.info or fault.status}: {fault.message}", *secrets)
    status = fault.http_status
    if status == 400:
        return PermanentError(_classify_400(fault), message)
    if status in _PERMANENT:
        return PermanentError(_PERMANENT[status], message)
    if status == 429 and fault.is_used_up:
        return PermanentError(Reason.QUOTA, message)
    if status == 429 or status in _TRANSIENT or status >= 500 or 300 <= status < 400:
        return TransientError(_TRANSIENT.get(status, Reason.OVERLOADED), message, retry_after=fault.retry_after)
    return PermanentError(Reason.BAD_SETTINGS, message)


def _classify_400(fault: Fault) -> Reason:
    if fault.info.startswith("API_KEY") or fault.status == "FAILED_PRECONDITION":  # the latter: region, billing
        return Reason.AUTH
    return Reason.BAD_PHOTO if fault.is_unreadable_image else Reason.BAD_SETTINGS


def redact(text: str, *secrets: str) -> str:
    """The provider's message without `secrets` and data that it may quote from the request."""
    for secret in secrets:
        text = text.replace(secret, "…") if len(secret) > 5 else text  # a shorter one may be an ordinary word
    return _DATA.sub("…", text)[:MAX_MESSAGE]
