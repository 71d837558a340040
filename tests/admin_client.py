"""Staff at the admin's door, and what they see there."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
from django.contrib.auth.models import Permission, User
from django.test import Client

PASSWORD = "correct horse battery"


def person(*permissions: str, superuser: bool = False) -> User:
    """A member of staff who may do what the permissions ("jobs.view_job") say."""
    user = User.objects.create_user(f"staff-{User.objects.count()}", password=PASSWORD, is_staff=True)
    user.is_superuser = superuser
    user.save()
    for permission in permissions:
        app, codename = permission.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return user


def browser(*permissions: str, superuser: bool = False) -> Client:
    """A logged-in browser of theirs."""
    client = Client()
    client.force_login(person(*permissions, superuser=superuser))
    return client


def log_in(web: httpx.Client, user: User) -> None:
    """Through the real login page."""
    web.get("/admin/login/")
    answer = post(web, "/admin/login/", {"username": user.username, "password": PASSWORD, "next": "/admin/"})
    assert answer.status_code == 302


def post(web: httpx.Client, path: str, data: dict[str, Any]) -> httpx.Response:
    return web.post(path, data=data | {"csrfmiddlewaretoken": web.cookies["csrftoken"]})


def text_of(response: Any) -> str:
    """The page's words, without its tags."""
    page = re.sub(r"<(script|style).*?</\1>", "", response.content.decode(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def errors_of(response: Any) -> dict[str, list[str]]:
    """What the form complains about, by field."""
    errors: dict[str, list[str]] = response.context["adminform"].form.errors
    return {field: list(sentences) for field, sentences in errors.items()}
