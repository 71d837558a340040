"""Staff users, their clients for the admin, and what a page of the admin says."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
from django.contrib.auth.models import Permission, User
from django.test import Client

PASSWORD = "correct horse battery"


def make_staff_user(*permissions: str, superuser: bool = False) -> User:
    """A member of staff with these permissions, such as "jobs.view_job"."""
    user = User.objects.create_user(f"staff-{User.objects.count()}", password=PASSWORD, is_staff=True)
    user.is_superuser = superuser
    user.save()
    for permission in permissions:
        app, codename = permission.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return user


def browser(*permissions: str, superuser: bool = False) -> Client:
    """A client that is logged in as such a user."""
    client = Client()
    client.force_login(make_staff_user(*permissions, superuser=superuser))
    return client


def log_in(web: httpx.Client, user: User) -> None:
    """Through the real login page."""
    web.get("/admin/login/")
    response = post(web, "/admin/login/", {"username": user.username, "password": PASSWORD, "next": "/admin/"})
    assert response.status_code == 302


def post(web: httpx.Client, path: str, data: dict[str, Any]) -> httpx.Response:
    return web.post(path, data=data | {"csrfmiddlewaretoken": web.cookies["csrftoken"]})


def post_versioned(client: Client, page: str, data: dict[str, Any], **more: Any) -> Any:
    """Posts the page's form as a browser does that has just opened it."""
    return client.post(page, data | read_version(client.get(page)), **more)


def read_version(page: Any) -> dict[str, str]:
    """The hidden field that says which version of its object the page shows."""
    found = re.search(r'name="version" value="([^"]*)"', page.content.decode())
    return {"version": unescape(found[1])} if found else {}


def text_of(response: Any) -> str:
    """The page's text, without tags."""
    page = re.sub(r"<(script|style).*?</\1>", "", response.content.decode(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def errors_of(response: Any) -> dict[str, list[str]]:
    """The form's errors, by field."""
    errors: dict[str, list[str]] = response.context["adminform"].form.errors
    return {field: list(sentences) for field, sentences in errors.items()}
