"""`POST /api/login`: a token in exchange for name and password (contract §6)."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.signals import user_logged_in
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework_simplejwt.tokens import AccessToken

from core.errors import ApiError
from staff.api.base import OpenView, get_scopes
from staff.api.operation import operation
from staff.api.serializers import StrictCharField, StrictSerializer


class Credentials(StrictSerializer):
    refusal_code = "invalid_payload"  # a 400 like any malformed login: there are no rules to explain

    username = StrictCharField(max_length=150, trim_whitespace=False)  # the length of Django's column
    password = StrictCharField(max_length=128, trim_whitespace=False)


class TokenAnswer(serializers.Serializer[Any]):
    access_token = serializers.CharField(help_text="A JWT with `sub`, `permissions` and `exp`.")
    token_type = serializers.ChoiceField(["bearer"])
    expires_in_sec = serializers.IntegerField()


class LogInView(OpenView):
    @operation(
        "logIn",
        "Name and password for a token",
        tag="login",
        about="Good for `expires_in_sec`, and while its owner is staff with this password. Guesses are limited.",
        body=Credentials,
        request_examples={"A member of staff": {"username": "serg", "password": "correct horse battery"}},
        response=TokenAnswer,
        example={"access_token": "eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "token_type": "bearer", "expires_in_sec": 3600},
        refusals=("invalid_credentials", "rate_limited"),
    )
    def post(self, request: Request, body: dict[str, Any]) -> Response:
        username = get_user_model().normalize_username(body["username"])  # as the admin's login page does
        user = authenticate(request._request, username=username, password=body["password"])  # noqa: SLF001 - axes marks this one
        if user is None:
            raise ApiError("invalid_credentials", _("User name or password is wrong."))
        user_logged_in.send(sender=type(user), request=request._request, user=user)  # noqa: SLF001
        token = AccessToken.for_user(user)
        token["permissions"] = get_scopes(user)
        return Response({"access_token": str(token), "token_type": "bearer", "expires_in_sec": settings.TOKEN_SECONDS})
