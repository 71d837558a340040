"""Who may log in, and the response to too many failed logins (contract §6).

django-axes counts failures in the database, for the admin's login page and the API together. `FailedLogins` has the
limits. A browser in which somebody has logged in has a signed device cookie, with which it counts by itself: others can
lock neither its address nor the person's name for it (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta
from functools import reduce
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil
from operator import or_
from typing import Any

from axes.attempts import get_cool_off_threshold
from axes.handlers.database import AxesDatabaseHandler
from axes.helpers import get_client_username, get_cool_off
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Permission
from django.core import signing
from django.db.models import Max, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _

from core.errors import ApiError

# Failures within AXES_COOLOFF_TIME after which there is no further attempt. Names are public and an address may be a
# whole office's, so the common limit is of a name at an address (AXES_FAILURE_LIMIT).
ADDRESS_LIMIT = 50  # of all names: guessing one password for many names
NAME_LIMIT = 100  # from all addresses: 29,000 guesses a day for a whole botnet

DEVICE_COOKIE = "device"
DEVICE_SALT = "staff.login.device"
DEVICE_COOKIE_SECONDS = 180 * 24 * 3600  # who has not logged in for half a year counts as new

Limit = tuple[Q, int]  # the failures that count, and how many there may be


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


class FailedLogins(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    """The limits of failed logins."""

    def get_failures(self, request: HttpRequest, credentials: Any = None) -> int:
        """On the scale of AXES_FAILURE_LIMIT, of the limit that is closest."""
        counted = _count_failures(request, credentials)
        return max(count * settings.AXES_FAILURE_LIMIT // limit for (_, limit), count in counted)

    def user_login_failed(self, sender: Any, credentials: Any, request: Any = None, **more: Any) -> None:
        if request is not None and (device := _get_device(request, get_client_username(request, credentials))):
            request.axes_user_agent = device  # the row's key, beside name and address
        super().user_login_failed(sender, credentials, request, **more)

    def user_logged_in(self, sender: Any, request: Any, user: Any, **more: Any) -> None:
        super().user_logged_in(sender, request, user, **more)
        if SESSION_KEY in request.session:  # not for a token: programs keep no cookies
            value = [user.get_username(), secrets.token_urlsafe(16)]
            request.new_device_cookie = signing.dumps(value, salt=DEVICE_SALT)


class DeviceCookieMiddleware:
    """Sends the device cookie with the response to a login."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if cookie := getattr(request, "new_device_cookie", None):
            response.set_cookie(
                DEVICE_COOKIE,
                cookie,
                max_age=DEVICE_COOKIE_SECONDS,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Strict",
            )
        return response


def get_client_network(request: HttpRequest) -> str | None:
    """The client's address as the server gives it (TRUSTED_PROXIES), whatever headers say; of IPv6 the /64, which is
    what one client has. None: a Unix socket."""
    try:
        address = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return None
    if not isinstance(address, IPv6Address):
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False).network_address)


def _get_device(request: HttpRequest, username: str) -> str:
    """The browser's device, if this user has logged in there before; empty: none."""
    try:
        owner, device = signing.loads(
            request.COOKIES.get(DEVICE_COOKIE, ""), salt=DEVICE_SALT, max_age=DEVICE_COOKIE_SECONDS
        )
    except signing.BadSignature:
        return ""
    return f"device {device}" if owner == username else ""


def _count_failures(request: HttpRequest, credentials: Any) -> list[tuple[Limit, int]]:
    """How much of each limit is used up."""
    limits = _list_limits(request, credentials)
    sums = {
        f"limit_{number}": Sum("failures_since_start", filter=matching) for number, (matching, _) in enumerate(limits)
    }
    counts = _list_recent(request).aggregate(**sums)
    return [(limit, counts[name] or 0) for limit, name in zip(limits, sums, strict=True)]


def _list_limits(request: HttpRequest, credentials: Any) -> list[Limit]:
    username = get_client_username(request, credentials)
    address = request.axes_ip_address  # type: ignore[attr-defined]
    if device := _get_device(request, username):
        return [(Q(username=username, user_agent=device), settings.AXES_FAILURE_LIMIT)]
    return [
        (Q(username=username, ip_address=address), settings.AXES_FAILURE_LIMIT),
        (Q(ip_address=address), ADDRESS_LIMIT),
        (Q(username=username), NAME_LIMIT),
    ]


def _list_recent(request: HttpRequest) -> QuerySet[Any]:
    recent: QuerySet[Any] = AccessAttempt.objects.filter(attempt_time__gte=get_cool_off_threshold(request))
    return recent


def make_lockout_response(request: HttpRequest, *_args: object) -> HttpResponse:
    """The 429 after too many failures."""
    message = _("Too many failed logins with this name or from this address. Try again in a few minutes.")
    return respond_to_login(request, ApiError("rate_limited", message, retry_after=_seconds_until_unlocked(request)))


def respond_to_login(request: HttpRequest, refusal: ApiError) -> HttpResponse:
    """The refusal of a login: a page under /admin/, the error envelope elsewhere."""
    if not request.path.startswith("/admin/"):
        return refusal.response()
    context = {**admin.site.each_context(request), "title": _("Not now"), "message": refusal.message}
    page = render(request, "admin/locked_out.html", context, status=refusal.status)
    for name, value in {"Cache-Control": "no-store", **refusal.headers}.items():
        page.headers[name] = value
    return page


def _seconds_until_unlocked(request: HttpRequest) -> int:
    """Until the latest failure of a used-up limit expires, and with it all the others."""
    counted = _count_failures(request, request.axes_credentials)  # type: ignore[attr-defined]
    used_up = reduce(or_, (matching for (matching, limit), count in counted if count >= limit), Q(pk__in=[]))
    latest = _list_recent(request).filter(used_up).aggregate(latest=Max("attempt_time"))["latest"] or timezone.now()
    left: timedelta = latest + get_cool_off(request) - timezone.now()
    return max(1, ceil(left.total_seconds()))
