"""The admin's page of the settings for all booths: the waiting time and the ingest password."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.hashers import check_password
from django.contrib.sessions.models import Session
from django.db.models.signals import pre_save
from django.test import Client
from django.urls import reverse

from ingest.models import IngestSettings
from ingest.password import rotate
from tests.admin_client import browser, errors_of, make_staff_user, read_version, text_of
from tests.conftest import PASSWORD, Booth, in_background, jpeg, use_sandbox
from tests.sandbox.server import Sandbox

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]

PAGE = reverse("admin:ingest_ingestsettings_change", args=[1])
NEW = "cheese at eight"


@pytest.fixture
def admin() -> Client:
    return browser(superuser=True)


def save(client: Client, **fields: str) -> Any:
    page = {"sync_response_seconds": "48", "new_password": ""} | read_version(client.get(PAGE))
    return client.post(PAGE, page | fields)


def is_password(value: str) -> bool:
    return check_password(value, IngestSettings.objects.get().password_hash)


def read_generated_password(answer: Any) -> str:
    content: str = answer.content.decode()
    return content.partition('<code class="secret">')[2].partition("<")[0]


def test_its_list_is_its_one_page(admin: Client) -> None:
    assert admin.get(reverse("admin:ingest_ingestsettings_changelist")).headers["Location"] == PAGE
    assert admin.get(reverse("admin:ingest_ingestsettings_add")).status_code == 403
    assert admin.post(reverse("admin:ingest_ingestsettings_delete", args=[1]), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("seconds", ["10", "60"])
def test_the_waiting_time_is_set_and_the_password_stays(admin: Client, seconds: str) -> None:
    assert save(admin, sync_response_seconds=seconds).status_code == 302
    assert IngestSettings.objects.get().sync_response_seconds == int(seconds)
    assert is_password(PASSWORD)
    assert IngestSettings.objects.get().password_updated_at is None


@pytest.mark.parametrize("seconds", ["9", "61", "", "48.5", "-48"])
def test_a_waiting_time_out_of_range_is_refused(admin: Client, seconds: str) -> None:
    assert list(errors_of(save(admin, sync_response_seconds=seconds))) == ["sync_response_seconds"]
    assert IngestSettings.objects.get().sync_response_seconds == 48


def test_a_typed_password_holds_and_says_who_and_when() -> None:
    staff = make_staff_user("ingest.change_ingestsettings")
    client = Client()
    client.force_login(staff)
    assert save(client, new_password=NEW).status_code == 302
    assert is_password(NEW)
    row = IngestSettings.objects.get()
    assert row.password_updated_by == staff
    assert row.password_updated_at is not None
    page = text_of(client.get(PAGE))
    assert f"Password changed by: {staff.username}" in page
    assert NEW not in page


def test_a_generated_password_is_in_one_answer_and_nowhere_else(admin: Client, caplog: Any) -> None:
    answer = save(admin, generate="on")
    plain = read_generated_password(answer)
    assert len(plain) == 16
    assert is_password(plain)
    assert "no-store" in answer.headers["Cache-Control"]
    later = [text_of(admin.get(address)) for address in (PAGE, reverse("admin:index"))]
    kept = [entry.change_message + entry.object_repr for entry in LogEntry.objects.all()]
    kept += [str(session.get_decoded()) for session in Session.objects.all()]
    kept += [cookie.value for cookie in admin.cookies.values()]
    kept += [*map(str, IngestSettings.objects.values_list()), caplog.text, str(answer.headers)]
    assert not [text for text in later + kept if plain in text]
    assert LogEntry.objects.get().get_change_message() == "Changed Generate a password."


def test_the_log_names_the_change_and_not_the_password(admin: Client) -> None:
    save(admin, new_password=NEW, sync_response_seconds="30")
    message = LogEntry.objects.get().get_change_message()
    assert message == "Changed A booth waits at most, seconds and New password."


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"new_password": "0xbeef"}, "new_password"),
        ({"new_password": "password123"}, "new_password"),
        ({"new_password": f" {NEW}"}, "new_password"),
        ({"new_password": "x" * 129}, "new_password"),
        ({"new_password": NEW, "generate": "on"}, "generate"),
    ],
)
def test_what_is_no_password_is_refused_and_not_sent_back(admin: Client, fields: dict[str, str], at_fault: str) -> None:
    answer = save(admin, **fields)
    assert list(errors_of(answer)) == [at_fault]
    assert fields["new_password"] not in answer.content.decode()
    assert is_password(PASSWORD)


def test_saving_the_page_does_not_undo_a_rotation_meanwhile(admin: Client) -> None:
    def someone_else(**_: object) -> None:
        rotate(NEW)

    pre_save.connect(someone_else, sender=IngestSettings)
    try:
        save(admin, sync_response_seconds="20")
    finally:
        pre_save.disconnect(someone_else, sender=IngestSettings)
    assert is_password(NEW)
    assert IngestSettings.objects.get().sync_response_seconds == 20


def test_who_may_only_look_sees_no_field_and_changes_nothing() -> None:
    viewer = browser("ingest.view_ingestsettings")
    assert "New password" not in text_of(viewer.get(PAGE))
    assert save(viewer, new_password=NEW).status_code == 403
    assert is_password(PASSWORD)
    assert browser("slots.view_slot").get(PAGE).status_code == 403


def test_the_hash_is_on_no_page(admin: Client) -> None:
    encoded = IngestSettings.objects.get().password_hash
    for client in (admin, browser("ingest.view_ingestsettings")):
        assert encoded not in client.get(PAGE).content.decode()


@pytest.mark.e2e
def test_a_rotation_cuts_off_no_photo_and_holds_for_the_next(admin: Client, booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    wait = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1)
    plain = read_generated_password(save(admin, generate="on"))
    sandbox.let_go()
    assert wait().status == 200
    assert booth.post(jpeg()).status == 401
    assert booth.post(jpeg(), password=plain).status == 200
