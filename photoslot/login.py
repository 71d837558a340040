"""Logging in: who may, tokens for the API, and what those get who guess. (contract §6)

Guesses are counted by django-axes in the database, at the admin's page and here together, by name and by address.
"""

from __future__ import annotations

from datetime import timedelta
from math import ceil
from typing import Any

from axes.helpers import get_client_username, get_cool_off
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Permission
from django.contrib.auth.signals import user_logged_in
from django.db.models import Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework_simplejwt.tokens import AccessToken

from photoslot.api import Fields, OpenView, Text, asked, refused_fields, scopes_of
from photoslot.errors import ApiError
from photoslot.openapi import BODY_REFUSALS, OPEN_REFUSALS, operation


class StaffBackend(ModelBackend):
    """Only staff have something to log in to. Others are refused like a wrong password, and after the same work."""

    def user_can_authenticate(self, user: Any) -> bool:
        return super().user_can_authenticate(user) and user.is_staff

    def get_all_permissions(self, user_obj: Any, obj: Any = None) -> set[str]:
        """One's own and those of one's groups in one query, which each request of the API begins with."""
        if obj is not None or not user_obj.is_active or user_obj.is_superuser:
            return super().get_all_permissions(user_obj, obj)
        if not hasattr(user_obj, "known_permissions"):  # as Django's own: for the life of the user's object
            names = Permission.objects.order_by().values_list("content_type__app_label", "codename")
            both = names.filter(user=user_obj).union(names.filter(group__user=user_obj))
            user_obj.known_permissions = {f"{app}.{codename}" for app, codename in both}
        known: set[str] = user_obj.known_permissions
        return known


class Credentials(Fields):
    username = Text(max_length=150, trim_whitespace=False)  # as long as names may be
    password = Text(max_length=128, trim_whitespace=False)


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
        request=Credentials,
        request_examples={"A member of staff": {"username": "serg", "password": "correct horse battery"}},
        answer=TokenAnswer,
        example={"access_token": "eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "token_type": "bearer", "expires_in_sec": 3600},
        refusals=(*BODY_REFUSALS, "invalid_credentials", "rate_limited", *OPEN_REFUSALS),
    )
    def post(self, request: Request) -> Response:
        asked(request)
        user = authenticate(request._request, **_credentials(request.data))  # noqa: SLF001 - what axes marks
        if user is None:
            raise ApiError("invalid_credentials", _("User name or password is wrong."))
        user_logged_in.send(sender=type(user), request=request._request, user=user)  # noqa: SLF001
        token = AccessToken.for_user(user)
        token["permissions"] = scopes_of(user)
        return Response({"access_token": str(token), "token_type": "bearer", "expires_in_sec": settings.TOKEN_SECONDS})


def _credentials(data: Any) -> dict[str, str]:
    """Whatever is wrong with them is a 400: there is no rule about them that could be told."""
    form = Credentials(data=data)
    try:
        form.is_valid(raise_exception=True)
    except ValidationError as error:
        raise refused_fields(error, "invalid_payload") from None
    username = get_user_model().normalize_username(form.validated_data["username"])  # as the admin's page does
    return {"username": username, "password": form.validated_data["password"]}


def locked_out(request: HttpRequest, *_args: object) -> HttpResponse:
    """The answer to whoever has guessed too often: the envelope, or a page for people."""
    message = _("Too many failed logins with this name or from this address. Try again in a few minutes.")
    refusal = ApiError("rate_limited", message, retry_after=_seconds_left(request))
    if not request.path.startswith("/admin/"):
        return refusal.response()
    context = {**admin.site.each_context(request), "title": _("Not now"), "message": message}
    page = render(request, "admin/locked_out.html", context, status=refusal.status)
    for name, value in {"Cache-Control": "no-store", **refusal.headers}.items():
        page.headers[name] = value
    return page


def _seconds_left(request: HttpRequest) -> int:
    """Until the latest of the failures is forgotten: then none is left."""
    credentials = request.axes_credentials  # type: ignore[attr-defined]
    address = request.axes_ip_address  # type: ignore[attr-defined]
    username = get_client_username(request, credentials)
    attempts = AccessAttempt.objects.filter(Q(username=username) | Q(ip_address=address))
    latest = attempts.aggregate(latest=Max("attempt_time"))["latest"] or timezone.now()
    left: timedelta = latest + get_cool_off(request) - timezone.now()
    return max(1, ceil(left.total_seconds()))
