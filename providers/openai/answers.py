"""What OpenAI answers: the picture and its bill, or an error in the classes and reasons of `base`."""

from __future__ import annotations

import re
import time
from base64 import b64decode
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
from providers.http import Answer

MAX_WORDS = 500  # of an error, in the log
# What an error may quote: the key that it refuses, and data, which run on without a space as no sentence does.
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


def picture(answer: Answer, model: str) -> Picture:
    """The picture of a 200. That was paid for: whatever is wrong with it is an `AmbiguousError`, never tried again."""
    try:
        body = _object(answer.json())
    except ValueError:
        raise AmbiguousError(Reason.NO_IMAGE, _signed(answer, "the answer cannot be read")) from None
    usage = _usage(_object(body.get("usage")), model)
    try:
        data = _decoded([image["b64_json"] for image in body["data"] if image.get("b64_json")][-1])
        return Picture(data, images.probe(data, mime_types=images.FORMATS, must_end=True).mime_type, usage)
    except (LookupError, TypeError, AttributeError):
        wrong = "the answer holds no picture"
    except ValueError as error:
        wrong = f"the picture cannot be read: {error}"
    raise AmbiguousError(Reason.NO_IMAGE, _signed(answer, wrong), usage=usage)


def expect_models(answer: Answer) -> None:
    """Raises `PermanentError` if this is not the list of models: then somebody else answers at that address."""
    try:
        models = _object(answer.json()).get("data")
    except ValueError:
        models = None
    if not isinstance(models, list):
        raise PermanentError(Reason.OVERLOADED, "what answers at this address is not OpenAI")


def fault(answer: Answer, *secrets: str) -> ProviderError:
    """The error of an answer that is not a 200. `secrets` are kept out of its message."""
    error = _error(answer)
    reason, is_final = _judged(answer.status, error)
    if (wish := answer.headers.get("x-should-retry")) in ("true", "false"):
        is_final = wish == "false"
    words = _signed(answer, _words(answer.status, error), *secrets)
    if is_final:
        return PermanentError(reason, words)
    return TransientError(reason, words, retry_after=_retry_after(answer.headers, str(error.get("message"))))


def _judged(status: int, error: Mapping[str, Any]) -> tuple[Reason, bool]:
    """Why, and whether trying again would end the same way."""
    for word in (str(error.get("code")), str(error.get("type"))):
        if word in CODES:
            return CODES[word], True
    if status in STATUSES:
        return STATUSES[status], True
    if status < 400 or status in (408, 409, 429) or status >= 500:  # a redirect is not followed: the key would go along
        return (Reason.SLOW if status in (408, 504) else Reason.OVERLOADED), False
    if "safety system" in str(error.get("message")):
        return Reason.REFUSED, True
    about_image = "image" in f"{error.get('param')} {error.get('code')}"
    return (Reason.BAD_PHOTO if about_image else Reason.BAD_SETTINGS), True


def _error(answer: Answer) -> dict[str, Any]:
    """`{message, type, param, code}`, or nothing: a proxy on the way answers in HTML."""
    try:
        error = answer.json()["error"]
    except (ValueError, LookupError, TypeError):
        return {}
    return error if isinstance(error, dict) else {"message": error}


def _words(status: int, error: Mapping[str, Any]) -> str:
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


def _signed(answer: Answer, words: str, *secrets: str) -> str:
    """Without secrets, short, and with the id by which OpenAI's support finds the call."""
    for secret in secrets:
        if len(secret) > 3:  # less would be found in any sentence
            words = words.replace(secret, "…")
    words = SECRET.sub("…", words)
    signature = f" ({request_id[:80]})" if (request_id := answer.headers.get("x-request-id")) else ""
    return words[: MAX_WORDS - len(signature)] + signature


def _retry_after(headers: httpx.Headers, message: str) -> float | None:
    """Seconds: from the headers, finest first, else from the sentence that names the limit."""
    if (wait := _number(headers.get("retry-after-ms"))) is not None:
        return wait / 1000
    value = headers.get("retry-after")
    if (wait := _number(value)) is not None:
        return wait
    try:
        return max(0.0, parsedate_to_datetime(value or "").timestamp() - time.time())
    except (ValueError, OverflowError):
        found = WAIT.search(message)
    if found is None:
        return None
    return sum(float(number) * SECONDS[unit] for number, unit in DURATION.findall(found[1].lower()))


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None


def _decoded(text: str) -> bytes:
    """Base64 in either alphabet, padded or not, also inside a data URL: the picture is paid for."""
    text = text.rpartition(",")[2].translate(str.maketrans("-_", "+/")).rstrip("=")
    return b64decode(text + "=" * (-len(text) % 4), validate=True)


def _usage(usage: Mapping[str, Any], model: str) -> Usage:
    """What the call used, in tokens of four kinds. Without OpenAI's figures the cost is unknown, never guessed."""
    inputs, outputs = _object(usage.get("input_tokens_details")), _object(usage.get("output_tokens_details"))
    counts = {
        "text_input": inputs.get("text_tokens"),
        "image_input": inputs.get("image_tokens"),
        "text_output": outputs.get("text_tokens"),
        # Not told apart, they are the picture's.
        "image_output": outputs.get("image_tokens") if outputs else usage.get("output_tokens"),
    }
    units = {kind: count for kind, count in counts.items() if isinstance(count, int)}
    return Usage({f"{kind}_tokens": count for kind, count in units.items()}, model, _cost(units, model))


def _cost(units: Mapping[str, int], model: str) -> Decimal | None:
    """US dollars by the prices of today; None where a figure or a price is missing."""
    today = datetime.now(UTC).date().isoformat()
    known: list[dict[str, str]] = catalogue.models("openai").get(model, {}).get("prices", [])
    prices = max((p for p in known if p["from"] <= today), key=lambda p: p["from"], default={})
    if not {"text_input", "image_input", "image_output"} <= units.keys():
        return None
    if any(kind not in prices for kind, count in units.items() if count):
        return None
    return sum((Decimal(prices[kind]) * count for kind, count in units.items() if count), Decimal()) / 1_000_000


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
