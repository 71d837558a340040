"""Error bodies in the form of Google's services (`google.rpc.Status` with details), by name."""

from __future__ import annotations

import json
from typing import Any

from tests.sandbox.wire import Reply

RPC = "type.googleapis.com/google.rpc."
QUOTA_METRIC = "generativelanguage.googleapis.com/generate_content_paid_tier_requests"
MODEL_GONE = (
    "models/{} is not found for API version v1beta, or is not supported for generateContent. "
    "Call ModelService.ListModels to see the list of available models and their supported methods."
)


def error_reply(
    http: int,
    status: str,
    message: str = "",
    *details: dict[str, Any],
    violations: list[dict[str, str]] | None = None,
) -> Reply:
    """`violations` are a BadRequest's, and its message when there is no other."""
    if violations:
        message = message or "\n".join(violation["description"] for violation in violations)
        details = (*details, {"@type": RPC + "BadRequest", "fieldViolations": violations})
    error: dict[str, Any] = {"code": http, "message": message, "status": status}
    if details:
        error["details"] = list(details)
    return Reply(http, json.dumps({"error": error}).encode(), "application/json; charset=UTF-8")


def build_bad_key() -> Reply:
    text = "API key not valid. Please pass a valid API key."
    info = {"domain": "googleapis.com", "metadata": {"service": "generativelanguage.googleapis.com"}}
    return error_reply(
        400,
        "INVALID_ARGUMENT",
        text,
        {"@type": RPC + "ErrorInfo", "reason": "API_KEY_INVALID"} | info,
        {"@type": RPC + "LocalizedMessage", "locale": "en-US", "message": text},
    )


def build_no_key() -> Reply:
    text = "Method doesn't allow unregistered callers (callers without established identity)."
    return error_reply(403, "PERMISSION_DENIED", text)


def build_retry_info(delay: str) -> dict[str, Any]:
    return {"@type": RPC + "RetryInfo", "retryDelay": delay}


def build_quota_error(per: str, value: str, delay: str, prose: str = "") -> Reply:
    violation = {
        "quotaMetric": QUOTA_METRIC,
        "quotaId": f"GenerateRequestsPer{per}PerProjectPerModel",
        "quotaDimensions": {"location": "global", "model": "gemini-nano-banana-2.1"},
        "quotaValue": value,
    }
    help_links = [{"description": "Rate limits", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}]
    details = [
        {"@type": RPC + "QuotaFailure", "violations": [violation]},
        {"@type": RPC + "Help", "links": help_links},
    ]
    if delay:
        details.append(build_retry_info(delay))
    text = f"You exceeded your current quota, please check your plan and billing details.{prose}"
    return error_reply(429, "RESOURCE_EXHAUSTED", text, *details)


def find_error(name: str, argument: str, key: str) -> Reply | None:
    """The named error; None if there is no such error. `argument` is the delay in RetryInfo; empty: no RetryInfo."""
    if name in LIMITS:
        return build_quota_error(*LIMITS[name][:2], argument or LIMITS[name][2], LIMITS[name][3])
    if name == "suspended":
        return error_reply(403, "PERMISSION_DENIED", f"Permission denied: Consumer 'api_key:{key}' has been suspended.")
    if name not in ERRORS:
        return None
    reply = error_reply(*ERRORS[name], *([build_retry_info(argument)] if argument else []))
    if name == "in_a_list":
        reply.body = b"[" + reply.body + b"]"
    return reply


LIMITS = {  # the period, the limit, RetryInfo, and the message's own delay
    "rate": ("Minute", "10", "", ""),
    "rate_prose": ("Minute", "10", "", " Please retry in 51.386s."),
    "day": ("Day", "1000", "14s", ""),
    "no_billing": ("Minute", "0", "14s", ""),
}
ERRORS: dict[str, tuple[int, str, str]] = {
    "rate_bare": (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "in_a_list": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "internal": (500, "INTERNAL", "An internal error has occurred. Please retry."),
    "deadline": (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    "timeout": (408, "DEADLINE_EXCEEDED", "The request timed out."),
    "cancelled": (499, "CANCELLED", "The operation was cancelled."),
    "depleted": (402, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
    "unauthenticated": (401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    "region": (400, "FAILED_PRECONDITION", "User location is not supported for the API use without billing."),
    "bad_image": (400, "INVALID_ARGUMENT", "Unable to process input image. Please retry."),
    "tokens": (
        400,
        "INVALID_ARGUMENT",
        "The input token count exceeds the maximum number of tokens allowed (32768).",
    ),
    "too_large": (413, "INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    "gone": (404, "NOT_FOUND", MODEL_GONE.format("gemini-3-pro-image")),
    "lost_file_403": (
        403,
        "PERMISSION_DENIED",
        "You do not have permission to access the File abc or it may not exist.",
    ),
    "lost_file_404": (404, "NOT_FOUND", "Requested entity was not found."),
}
