"""Several people change one object at once, in the admin and by the API: nobody's change is lost unnoticed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse

from ingest.models import IngestSettings
from slots.models import Slot, TemplateBinding
from tests.admin_client import browser, make_staff_user, read_version, text_of
from tests.api import Api, make_api
from tests.conftest import in_background
from tests.photoslot.waiting import until
from tests.slots.factories import image
from tests.slots.form_data import change_url, settings
from tests.staff.api.test_slot import SEPIA, SLOT, count_lock_waits

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("database")]

NO_IMAGES = {"bindings-TOTAL_FORMS": 0, "bindings-INITIAL_FORMS": 0}


@pytest.fixture
def admin() -> Client:
    return browser(superuser=True)


@pytest.fixture
def api() -> Api:
    return make_api("slots:write")


def open_page(client: Client, url: str) -> dict[str, str]:
    return read_version(client.get(url))


def open_slot(client: Client, **changes: Any) -> dict[str, Any]:
    """What saving the page will post: the slot as it is now, and these changes."""
    slot = Slot.objects.get(pk="slot-001")
    values = {"name": slot.name, "is_active": "on", "recipe": "studio/image_edit"} | NO_IMAGES
    return values | settings(**slot.settings_json) | changes | open_page(client, change_url())


def test_of_two_open_pages_the_second_to_save_is_told_what_the_first_one_changed(admin: Client) -> None:
    other = browser(superuser=True)
    mine, theirs = open_slot(admin, name="Mine"), open_slot(other, name="Theirs", **settings(look="sepia"))
    assert other.post(change_url(), theirs).status_code == 302
    answer = admin.post(change_url(), mine)
    assert answer.status_code == 200
    page = text_of(answer)
    assert "Nothing is saved yet" in page
    assert re.search(r"staff-1, \d{4}-\S+ \S+: Changed Name and Look\.", page), page
    assert 'value="Mine"' in answer.content.decode()  # what was typed is still there
    assert Slot.objects.get(pk="slot-001").name == "Theirs"
    assert admin.post(change_url(), mine | read_version(answer)).status_code == 302  # now they know
    assert Slot.objects.get(pk="slot-001").name == "Mine"


def test_a_page_that_nobody_else_changed_is_saved_and_saved_again(admin: Client) -> None:
    for name in ("First", "Second"):
        assert admin.post(change_url(), open_slot(admin, name=name)).status_code == 302
        assert LogEntry.objects.latest("pk").get_change_message() == "Changed Name."


def test_a_page_that_does_not_say_what_it_shows_saves_nothing(admin: Client) -> None:
    for version in ({}, {"version": "x"}, {"version": "2026-11-29T12:00:00+00:00 "}):
        form = open_slot(admin, name="Mine")
        del form["version"]
        assert "Nothing is saved yet" in text_of(admin.post(change_url(), form | version))


@pytest.mark.parametrize("change", ["api", "archived", "image"])
def test_a_page_does_not_undo_what_the_api_has_done(admin: Client, api: Api, change: str) -> None:
    media = image()
    binding = TemplateBinding.objects.create(slot_id="slot-001", setting_key="mood", media=media)
    row = {"bindings-0-id": binding.pk, "bindings-0-setting_key": "mood", "bindings-0-media": media.pk}
    totals = {"bindings-TOTAL_FORMS": 1, "bindings-INITIAL_FORMS": 1}
    form = open_slot(admin) | row | totals | {"bindings-0-slot": "slot-001"}
    changing: dict[str, Callable[[], Any]] = {
        "api": lambda: api("put", SLOT, SEPIA, headers={"If-Match": "*"}),
        "archived": lambda: api("delete", SLOT, headers={"If-Match": "*"}),
        "image": lambda: TemplateBinding.objects.update(media=image("Other")),
    }
    changing[change]()
    now = Slot.objects.filter(pk="slot-001").values().get(), TemplateBinding.objects.values().get()
    page = text_of(admin.post(change_url(), form))
    assert "Nothing is saved yet" in page
    assert ("Changed archived_at." in page) == (change == "archived")
    assert now == (Slot.objects.filter(pk="slot-001").values().get(), TemplateBinding.objects.values().get())


def save_while(client: Client, url: str, form: dict[str, Any], write: Callable[[], Any]) -> Any:
    """Another connection has written, and commits once the save has read all that it reads before it must wait."""

    def save() -> Any:
        answer = client.post(url, form)
        connection.close()
        return answer

    with transaction.atomic():
        write()
        wait = in_background(save)
        until(lambda: count_lock_waits() == 1)
    return wait()


def test_a_slot_that_is_archived_while_its_page_is_saved_stays_archived(admin: Client) -> None:
    archive = Slot.objects.filter(pk="slot-001").archive
    answer = save_while(admin, change_url(), open_slot(admin, name="Mine"), archive)
    assert Slot.objects.get(pk="slot-001").archived_at is not None
    assert "Nothing is saved yet" in text_of(answer)


def test_a_user_keeps_the_password_that_is_set_while_their_page_is_saved(admin: Client) -> None:
    user = make_staff_user()
    url = reverse("admin:auth_user_change", args=[user.pk])
    joined = {"date_joined_0": "2026-11-29", "date_joined_1": "12:00:00"}
    form = {"username": user.username, "is_active": "on"} | joined | open_page(admin, url)
    rows = User.objects.filter(pk=user.pk)
    answer = save_while(admin, url, form, lambda: rows.update(password="new"))
    assert rows.get().password == "new"
    assert "Nothing is saved yet" in text_of(answer)
    rows.update(last_login="2026-11-29T12:00:00Z")  # logging in changes nothing that the page is about
    assert admin.post(url, form | read_version(answer)).status_code == 302


def test_a_user_who_is_switched_off_while_their_password_is_set_stays_so(admin: Client) -> None:
    user = make_staff_user()
    url = reverse("admin:auth_user_password_change", args=[user.pk])
    form = {"password1": "cheese at eight", "password2": "cheese at eight", "usable_password": "true"}
    rows = User.objects.filter(pk=user.pk)
    assert save_while(admin, url, form, lambda: rows.update(is_active=False)).status_code == 302
    changed = rows.get()
    assert (changed.is_active, changed.check_password("cheese at eight")) == (False, True)


@pytest.mark.parametrize("kind", ["settings", "group", "image"])
def test_the_other_pages_refuse_what_was_changed_meanwhile_too(admin: Client, kind: str) -> None:
    group, media = Group.objects.create(name="Evening"), image()
    pages: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
        "settings": (
            reverse("admin:ingest_ingestsettings_change", args=[1]),
            {"sync_response_seconds": "30", "new_password": ""},
            lambda: IngestSettings.objects.update(sync_response_seconds=20),
        ),
        "group": (
            reverse("admin:auth_group_change", args=[group.pk]),
            {"name": "Night"},
            lambda: group.permissions.set([1]),
        ),
        "image": (
            reverse("admin:slots_templatemedia_change", args=[media.pk]),
            {"label": "Mine"},
            lambda: type(media).objects.update(label="Theirs"),
        ),
    }
    url, form, change = pages[kind]
    opened = open_page(admin, url)
    change()
    answer = admin.post(url, form | opened)
    assert "Nothing is saved yet" in text_of(answer)
    assert admin.post(url, form | read_version(answer)).status_code == 302
