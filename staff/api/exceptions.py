"""Turns DRF's errors into the service's error envelope."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponseBase
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import exceptions
from rest_framework.views import APIView

from core.errors import ApiError, to_api_error

UNKNOWN_FIELD = "unknown_field"

# Code and message of the envelope, by DRF's and Django's exceptions.
ENVELOPES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, Promise], ...] = (
    (exceptions.ParseError, "invalid_payload", gettext_lazy("The body is not a JSON object.")),
    ((exceptions.PermissionDenied, PermissionDenied), "forbidden", gettext_lazy("You have no permission to do this.")),
    ((exceptions.NotFound, Http404), "not_found", gettext_lazy("There is nothing at this address.")),
    (exceptions.MethodNotAllowed, "method_not_allowed", gettext_lazy("This address does not take that method.")),
    (exceptions.NotAcceptable, "not_acceptable", gettext_lazy("Answers are JSON: accept application/json.")),
)


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponseBase:
    """DRF's EXCEPTION_HANDLER: turns whatever a view raises into the envelope."""
    return to_api_error(_convert(error, context["view"])).response()


def _convert(error: Exception, view: APIView) -> Exception:
    match error:
        case exceptions.ValidationError():
            return refuse_fields(error.detail)
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            # One message for every invalid token: it must reveal nothing about the owner.
            return ApiError("invalid_credentials", _("Log in and send the token as a bearer token."))
        case exceptions.UnsupportedMediaType():
            allowed = view.parser_classes[0].media_type
            message = _("Send it with Content-Type: %(type)s.") % {"type": allowed}
            return ApiError("unsupported_media_type", message, allowed=[allowed])
    known = next(((code, message) for kinds, code, message in ENVELOPES if isinstance(error, kinds)), None)
    return ApiError(known[0], str(known[1])) if known else error


def make_unknown_field_error() -> exceptions.ErrorDetail:
    return exceptions.ErrorDetail(_("There is no such field."), code=UNKNOWN_FIELD)


def refuse_fields(detail: Any, code: str = "validation_failed") -> ApiError:
    """The refusal for a serializer's errors. An unknown field makes the request malformed (400), whatever the other
    errors are."""
    details: dict[str, list[str]] = {}
    codes = set()
    for name, error in _walk(detail):
        details.setdefault(name or "body", []).append(str(error))
        codes.add(getattr(error, "code", ""))
    is_malformed = UNKNOWN_FIELD in codes or code == "invalid_payload"
    message = _("Some fields are missing, unknown or not as they must be: see details.")
    refusal = ApiError("invalid_payload" if is_malformed else code, message)
    refusal.details = details
    return refusal


def _walk(detail: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields DRF's nested errors, each with the dotted path of its field."""
    match detail:
        case dict():
            for name, inner in detail.items():
                is_own = name == "non_field_errors"  # an error of the object itself
                yield from _walk(inner, path if is_own else f"{path}.{name}".lstrip("."))
        case list():
            for inner in detail:
                yield from _walk(inner, path)
        case _:
            yield path, detail
