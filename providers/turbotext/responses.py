"""Interprets Turbotext's responses.

They have no schema, and published samples are not always JSON, so parsing is lenient: it accepts PHP warnings before
the object, a byte order mark, a bracket too many, numbers and booleans as text, and one fact in several fields.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from providers import catalogue
from providers.base import AmbiguousError, PermanentError, ProviderError, Reason, TransientError, Usage
from providers.http import Response

Json = dict[str, Any]

MAX_WORDS = 500  # characters of the provider's error message
_MAX_QUEUE_ID = 100  # characters; the column of a job's reference takes 255
_MAX_STARTS = 20  # opening brackets tried as the object's start: text before the object may contain some
_KNOWN_FIELDS = {"success", "action", "error"}  # every response has one of these; its inner objects have none

# By the code in `error`. With any of these, `create_queue` has queued and billed nothing.
CODES: dict[str, tuple[type[ProviderError], Reason, str]] = {
    "limit": (PermanentError, Reason.QUOTA, "the plan's photo attempts are used up"),
    "url_error": (
        PermanentError,
        Reason.BAD_SETTINGS,
        "Turbotext could not fetch the photo: PUBLIC_BASE_URL must be an address that the internet reaches",
    ),
    "params_error": (PermanentError, Reason.BAD_SETTINGS, "a setting is not accepted"),
    "size_error": (PermanentError, Reason.BAD_PHOTO, "the picture's size is not accepted"),
    "face_not_detected": (PermanentError, Reason.BAD_PHOTO, "no face was found"),
    "face_not_found": (PermanentError, Reason.BAD_PHOTO, "no face was found"),
    "quality_limit": (PermanentError, Reason.BAD_PHOTO, "the picture is not good enough"),
    "forbidden_content": (PermanentError, Reason.REFUSED, "the content is forbidden"),
    "provider_busy": (TransientError, Reason.OVERLOADED, "Turbotext is busy"),
}
# By the status of a `create_queue`. Any other from 501 on is a gateway's time-out: the server behind it may have queued
# the job. All others mean that the request is not accepted.
STATUSES: dict[int, tuple[type[ProviderError], Reason]] = {
    401: (PermanentError, Reason.AUTH),
    403: (PermanentError, Reason.AUTH),
    402: (PermanentError, Reason.QUOTA),
    429: (PermanentError, Reason.QUOTA),
    408: (TransientError, Reason.OVERLOADED),
    500: (TransientError, Reason.OVERLOADED),
    502: (TransientError, Reason.OVERLOADED),
    503: (TransientError, Reason.OVERLOADED),
}
# If an error names one of the two pictures of `deepfake_photo`, this field is the template's.
_TEMPLATE_FIELD = "url_image_target"


def parse(body: bytes) -> Json | None:
    """The response's JSON object; None if no object is found."""
    text = body.decode("utf-8-sig", errors="replace")
    starts = (start for start, sign in enumerate(text) if sign == "{")
    for start in islice(starts, _MAX_STARTS):
        found = _parse_object(text[start:]) or _parse_object(_drop_stray_brackets(text[start:]))
        if found is not None and _KNOWN_FIELDS & found.keys():
            return found
    return None


def read_queue_id(response: Response, secrets: Collection[str] = ()) -> str:
    """The id that `create_queue` returned. Raises `ProviderError`, whose message contains none of `secrets`."""
    body = parse(response.body)
    error = _find_error_by_code(body, secrets) or _find_error_by_status(response, body, secrets)
    if error is not None:
        raise error
    if body is None:
        raise AmbiguousError(Reason.OVERLOADED, "the answer is not JSON; the attempt may have been billed")
    queue_id = body.get("queueid")
    if _is_true(body.get("success")) and isinstance(queue_id, int | str) and 0 < len(str(queue_id)) <= _MAX_QUEUE_ID:
        return str(queue_id)
    if _is_false(body.get("success")):
        raise PermanentError(Reason.NO_IMAGE, _redact_error(body, secrets) or "refused without a reason")
    raise AmbiguousError(Reason.OVERLOADED, "the answer has no queueid; the attempt may have been billed")


@dataclass(frozen=True, slots=True)
class Result:
    link: str  # to the picture
    usage: Usage


def read_result(method: str, response: Response, secrets: Collection[str] = ()) -> Result | None:
    """The result that `get_result` returned; None while the picture is being made.

    Raises `PermanentError` if the job ended without one, `TransientError` if the response says nothing about the job.
    """
    body = parse(response.body)
    usage = read_usage(method, body or {})
    if body is None or response.status != 200:
        raise _find_error_by_code(body, secrets, usage) or TransientError(
            Reason.OVERLOADED, f"HTTP {response.status} instead of a result"
        )
    if body.get("action") == "reconnect":
        return None
    if _is_true(_read_data(body).get("forbidden_content")) or _is_true(body.get("forbidden_content")):
        raise PermanentError(Reason.REFUSED, "Turbotext calls the content forbidden", usage=usage)
    message = _redact_error(body, secrets)
    if message and not _is_true(body.get("success")):
        raise _find_error_by_code(body, secrets, usage) or PermanentError(Reason.NO_IMAGE, message, usage=usage)
    return Result(_find_link(body, usage), usage)


def read_usage(method: str, body: Json) -> Usage:
    """One photo attempt, and the number that is left if the response contains it."""
    limits = body.get("limits")
    left = limits.get("foto_limit") if isinstance(limits, dict) else None
    units = {"photo_attempts": 1}
    if str(left).isdecimal():
        units["photo_attempts_left"] = int(str(left))
    price = catalogue.load_models("turbotext").get(method, {}).get("price_usd")
    return Usage(units, method, None if price is None else Decimal(str(price)))


def _find_link(body: Json, usage: Usage) -> str:
    link = next(_iterate_links(body), None)
    if link is not None:
        return link
    if _is_true(body.get("success")):
        raise PermanentError(Reason.NO_IMAGE, "done, but without a picture", usage=usage)
    raise TransientError(Reason.NO_IMAGE, "the answer says nothing about the job")


def _iterate_links(body: Json) -> Iterator[str]:
    """Links to the picture from all fields in which they have been observed, the documented field first."""
    data = _read_data(body)
    images = data.get("image")
    candidates = [
        body.get("uploaded_image"),
        data.get("uploaded_image"),
        *(images if isinstance(images, list) else [images]),
    ]
    return (link for link in candidates if isinstance(link, str) and link)


def _read_data(body: Json) -> Json:
    data = body.get("data")
    return data if isinstance(data, dict) else {}  # PHP writes an empty object as []


def _find_error_by_code(
    body: Json | None, secrets: Collection[str], usage: Usage | None = None
) -> ProviderError | None:
    """The error for a known code in the response."""
    if body is None or _is_true(body.get("success")):
        return None
    words = [word.strip().lower() for word in _collect_words(body.get("error"))]
    code = next((word for word in words if word in CODES), None)
    if code is None:
        return None
    kind, reason, meaning = CODES[code]
    if reason == Reason.BAD_PHOTO and _TEMPLATE_FIELD in words:
        reason = Reason.BAD_TEMPLATE
    return kind(reason, f"{meaning} ({_redact_error(body, secrets)})", usage=usage)


def _find_error_by_status(response: Response, body: Json | None, secrets: Collection[str]) -> ProviderError | None:
    """The error for the status of a `create_queue`."""
    status = response.status
    if 200 <= status < 300:
        return None
    gateway = (AmbiguousError, Reason.SLOW) if status > 500 else (PermanentError, Reason.BAD_SETTINGS)
    kind, reason = STATUSES.get(status, gateway)
    note = "a redirect; the account's address is not the API's" if status < 400 else _redact_error(body or {}, secrets)
    retry_after = response.headers.get("Retry-After", "")
    return kind(
        reason,
        ": ".join(filter(None, [f"HTTP {status}", note])),
        retry_after=float(retry_after) if retry_after.isdecimal() else None,
    )


def _redact_error(body: Json, secrets: Collection[str]) -> str:
    """The provider's error message without `secrets`."""
    message = ", ".join(_collect_words(body.get("error")))
    for secret in filter(None, secrets):
        message = message.replace(secret, "…")
    return message[:MAX_WORDS]


def _collect_words(error: object) -> list[str]:
    """All text in an error, which is a string, or a nested object or list."""
    match error:
        case str():
            return [error] if error else []
        case dict():
            return [word for value in error.values() for word in _collect_words(value)]
        case list():
            return [word for value in error for word in _collect_words(value)]
        case None | bool():
            return []
    return [str(error)]


def _is_true(value: object) -> bool:
    return str(value).lower() in ("true", "1")


def _is_false(value: object) -> bool:
    return str(value).lower() in ("false", "0")


def _parse_object(text: str) -> Json | None:
    try:
        body, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _drop_stray_brackets(text: str) -> str:
    """The text without unmatched closing brackets."""
    kept, is_open, is_string, is_escaped = [], [], False, False
    for sign in text:
        if is_string:
            is_string = is_escaped or sign != '"'
            is_escaped = sign == "\\" and not is_escaped
        elif sign == '"':
            is_string = True
        elif sign in "{[":
            is_open.append("}" if sign == "{" else "]")
        elif sign in "}]":
            if not is_open or is_open[-1] != sign:
                continue
            is_open.pop()
        kept.append(sign)
    return "".join(kept)
