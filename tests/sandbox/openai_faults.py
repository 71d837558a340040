"""The scenarios of the sandbox's OpenAI: errors (`ERRORS`) and odd bodies of a success (`BODIES`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from tests.sandbox.pictures import BASE64, base64_of
from tests.sandbox.wire import Reply


def json_reply(status: int, body: Any, **headers: str) -> Reply:
    return Reply(status, json.dumps(body).encode(), headers=headers)


def _error(
    status: int,
    code: str | None,
    message: str,
    type: str = "invalid_request_error",  # noqa: A002
    param: str | None = None,
    **more: Any,
) -> Callable[[str], Reply]:
    error = {"message": message, "type": type, "param": param, "code": code} | more
    return lambda _: json_reply(status, {"error": error})


def _blocked(stage: str, *categories: str) -> Callable[[str], Reply]:
    return _error(
        400,
        "moderation_blocked",
        "Your request was rejected by the safety system.",
        "image_generation_user_error",
        moderation_details={"moderation_stage": stage, "categories": list(categories)},
    )


def _rate(header: str = "", text: str = "") -> Callable[[str], Reply]:
    """A 429 with the time to wait (the argument) in a header, in the message or not at all."""

    def play(argument: str) -> Reply:
        message = "Rate limit reached on input-images per min: Limit 5, Used 5, Requested 1." + text.format(argument)
        error = {"message": message, "type": "input-images", "param": None, "code": "rate_limit_exceeded"}
        value = formatdate(time.time() + float(argument), usegmt=True) if header == "date" else argument
        name = "retry-after" if header == "date" else header
        return json_reply(429, {"error": error}, **({name: value} if header else {}))

    return play


def _server(argument: str) -> Reply:
    """`server:503`, or with the header `x-should-retry`: `server:503:false`."""
    status, _, again = argument.partition(":")
    message = "The server had an error while processing your request. Sorry about that!"
    error = {"message": message, "type": "server_error", "param": None, "code": None}
    return json_reply(int(status), {"error": error}, **({"x-should-retry": again} if again else {}))


def _echo(argument: str) -> Reply:
    """A refusal that quotes the prompt and a key."""
    message = f"Could not process the prompt '{argument}' with key sk-proj-0123456789abcdef: {'no, ' * 300}"
    return _error(400, "invalid_value", message)("")


ERRORS: dict[str, Callable[[str], Reply]] = {
    "moderation_input": _blocked("input", "harassment"),
    "moderation_output": _blocked("output", "sexual", "violence"),
    "safety_violations": _error(
        400,
        "moderation_blocked",
        "Rejected. safety_violations=[sexual]",
        "image_generation_user_error",
        safety_violations=["sexual"],
    ),
    "content_policy": _error(400, "content_policy_violation", "Rejected as a result of our safety system."),
    "safety_words": _error(400, None, "Your request was rejected by the safety system."),
    "invalid_image": _error(400, "invalid_image_file", "Invalid image file or mode for image 1.", param="image"),
    "invalid_value": _error(400, "invalid_value", "Invalid value for 'size'.", param="size"),
    "unknown_parameter": _error(400, "unknown_parameter", "Unknown parameter: 'size'.", param="size"),
    "billing_limit": _error(400, "billing_hard_limit_reached", "Billing hard limit has been reached"),
    "billing_inactive": _error(429, "billing_not_active", "Your account is not active.", "billing_not_active"),
    "insufficient_quota": _error(429, "insufficient_quota", "You exceeded your current quota.", "insufficient_quota"),
    "bad_key": _error(401, "invalid_api_key", "Incorrect API key provided: sk-proj-********************cdef."),
    "not_verified": _error(403, None, "Your organization must be verified to use this model."),
    "country": _error(403, "unsupported_country_region_territory", "Country not supported", "request_forbidden"),
    "model_gone": _error(404, "model_not_found", "The model has been deprecated.", param="model"),
    "too_large": _error(413, None, "Maximum content size limit exceeded."),
    "media_type": _error(415, None, "Unsupported media type."),
    "rate": _rate("retry-after"),
    "rate_ms": _rate("retry-after-ms"),
    "rate_date": _rate("date"),
    "rate_text": _rate(text=" Please try again in {}."),
    "rate_silent": _rate(),
    "server": _server,
    "should_retry": lambda wish: Reply(
        400,
        b'{"error": {"message": "Odd", "type": "t", "param": null, "code": null}}',
        headers={"x-should-retry": wish},
    ),
    "error_text": lambda _: json_reply(500, {"error": "overworked"}),
    "error_list": lambda _: json_reply(503, [{"error": {"message": "overworked"}}]),
    "echo": _echo,
}


def _with_first(change: Callable[[str, str], Any]) -> Callable[[dict[str, Any], str], None]:
    """`change` gets the picture's base64, and the scenario's argument."""

    def spoil(body: dict[str, Any], argument: str) -> None:
        body["data"][0]["b64_json"] = change(body["data"][0]["b64_json"], argument)

    return spoil


BODIES: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "no_usage": lambda body, _: body.pop("usage"),
    "bad_usage": lambda body, _: body.update(usage="much"),
    "plain_usage": lambda body, _: body["usage"].pop("output_tokens_details"),
    "no_data": lambda body, _: body.pop("data"),
    "null_data": lambda body, _: body.update(data=None),
    "empty_data": lambda body, _: body.update(data=[]),
    "null_picture": _with_first(lambda *_: None),
    "url_picture": lambda body, _: body.update(data=[{"url": "https://example.com/picture.png"}]),
    "base64": _with_first(lambda text, name: BASE64[name](text)),
    "two_images": lambda body, _: body["data"].insert(0, {"b64_json": base64_of(b"a draft")}),
}
