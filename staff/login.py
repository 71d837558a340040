"""Who may log in, and the response to too many failed logins (contract §6).

django-axes counts failures in the database, by user name and by address, for the admin's login page and the API
together.
"""

from __future__ import annotations

from datetime import timedelta
from math import ceil
from typing import Any

from axes.helpers import get_client_username, get_cool_off
from axes.models import AccessAttempt
from django.contrib import admin
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Permission
from django.db.models import Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _

from core.errors import ApiError


class StaffBackend(ModelBackend):
    """Only staff may log in. Others are refused as for a wrong password, after hashing it all the same."""

    def user_can_authenticate(self, user: Any) -> bool:
        return super().user_can_authenticate(user) and user.is_staff

    def get_all_permissions(self, user_obj: Any, obj: Any = None) -> set[str]:
        """The user's own permissions and their groups' in one query: every request to the API starts with it."""
        if obj is not None or not user_obj.is_active or user_obj.is_superuser:
            return super().get_all_permissions(user_obj, obj)
        if not hasattr(user_obj, "permission_cache"):  # for the life of the user object, like Django's cache
            names = Permission.objects.order_by().values_list("content_type__app_label", "codename")
            both = names.filter(user=user_obj).union(names.filter(group__user=user_obj))
            user_obj.permission_cache = {f"{app}.{codename}" for app, codename in both}
        cached: set[str] = user_obj.permission_cache
        return cached


def make_lockout_response(request: HttpRequest, *_args: object) -> HttpResponse:
    """The 429 after too many failures: a page under /admin/, the error envelope elsewhere."""
    message = _("Too many failed logins with this name or from this address. Try again in a few minutes.")
    refusal = ApiError("rate_limited", message, retry_after=_seconds_until_unlocked(request))
    if not request.path.startswith("/admin/"):
        return refusal.response()
    context = {**admin.site.each_context(request), "title": _("Not now"), "message": message}
    page = render(request, "admin/locked_out.html", context, status=refusal.status)
    for name, value in {"Cache-Control": "no-store", **refusal.headers}.items():
        page.headers[name] = value
    return page


def _seconds_until_unlocked(request: HttpRequest) -> int:
    """Until the latest failure expires, and with it all the others."""
    credentials = request.axes_credentials  # type: ignore[attr-defined]
    address = request.axes_ip_address  # type: ignore[attr-defined]
    username = get_client_username(request, credentials)
    attempts = AccessAttempt.objects.filter(Q(username=username) | Q(ip_address=address))
    latest = attempts.aggregate(latest=Max("attempt_time"))["latest"] or timezone.now()
    left: timedelta = latest + get_cool_off(request) - timezone.now()
    return max(1, ceil(left.total_seconds()))
