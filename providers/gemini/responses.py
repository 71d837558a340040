"""A successful HTTP response: its picture, or the reason why there is none, and its cost."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from core import images
from providers import catalogue
from providers.base import AmbiguousError, PermanentError, Picture, ProviderError, Reason, TransientError, Usage
from providers.gemini.errors import redact
from providers.gemini.settings import PROVIDER
from providers.http import Response, decode_base64

MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why there is no picture, and how often the call is repeated for one photo."""

    reason: Reason
    repeats: int = 0


_REFUSED, _CONFIG = Verdict(Reason.REFUSED), Verdict(Reason.BAD_SETTINGS)
UNKNOWN: Final = Verdict(Reason.NO_IMAGE, repeats=1)  # Google may add reasons
TEXT_ONLY: Final = "STOP"

FINISH: Final[Mapping[str, Verdict]] = {
    TEXT_ONLY: Verdict(Reason.NO_IMAGE, repeats=1),
    "NO_IMAGE": Verdict(Reason.NO_IMAGE, repeats=3),
    "IMAGE_OTHER": UNKNOWN,
    "OTHER": UNKNOWN,
    "MALFORMED_RESPONSE": UNKNOWN,
    "MAX_TOKENS": UNKNOWN,
    "CONTINUATION": Verdict(Reason.NO_IMAGE),
    "IMAGE_SAFETY": Verdict(Reason.REFUSED, repeats=1),  # the output filter: another picture may pass it
    "IMAGE_PROHIBITED_CONTENT": _REFUSED,
    "PROHIBITED_CONTENT": _REFUSED,
    "SAFETY": _REFUSED,
    "BLOCKLIST": _REFUSED,
    "SPII": _REFUSED,
    "MODEL_ARMOR": _REFUSED,
    "IMAGE_RECITATION": _REFUSED,
    "RECITATION": _REFUSED,
    "LANGUAGE": _CONFIG,
    "ESCALATION": _CONFIG,
    "MISSING_THOUGHT_SIGNATURE": _CONFIG,
    "MALFORMED_FUNCTION_CALL": _CONFIG,
    "UNEXPECTED_TOOL_CALL": _CONFIG,
    "TOO_MANY_TOOL_CALLS": _CONFIG,
    "PUP_LIMITED_DISABLED": Verdict(Reason.AUTH),  # the account is restricted
}


class _NoPictureError(Exception):
    """`args`: the provider's reason code, and its message."""


def read_picture(response: Response, model: str, refusals: Counter[str], *secrets: str) -> Picture:
    """The last picture that is not a thought. Raises `ProviderError`; `refusals` counts this photo's refusals by code.
    Decodes megabytes: call it in a thread."""
    usage = None
    try:
        body = response.json()
        usage = _read_usage(body.get("usageMetadata") or {}, body.get("modelVersion"), model)
        data = decode_base64(_find_last_picture(body))
        return Picture(data, images.probe(data, mime_types=images.FORMATS, must_end=True).mime_type, usage)
    except _NoPictureError as error:
        code, message = error.args
        raise _make_error(code, redact(message, *secrets), refusals, usage) from None
    except images.ImageError as error:
        raise AmbiguousError(Reason.NO_IMAGE, f"the picture cannot be used: {error}", usage=usage) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        text = f"the answer is not as documented ({type(error).__name__})"
        raise AmbiguousError(Reason.NO_IMAGE, text, usage=usage) from None


def _find_last_picture(body: dict[str, Any]) -> str:
    blocked = body.get("promptFeedback") or {}
    if reason := blocked.get("blockReason"):
        raise _NoPictureError("PROMPT_BLOCKED", f"prompt blocked: {reason} {blocked.get('blockReasonMessage', '')}")
    candidates = body.get("candidates") or []
    parts = [
        part for c in candidates for part in (c.get("content") or {}).get("parts") or [] if not part.get("thought")
    ]
    pictures = [part["inlineData"]["data"] for part in parts if "inlineData" in part]
    if pictures:
        return str(pictures[-1])
    first = candidates[0] if candidates else {}
    code = str(first.get("finishReason", "no candidate"))
    response = f"(response {body.get('responseId', 'without an id')})"
    raise _NoPictureError(code, f"finished with {code}: {first.get('finishMessage', 'no picture')} {response}")


def _make_error(code: str, message: str, refusals: Counter[str], usage: Usage | None) -> ProviderError:
    verdict = _REFUSED if code == "PROMPT_BLOCKED" else FINISH.get(code, UNKNOWN)
    refusals[code] += 1
    error = TransientError if refusals[code] <= verdict.repeats else PermanentError
    return error(verdict.reason, message, usage=usage)


def _read_usage(counts: dict[str, Any], version: str | None, model: str) -> Usage | None:
    """None if the response has no figures. The details distinguish tokens of the picture from tokens of text."""
    if not counts:
        return None
    details = counts.get("candidatesTokensDetails") or []
    total = counts.get("candidatesTokenCount", 0)
    image = sum(d.get("tokenCount", 0) for d in details if d.get("modality") == "IMAGE") if details else total
    units = {
        "input_tokens": counts.get("promptTokenCount", 0),
        "image_tokens": image,
        "text_tokens": max(0, total - image),
        "thought_tokens": counts.get("thoughtsTokenCount", 0),
    }
    return Usage(units, version or model, cost(model, units, dt.datetime.now(dt.UTC).date()))


def cost(model: str, units: Mapping[str, int], on: dt.date) -> Decimal | None:
    """US dollars by the prices of that day; None if the catalogue has no price."""
    prices = catalogue.load_models(PROVIDER).get(model, {}).get("prices", [])
    price = max((p for p in prices if p["from"] <= on.isoformat()), key=lambda p: p["from"], default=None)
    if price is None:
        return None
    text = units["text_tokens"] + units["thought_tokens"]
    return (
        units["input_tokens"] * Decimal(price["input"])
        + units["image_tokens"] * Decimal(price["output_image"])
        + text * Decimal(price["output_text"])
    ) / MILLION
