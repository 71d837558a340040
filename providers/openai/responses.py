"""Interprets OpenAI's responses: the picture and its cost, or an error in the classes and reasons of `base`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

import httpx

from core import images
from providers import catalogue
from providers.base import AmbiguousError, PermanentError, Picture, ProviderError, Reason, TransientError, Usage
from providers.http import Response, decode_base64

MAX_WORDS = 500  # characters of an error message, in the log
# An error may quote the key, and data from the request: long runs without a space are data, not words.
SECRET = re.compile(r"sk-[\w*.-]+|[A-Za-z0-9+/_=-]{48,}")
WAIT = re.compile(r"try again in ((?:\d+(?:\.\d+)?(?:ms|[smhd]))+)", re.IGNORECASE)
DURATION = re.compile(r"([\d.]+)(ms|[smhd])")
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}

CODES = {  # whatever the status
    "moderation_blocked": Reason.REFUSED,
    "content_policy_violation": Reason.REFUSED,
    "insufficient_quota": Reason.QUOTA,
    "billing_hard_limit_reached": Reason.QUOTA,
    "billing_not_active": Reason.QUOTA,
}
STATUSES = {
    401: Reason.AUTH,
    402: Reason.QUOTA,
    403: Reason.AUTH,
    404: Reason.BAD_SETTINGS,
    413: Reason.BAD_PHOTO,
    415: Reason.BAD_PHOTO,
}


def read_picture(response: Response, model: str) -> Picture:
    """The picture of a 200, which is paid for. Raises `AmbiguousError`, which is never repeated, if it is unusable."""
    try:
        body = _as_object(response.json())
    except ValueError:
        raise AmbiguousError(Reason.NO_IMAGE, _build_message(response, "the answer cannot be read")) from None
    usage = _read_usage(_as_object(body.get("usage")), model)
    try:
        data = decode_base64([image["b64_json"] for image in body["data"] if image.get("b64_json")][-1])
        return Picture(data, images.probe(data, mime_types=images.FORMATS, must_end=True).mime_type, usage)
    except (LookupError, TypeError, AttributeError):
        wrong = "the answer holds no picture"
    except ValueError as error:
        wrong = f"the picture cannot be read: {error}"
    raise AmbiguousError(Reason.NO_IMAGE, _build_message(response, wrong), usage=usage)


def check_models(response: Response) -> None:
    """Raises `PermanentError` if this is not the list of models: then another service responds at that address."""
    try:
        models = _as_object(response.json()).get("data")
    except ValueError:
        models = None
    if not isinstance(models, list):
        raise PermanentError(Reason.OVERLOADED, "what answers at this address is not OpenAI")


def make_error(response: Response, *secrets: str) -> ProviderError:
    """The error of a response that is not a 200. `secrets` are removed from its message."""
    error = _read_error(response)
    reason, is_final = _classify(response.status, error)
    if (should_retry := response.headers.get("x-should-retry")) in ("true", "false"):
        is_final = should_retry == "false"
    message = _build_message(response, _describe(response.status, error), *secrets)
    if is_final:
        return PermanentError(reason, message)
    return TransientError(reason, message, retry_after=_read_retry_after(response.headers, str(error.get("message"))))


def _classify(status: int, error: Mapping[str, Any]) -> tuple[Reason, bool]:
    """The reason, and whether repeating the call would end the same way."""
    for word in (str(error.get("code")), str(error.get("type"))):
        if word in CODES:
            return CODES[word], True
    if status in STATUSES:
        return STATUSES[status], True
    if status < 400 or status in (408, 409, 429) or status >= 500:  # redirects are not followed: the key would be sent
        return (Reason.SLOW if status in (408, 504) else Reason.OVERLOADED), False
    if "safety system" in str(error.get("message")):
        return Reason.REFUSED, True
    about_image = "image" in f"{error.get('param')} {error.get('code')}"
    return (Reason.BAD_PHOTO if about_image else Reason.BAD_SETTINGS), True


def _read_error(response: Response) -> dict[str, Any]:
    """`{message, type, param, code}`; empty if the body is something else, such as the HTML page of a proxy."""
    try:
        error = response.json()["error"]
    except (ValueError, LookupError, TypeError):
        return {}
    return error if isinstance(error, dict) else {"message": error}


def _describe(status: int, error: Mapping[str, Any]) -> str:
    parts = [f"HTTP {status}"]
    parts += [str(error[name]) for name in ("code", "message") if error.get(name)]
    details = error.get("moderation_details")
    if isinstance(details, dict):
        categories = details.get("categories")
        names = ", ".join(map(str, categories)) if isinstance(categories, list) else ""
        parts.append(f"stage {details.get('moderation_stage')}: {names}")
    elif error.get("safety_violations"):
        parts.append(str(error["safety_violations"]))
    return ": ".join(parts)


def _build_message(response: Response, message: str, *secrets: str) -> str:
    """The message without secrets, shortened, with the request id for OpenAI's support."""
    for secret in secrets:
        if len(secret) > 3:  # a shorter one may be part of an ordinary word
            message = message.replace(secret, "…")
    message = SECRET.sub("…", message)
    signature = f" ({request_id[:80]})" if (request_id := response.headers.get("x-request-id")) else ""
    return message[: MAX_WORDS - len(signature)] + signature


def _read_retry_after(headers: httpx.Headers, message: str) -> float | None:
    """Seconds: from the headers, the most precise first, else from the text of the message."""
    if (wait := _parse_number(headers.get("retry-after-ms"))) is not None:
        return wait / 1000
    value = headers.get("retry-after")
    if (wait := _parse_number(value)) is not None:
        return wait
    try:
        return max(0.0, parsedate_to_datetime(value or "").timestamp() - time.time())
    except (ValueError, OverflowError):
        found = WAIT.search(message)
    if found is None:
        return None
    return sum(float(number) * SECONDS[unit] for number, unit in DURATION.findall(found[1].lower()))


def _parse_number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None


def _read_usage(usage: Mapping[str, Any], model: str) -> Usage:
    """What the call used, in tokens of four kinds. Without OpenAI's figures the cost is None, never estimated."""
    inputs, outputs = _as_object(usage.get("input_tokens_details")), _as_object(usage.get("output_tokens_details"))
    counts = {
        "text_input": inputs.get("text_tokens"),
        "image_input": inputs.get("image_tokens"),
        "text_output": outputs.get("text_tokens"),
        # Without details, all output tokens count as the picture's.
        "image_output": outputs.get("image_tokens") if outputs else usage.get("output_tokens"),
    }
    units = {kind: count for kind, count in counts.items() if isinstance(count, int)}
    return Usage({f"{kind}_tokens": count for kind, count in units.items()}, model, _compute_cost(units, model))


def _compute_cost(units: Mapping[str, int], model: str) -> Decimal | None:
    """US dollars by the prices of today; None if a figure or a price is missing."""
    today = datetime.now(UTC).date().isoformat()
    known: list[dict[str, str]] = catalogue.load_models("openai").get(model, {}).get("prices", [])
    prices = max((p for p in known if p["from"] <= today), key=lambda p: p["from"], default={})
    if not {"text_input", "image_input", "image_output"} <= units.keys():
        return None
    if any(kind not in prices for kind, count in units.items() if count):
        return None
    return sum((Decimal(prices[kind]) * count for kind, count in units.items() if count), Decimal()) / 1_000_000


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
