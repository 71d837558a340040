"""What Turbotext's answers mean.

No schema of them exists and published samples are not always JSON, so whatever can be understood is: PHP warnings
before the object, a byte order mark, a bracket too many, numbers and truths as text, one fact in several places.
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
from providers.http import Answer

Json = dict[str, Any]

MAX_WORDS = 500  # characters of the provider's own words
_MAX_QUEUE_ID = 100  # characters; a job's reference has room for 255
_BEGINNINGS = 20  # opening brackets tried as the object's: in what comes before it there may be some
_TELLING = {"success", "action", "error"}  # every answer has one of these; its inner objects have none

# By the code in `error`. None of these is queued or billed when it answers `create_queue`.
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
# By the status of a `create_queue`. Any other from 501 on is a gateway that gave up waiting for whoever stands behind
# it, and who may have queued the job; the rest is a request that is not accepted.
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
# Where an error names one of the two pictures of `deepfake_photo`, this one is the template.
_TEMPLATE_FIELD = "url_image_target"


def parse(body: bytes) -> Json | None:
    """The answer's object; None if there is none to be found."""
    text = body.decode("utf-8-sig", errors="replace")
    beginnings = (at for at, sign in enumerate(text) if sign == "{")
    for at in islice(beginnings, _BEGINNINGS):
        found = _object(text[at:]) or _object(_without_stray_brackets(text[at:]))
        if found is not None and _TELLING & found.keys():
            return found
    return None


def queue_id(answer: Answer, hidden: Collection[str] = ()) -> str:
    """The id that `create_queue` answered. Raises `ProviderError`; its words hold nothing of `hidden`."""
    found = parse(answer.body)
    error = _coded_error(found, hidden) or _status_error(answer, found, hidden)
    if error is not None:
        raise error
    if found is None:
        raise AmbiguousError(Reason.OVERLOADED, "the answer is not JSON; the attempt may have been billed")
    queued = found.get("queueid")
    if _is_true(found.get("success")) and isinstance(queued, int | str) and 0 < len(str(queued)) <= _MAX_QUEUE_ID:
        return str(queued)
    if _is_false(found.get("success")):
        raise PermanentError(Reason.NO_IMAGE, _said(found, hidden) or "refused without a reason")
    raise AmbiguousError(Reason.OVERLOADED, "the answer has no queueid; the attempt may have been billed")


@dataclass(frozen=True, slots=True)
class Done:
    link: str  # to the picture
    usage: Usage


def result(method: str, answer: Answer, hidden: Collection[str] = ()) -> Done | None:
    """What `get_result` says; None while the picture is made.

    Raises `PermanentError` for an end without a picture, and `TransientError` for what says nothing about the job.
    """
    found = parse(answer.body)
    usage = usage_of(method, found or {})
    if found is None or answer.status != 200:
        raise _coded_error(found, hidden, usage) or TransientError(
            Reason.OVERLOADED, f"HTTP {answer.status} instead of a result"
        )
    if found.get("action") == "reconnect":
        return None
    if _is_true(_data(found).get("forbidden_content")) or _is_true(found.get("forbidden_content")):
        raise PermanentError(Reason.REFUSED, "Turbotext calls the content forbidden", usage=usage)
    said = _said(found, hidden)
    if said and not _is_true(found.get("success")):
        raise _coded_error(found, hidden, usage) or PermanentError(Reason.NO_IMAGE, said, usage=usage)
    return Done(_link(found, usage), usage)


def usage_of(method: str, found: Json) -> Usage:
    """One photo attempt, and how many are left if the answer says so."""
    limits = found.get("limits")
    left = limits.get("foto_limit") if isinstance(limits, dict) else None
    units = {"photo_attempts": 1}
    if str(left).isdecimal():
        units["photo_attempts_left"] = int(str(left))
    price = catalogue.models("turbotext").get(method, {}).get("price_usd")
    return Usage(units, method, None if price is None else Decimal(str(price)))


def _link(found: Json, usage: Usage) -> str:
    link = next(_links(found), None)
    if link is not None:
        return link
    if _is_true(found.get("success")):
        raise PermanentError(Reason.NO_IMAGE, "done, but without a picture", usage=usage)
    raise TransientError(Reason.NO_IMAGE, "the answer says nothing about the job")


def _links(found: Json) -> Iterator[str]:
    """Wherever a link to the picture has been seen, the documented place first."""
    data = _data(found)
    images = data.get("image")
    places = [
        found.get("uploaded_image"),
        data.get("uploaded_image"),
        *(images if isinstance(images, list) else [images]),
    ]
    return (place for place in places if isinstance(place, str) and place)


def _data(found: Json) -> Json:
    data = found.get("data")
    return data if isinstance(data, dict) else {}  # PHP writes an empty object as []


def _coded_error(found: Json | None, hidden: Collection[str], usage: Usage | None = None) -> ProviderError | None:
    """The error that a known code in the answer stands for."""
    if found is None or _is_true(found.get("success")):
        return None
    words = [word.strip().lower() for word in _words(found.get("error"))]
    code = next((word for word in words if word in CODES), None)
    if code is None:
        return None
    kind, reason, meaning = CODES[code]
    if reason == Reason.BAD_PHOTO and _TEMPLATE_FIELD in words:
        reason = Reason.BAD_TEMPLATE
    return kind(reason, f"{meaning} ({_said(found, hidden)})", usage=usage)


def _status_error(answer: Answer, found: Json | None, hidden: Collection[str]) -> ProviderError | None:
    """The error that the status of a `create_queue` stands for."""
    status = answer.status
    if 200 <= status < 300:
        return None
    gateway = (AmbiguousError, Reason.SLOW) if status > 500 else (PermanentError, Reason.BAD_SETTINGS)
    kind, reason = STATUSES.get(status, gateway)
    note = "a redirect; the account's address is not the API's" if status < 400 else _said(found or {}, hidden)
    wish = answer.headers.get("Retry-After", "")
    return kind(
        reason,
        ": ".join(filter(None, [f"HTTP {status}", note])),
        retry_after=float(wish) if wish.isdecimal() else None,
    )


def _said(found: Json, hidden: Collection[str]) -> str:
    """The provider's own words, with nothing of `hidden` in them."""
    said = ", ".join(_words(found.get("error")))
    for secret in filter(None, hidden):
        said = said.replace(secret, "…")
    return said[:MAX_WORDS]


def _words(error: object) -> list[str]:
    """All text in an error, which is mostly text itself."""
    match error:
        case str():
            return [error] if error else []
        case dict():
            return [word for value in error.values() for word in _words(value)]
        case list():
            return [word for value in error for word in _words(value)]
        case None | bool():
            return []
    return [str(error)]


def _is_true(value: object) -> bool:
    return str(value).lower() in ("true", "1")


def _is_false(value: object) -> bool:
    return str(value).lower() in ("false", "0")


def _object(text: str) -> Json | None:
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _without_stray_brackets(text: str) -> str:
    """The text without closing brackets that close nothing."""
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
