"""What the faces of the staff API share (contract §6): who may ask, how a body is read, and how DRF's errors become the
envelope.

A room's `api.py` subclasses `StaffView` and names the permission that each method takes (`openapi.operation`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponseBase, QueryDict
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import exceptions, serializers
from rest_framework.authentication import BaseAuthentication
from rest_framework.parsers import BaseParser, JSONParser, MultiPartParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils import json
from rest_framework.views import APIView
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.tokens import Token

from photoslot.errors import ApiError, from_exception

VERBS = ("view", "add", "change", "delete")
# What each permission of the contract is in Django's: who has all of them has it. `bootstrap` makes a group for each.
SCOPES: Mapping[str, tuple[str, ...]] = {
    "settings:read": ("ingest.view_ingestsettings", "providers.view_provideraccount"),
    "settings:write": ("ingest.change_ingestsettings", "providers.change_provideraccount"),
    "slots:write": (
        *(f"slots.{verb}_slot" for verb in ("view", "add", "change")),
        *(f"slots.{verb}_{kind}" for kind in ("templatemedia", "templatebinding") for verb in VERBS),
        "jobs.cancel_job",
    ),
    "stats:read": ("stats.view_hourlycounter", "stats.view_processinglog", "jobs.view_job"),
}
BODY_BYTES = 1024 * 1024  # a slot's settings, by far the largest body of JSON, are some kilobytes
UNKNOWN = "unknown_field"

# DRF's and Django's words, in ours.
ANSWERS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, Promise], ...] = (
    (exceptions.ParseError, "invalid_payload", gettext_lazy("The body is not a JSON object.")),
    ((exceptions.PermissionDenied, PermissionDenied), "forbidden", gettext_lazy("You have no permission to do this.")),
    ((exceptions.NotFound, Http404), "not_found", gettext_lazy("There is nothing at this address.")),
    (exceptions.MethodNotAllowed, "method_not_allowed", gettext_lazy("This address does not take that method.")),
    (exceptions.NotAcceptable, "not_acceptable", gettext_lazy("Answers are JSON: accept application/json.")),
)

User = AbstractBaseUser | AnonymousUser


def scopes_of(user: User) -> list[str]:
    """What the user may do now."""
    assert isinstance(user, PermissionsMixin | AnonymousUser)
    return [scope for scope, permissions in SCOPES.items() if user.has_perms(permissions)]


class StaffTokens(JWTAuthentication):
    """A token is good while its owner is active, is staff and has the same password. What they may do is looked up anew
    for each request: the token's own list is for the client."""

    def get_user(self, validated_token: Token) -> Any:
        user: Any = super().get_user(validated_token)
        if not user.is_staff:
            raise exceptions.AuthenticationFailed
        return user


class HasScope(BasePermission):
    """The scope that `openapi.operation` names for the method: where it names none, nobody has it. A method that the
    view does not have is left to its 405."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user.is_authenticated:
            return False
        if request.method not in view.allowed_methods:
            return True
        handler = getattr(view, str(request.method).lower())
        return getattr(handler, "scope", "") in scopes_of(request.user)


class BoundedJSONParser(JSONParser):
    """Reads no more than a body of JSON may be: the server's own limit is that of a photo."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        body = stream.read(BODY_BYTES + 1)
        if len(body) > BODY_BYTES:
            raise ApiError("payload_too_large", _("The body is too large."), limit_bytes=BODY_BYTES)
        try:
            return json.loads(body, parse_constant=json.strict_constant)
        except (ValueError, RecursionError):
            raise exceptions.ParseError from None


class FormParser(MultiPartParser):
    """A form with a file. The file's own size is judged where it is kept."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return super().parse(stream, media_type, parser_context)
        except (exceptions.ParseError, SuspiciousOperation):  # or more fields, or longer ones, than Django reads
            raise ApiError("invalid_payload", _("The body is not a form with a file.")) from None


class PictureRenderer(BaseRenderer):
    """For negotiation: the view answers with the bytes themselves."""

    media_type, format = "image/*", "image"


class OpenView(APIView):
    """An endpoint of the API that anybody may ask. Nobody keeps its answers."""

    authentication_classes: Sequence[type[BaseAuthentication]] = ()
    permission_classes: Sequence[type[BasePermission]] = ()
    parser_classes: Sequence[type[BaseParser]] = (BoundedJSONParser,)
    http_method_names = ["get", "head", "post", "put", "delete"]

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        if "HTTP_TRANSFER_ENCODING" in request.META:  # sent in chunks: DRF would take it for empty
            request.META.setdefault("CONTENT_LENGTH", str(BODY_BYTES))
        return super().initialize_request(request, *args, **kwargs)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Response:
        response.headers["Cache-Control"] = "no-store"
        return super().finalize_response(request, response, *args, **kwargs)


class StaffView(OpenView):
    """An endpoint for those who have logged in and may do what its methods take."""

    authentication_classes = (StaffTokens,)
    permission_classes = (HasScope,)


# What a request may say, at one level; other fields are refused by name. (Not a docstring: the document would show it.)
class Fields(serializers.Serializer[Any]):
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping) and self.parent is None:
            raise exceptions.ParseError
        if isinstance(data, Mapping) and (unknown := data.keys() - self.fields.keys()):
            raise serializers.ValidationError({name: [unknown_field()] for name in sorted(unknown)})
        return super().to_internal_value(data)


class Text(serializers.CharField):
    """A string, and nothing that could be made one."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Whole(serializers.IntegerField):
    """A whole number, and nothing that could be made one."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class Flag(serializers.BooleanField):
    """True or false, and nothing that could be made one."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class QueryWhole(serializers.IntegerField):
    """A whole number as an address has it: digits, as many as fit into a column."""

    def to_internal_value(self, data: Any) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", data):
            self.fail("invalid")
        return super().to_internal_value(data)


class WrittenFlag(serializers.BooleanField):
    """`true` or `false`, in an address or a form."""

    def to_internal_value(self, data: Any) -> bool:
        if data not in ("true", "false"):
            self.fail("invalid", input=data)
        return bool(data == "true")


class PageQuery(Fields):
    page = QueryWhole(min_value=1, max_value=100_000, default=1)
    page_size = QueryWhole(min_value=1, max_value=100, default=20)


class PageMeta(serializers.Serializer[Any]):
    page = serializers.IntegerField()
    page_size = serializers.IntegerField()
    total = serializers.IntegerField(help_text="Of all pages.")


def asked(request: Request, form: type[Fields] = Fields) -> dict[str, Any]:
    """What stands in the address behind the question mark, each once; what the form does not have is refused."""
    given = form(data=_each_once(request.query_params))
    given.is_valid(raise_exception=True)
    return dict(given.validated_data)


def posted(request: Request, form: type[Fields]) -> dict[str, Any]:
    """The parts of a form with a `file`, each once. No file is malformed, as at the booths' door; other values are
    refused."""
    parts: Any = request.data or QueryDict()  # of no body, DRF makes a dict
    given = form(data=_each_once(parts))
    if not given.is_valid():
        code = "invalid_payload" if "file" in given.errors else "validation_failed"
        raise refused_fields(exceptions.ValidationError(given.errors), code)
    return dict(given.validated_data)


def _each_once(given: QueryDict) -> dict[str, Any]:
    again = {name: [_("Give it once.")] for name, values in given.lists() if len(values) > 1}
    if again:
        raise refused_fields(exceptions.ValidationError(again), "invalid_payload")
    return given.dict()


def page_of(rows: QuerySet[Any, Any], query: Mapping[str, Any], shown: Callable[[Any], Any]) -> dict[str, Any]:
    """The page that `PageQuery` asks for."""
    page, size = query["page"], query["page_size"]
    found = rows[(page - 1) * size : page * size]
    meta = {"page": page, "page_size": size, "total": rows.count()}
    return {"data": [shown(row) for row in found], "meta": meta}


def unknown_field() -> exceptions.ErrorDetail:
    return exceptions.ErrorDetail(_("There is no such field."), code=UNKNOWN)


def by_field(detail: Any, path: str = "") -> Iterator[tuple[str, exceptions.ErrorDetail]]:
    """DRF's nested complaints, each with the dotted name of its field."""
    match detail:
        case dict():
            for name, inner in detail.items():
                is_whole = name == "non_field_errors"  # of the object itself
                yield from by_field(inner, path if is_whole else f"{path}.{name}".lstrip("."))
        case list():
            for inner in detail:
                yield from by_field(inner, path)
        case _:
            yield path, detail


def refused_fields(error: exceptions.ValidationError, code: str = "validation_failed") -> ApiError:
    """Fields that there are not make the request malformed (400), whatever the others are."""
    details: dict[str, list[str]] = {}
    codes = set()
    for name, complaint in by_field(error.detail):
        details.setdefault(name or "body", []).append(str(complaint))
        codes.add(complaint.code)
    is_malformed = UNKNOWN in codes or code == "invalid_payload"
    message = _("Some fields are missing, unknown or not as they must be: see details.")
    refusal = ApiError("invalid_payload" if is_malformed else code, message)
    refusal.details = details
    return refusal


def handled(error: Exception, context: Mapping[str, Any]) -> HttpResponseBase:
    """DRF's exception handler: the envelope for all that a view raises."""
    return from_exception(_as_ours(error, context["view"])).response()


def _as_ours(error: Exception, view: APIView) -> Exception:
    match error:
        case exceptions.ValidationError():
            return refused_fields(error)
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            # One answer for every token that is none: it says nothing about its owner.
            return ApiError("invalid_credentials", _("Log in and send the token as a bearer token."))
        case exceptions.UnsupportedMediaType():
            allowed = view.parser_classes[0].media_type
            message = _("Send it with Content-Type: %(type)s.") % {"type": allowed}
            return ApiError("unsupported_media_type", message, allowed=[allowed])
    known = next(((code, message) for kinds, code, message in ANSWERS if isinstance(error, kinds)), None)
    return ApiError(known[0], str(known[1])) if known else error
