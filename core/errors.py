"""The one error envelope of every endpoint (contract §4): `{"error": {"code", "message", "details"}}`.

A view raises `ApiError`; the booths' view and `EnvelopeMiddleware` turn it into the response. `STATUS_OF` is the one
place where a code has its HTTP status.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.translation import gettext as _

from core.database import DatabaseUnavailable
from core.logs import correlation_id

logger = logging.getLogger(__name__)

STATUS_OF: Mapping[str, int] = {
    "invalid_payload": 400,
    "version_required": 400,
    "invalid_credentials": 401,
    "forbidden": 403,
    "not_found": 404,
    "slot_not_found": 404,
    "result_not_found": 404,
    "media_not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "version_conflict": 409,
    "slot_exists": 409,
    "jobs_under_way": 409,
    "key_taken": 409,
    "template_in_use": 409,
    "job_finalized": 409,
    "result_expired": 410,
    "media_expired": 410,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "validation_failed": 422,
    "queue_busy": 429,
    "budget_exhausted": 429,
    "rate_limited": 429,
    "internal_error": 500,
    "provider_error": 502,
    "queue_unavailable": 503,
    "job_cancelled": 503,
    "provider_unavailable": 503,
    "sync_timeout": 504,
}


class ApiError(Exception):
    """A refusal or a failure. `message` says what happened and what to do, in the reader's language."""

    def __init__(self, code: str, message: str, *, retry_after: int | None = None, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS_OF[code]
        self.message = message
        self.details = details
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if self.status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 §15.5.2: every 401 names an authentication scheme

    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": str(self.message), "details": self.details}}

    def response(self) -> JsonResponse:
        headers = {"Cache-Control": "no-store", **self.headers}
        return JsonResponse(self.body(), status=self.status, headers=headers)

    def to_raw(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body, for a response sent without Django."""
        body = json.dumps(self.body()).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        return self.status, [(k.lower().encode(), v.encode()) for k, v in (headers | self.headers).items()], body


def make_internal_error() -> ApiError:
    return ApiError(
        "internal_error",
        _("Something went wrong on our side. Tell staff the correlation id: it finds the cause in the log."),
        correlation_id=correlation_id.get(),
    )


def make_queue_unavailable() -> ApiError:
    return ApiError("queue_unavailable", _("The queue cannot be reached right now. Try again shortly."), retry_after=2)


def to_api_error(error: Exception) -> ApiError:
    """The error to respond with to any exception; an unexpected one is logged here, once."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OperationalError | InterfaceError | DatabaseUnavailable):
        logger.error("The database did not answer: %s", type(error).__name__)
        return make_queue_unavailable()
    logger.exception("Unhandled exception")
    return make_internal_error()


def _make_error_for_status(response: HttpResponseBase) -> ApiError | None:
    match response.status_code:
        case 404:
            return ApiError("not_found", _("There is nothing at this address."))
        case 405:
            error = ApiError("method_not_allowed", _("This address does not take that method."))
            error.headers["Allow"] = response.headers.get("Allow", "")
            return error
        case 400:
            return ApiError("invalid_payload", _("The request is malformed."))
        case 500:
            return make_internal_error()
    return None


def apply_envelope(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Replaces Django's own HTML error responses by the envelope; pages for people under /admin/ and /r/ stay HTML.
    A guest's browser sends only GET and HEAD, so a 405 under /r/ is a program's."""
    is_page = request.path.startswith("/admin/") or (request.path.startswith("/r/") and response.status_code != 405)
    if is_page or response.headers.get("Content-Type") == "application/json":
        return response
    error = _make_error_for_status(response)
    return error.response() if error else response


class EnvelopeMiddleware:
    """The envelope for every endpoint that Django's middleware serves."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return apply_envelope(request, self.get_response(request))

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return None if request.path.startswith("/admin/") else to_api_error(error).response()
