"""What the endpoints of the staff API share (contract §6): permissions, parsers, renderers and the base views.

A resource's views subclass `StaffView` and decorate each method with `operation`, which names its permission.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin
from django.core.exceptions import SuspiciousOperation
from django.db import models
from django.http import HttpRequest
from django.utils.translation import gettext as _
from rest_framework import exceptions
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

from core.errors import ApiError

VERBS = ("view", "add", "change", "delete")
# The Django permissions behind each scope: a user needs all of them. `bootstrap` makes a group for each scope.
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

User = AbstractBaseUser | AnonymousUser


def get_scopes(user: User) -> list[str]:
    """The scopes that the user has now."""
    assert isinstance(user, PermissionsMixin | AnonymousUser)
    return [scope for scope, permissions in SCOPES.items() if user.has_perms(permissions)]


class StaffTokens(JWTAuthentication):
    """Accepts a token while its owner is active, is staff and has the same password. Each request reads the owner's
    permissions from the database: the list in the token is for the client."""

    def get_user(self, validated_token: Token) -> Any:
        user: Any = super().get_user(validated_token)
        if not user.is_staff:
            raise exceptions.AuthenticationFailed
        return user


class HasScope(BasePermission):
    """Requires the scope that `operation` names for the method; without one, everybody is refused. A method that the
    view does not have passes, so that the view responds with 405."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user.is_authenticated:
            return False
        if request.method not in view.allowed_methods:
            return True
        handler = getattr(view, str(request.method).lower())
        return getattr(handler, "scope", "") in get_scopes(request.user)


class BoundedJSONParser(JSONParser):
    """Refuses bodies over `BODY_BYTES`: the server's own limit is that of a photo."""

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
    """A form with a file. The code that stores the file checks its size."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return super().parse(stream, media_type, parser_context)
        except (exceptions.ParseError, SuspiciousOperation):  # the second: too many fields, or too long
            raise ApiError("invalid_payload", _("The body is not a form with a file.")) from None


class PictureRenderer(BaseRenderer):
    """For content negotiation only: the view returns a Django response with the bytes."""

    media_type, format = "image/*", "image"


class OpenView(APIView):
    """An endpoint that needs no login. Responses are never cached."""

    authentication_classes: Sequence[type[BaseAuthentication]] = ()
    permission_classes: Sequence[type[BasePermission]] = ()
    parser_classes: Sequence[type[BaseParser]] = (BoundedJSONParser,)
    http_method_names = ["get", "head", "post", "put", "delete"]

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        if "HTTP_TRANSFER_ENCODING" in request.META:  # a chunked body, which DRF would treat as empty
            request.META.setdefault("CONTENT_LENGTH", str(BODY_BYTES))
        return super().initialize_request(request, *args, **kwargs)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Response:
        response.headers["Cache-Control"] = "no-store"
        return super().finalize_response(request, response, *args, **kwargs)


class StaffView(OpenView):
    """An endpoint that needs a token, whose owner has the scope of the method."""

    authentication_classes = (StaffTokens,)
    permission_classes = (HasScope,)


def log_change(changed: models.Model, flag: int, message: Any, by: Any) -> None:
    """Adds an entry to the object's history in the admin, as a change made there would: who, when and which fields,
    never a value."""
    assert isinstance(by, AbstractBaseUser)
    LogEntry.objects.log_actions(by.pk, [changed], flag, message, single_object=True)
