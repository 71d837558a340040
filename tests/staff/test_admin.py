"""The admin site as a whole: who may log in, its languages, and that it shows no secret."""

from __future__ import annotations

import httpx
import pytest
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tests.admin_client import browser, log_in, make_staff_user, text_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]

INDEX = reverse("admin:index")
SECRET = "pbkdf2_sha256$1000000$saltsalt$" + "h" * 43 + "="


def test_the_index_lists_the_models() -> None:
    page = text_of(browser(superuser=True).get(INDEX))
    assert page.startswith("Photo booths | photoslot")
    for words in (
        "Slots",
        "Template images",
        "Jobs",
        "Processing log",
        "Booth settings",
        "Users",
        "Purges",
        "Processes",
    ):
        assert words in page


def test_staff_see_what_they_may_view_and_others_the_login_page() -> None:
    page = text_of(browser("jobs.view_job").get(INDEX))
    assert "Jobs" in page
    assert "Users" not in page
    guest = User.objects.create_user("guest", password="x")
    client = Client()
    client.force_login(guest)
    assert client.get(INDEX).status_code == 302


def test_the_admin_speaks_the_readers_language() -> None:
    page = browser(superuser=True).get(INDEX, headers={"accept-language": "ru"}).content.decode()
    assert '<html lang="ru"' in page
    assert "Изменить пароль" in page


@pytest.mark.parametrize("viewer", [False, True])
def test_no_part_of_a_password_hash_is_shown(viewer: bool) -> None:
    other = make_staff_user()
    User.objects.filter(pk=other.pk).update(password=SECRET)
    client = browser("auth.view_user") if viewer else browser(superuser=True)
    page = client.get(reverse("admin:auth_user_change", args=[other.pk])).content.decode()
    assert "Stored as a hash only." in page
    assert not [part for part in ("pbkdf2", "salts", "hhhhh", make_password("x")[:4]) if part in page]


@pytest.mark.e2e
def test_the_real_server_logs_staff_in_and_serves_style_sheets(web: httpx.Client) -> None:
    log_in(web, make_staff_user(superuser=True))
    assert "Photo booths" in web.get(INDEX).text
