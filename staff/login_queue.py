"""Logins wait for their turn before they take anything else: a hash takes half a second, and whoever posted a hundred
logins would have all threads and all database connections meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from django.utils.translation import gettext as _

from core.errors import ApiError
from core.passwords import RETRY_SECONDS, HashingBusy, hashing_turn
from staff.login import respond_to_login


class LoginQueueMiddleware:
    """The last one: those before it ask the database nothing on behalf of a stranger."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        self.paths = {reverse("login"), reverse("admin:login")}

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.method != "POST" or request.path not in self.paths:
            return self.get_response(request)
        try:
            with hashing_turn(f"login {request.META.get('REMOTE_ADDR')}"):
                return self.get_response(request)
        except HashingBusy:
            message = _("Too many people are logging in at once. Try again in a few seconds.")
            return respond_to_login(request, ApiError("rate_limited", message, retry_after=RETRY_SECONDS))
