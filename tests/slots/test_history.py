"""The history of slots: `/api/slots/{slot_id}/history`, and the same on a slot's page in the admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, transaction
from django.test import Client
from django.test.client import MULTIPART_CONTENT
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from slots.models import Slot, SlotChange, TemplateBinding
from tests.admin_client import browser, make_staff_user, text_of
from tests.api import Api, check_refusal, get_token, make_api
from tests.conftest import in_background, jpeg, set_slot
from tests.photoslot.waiting import until
from tests.plans import assert_uses_index
from tests.slots.factories import image
from tests.slots.form_data import ADD, change_url, settings, slot_page

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

SLOT = "/api/slots/slot-001"
SLOT_DATA = {"name": "Old", "provider_id": "studio", "operation_id": "image_edit", "settings_json": {"look": "sepia"}}
BEFORE = {"name": "Black and white film", "settings_json": {"look": "black_and_white"}}
LIST = reverse("admin:slots_slot_changelist")
PAGE = reverse("admin:slots_slot_history", args=["slot-001"])
# Two hundred changes of each of a hundred slots.
MANY = """
INSERT INTO slots_slotchange (slot_id, at, username, before, after)
SELECT 'slot-' || lpad((n % 100)::text, 3, '0'), now(), 'staff-0', jsonb_build_object('name', n),
    jsonb_build_object('name', n + 1)
FROM generate_series(1, 20000) AS n
"""


@pytest.fixture
def api() -> Api:
    return make_api("slots:write")


@pytest.fixture
def staff() -> Client:
    """The browser of staff-0."""
    return browser(superuser=True)


def history(slot_id: str = "slot-001", **query: Any) -> list[dict[str, Any]]:
    """As another API client reads it, without the entry of the slot's creation."""
    query_string = "&".join(f"{name}={value}" for name, value in ({"page_size": 100} | query).items())
    answer = reader()("get", f"/api/slots/{slot_id}/history?{query_string}")
    assert answer.status_code == 200, answer.content
    return [entry for entry in answer.json()["data"] if entry["action"] == "changed"]


def reader() -> Api:
    if not User.objects.filter(username="reader").exists():
        User.objects.filter(pk=make_staff_user(superuser=True).pk).update(username="reader")
    return Api(get_token("reader"))


def list_changes(slot_id: str = "slot-001") -> list[tuple[str | None, dict[str, tuple[Any, Any]]]]:
    """User and changes of each entry."""
    return [
        (entry["user"], {each["field"]: (each["from"], each["to"]) for each in entry["changes"]})
        for entry in history(slot_id)
    ]


def put(api: Api, **more: Any) -> Any:
    answer = api("put", SLOT, SLOT_DATA | more, headers={"If-Match": "*"})
    assert answer.status_code == 200, answer.content
    return answer


def register(api: Api, **more: Any) -> str:
    form = {"file": SimpleUploadedFile("x.jpg", jpeg()), "slot_id": "slot-001", "setting_key": "mood"} | more
    answer = api("post", "/api/template-media/register", form, content_type=MULTIPART_CONTENT)
    assert answer.status_code == 201, answer.content
    media_id: str = answer.json()["id"]
    return media_id


def act(staff: Client, action: str) -> None:
    staff.post(f"{LIST}?archived=all", {"action": action, "_selected_action": ["slot-001"]})


def test_it_is_written_wherever_a_session_looks_for_tables() -> None:
    """One of `pg_restore`, for instance, names the schema of each."""
    media = image()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL search_path = ''")
        cursor.execute("UPDATE public.slots_slot SET name = 'Old' WHERE id = 'slot-001'")
        cursor.execute(
            "INSERT INTO public.slots_templatebinding (slot_id, setting_key, media_id) VALUES ('slot-001', 'mood', %s)",
            [media.pk],
        )
    assert list_changes() == [
        (None, {"template_media.mood": (None, str(media.pk))}),
        (None, {"name": (BEFORE["name"], "Old")}),
    ]


def test_a_slot_begins_with_what_it_is(api: Api) -> None:
    entry = api("get", "/api/slots/slot-005/history").json()["data"][0]
    assert entry.keys() == {"id", "at", "user", "action", "changes"}
    assert (entry["action"], entry["user"]) == ("created", None)
    assert entry["changes"] == [
        {"field": "is_active", "from": None, "to": True},
        {"field": "name", "from": None, "to": "Faded film"},
        {"field": "operation_id", "from": None, "to": "image_edit"},
        {"field": "provider_id", "from": None, "to": "studio"},
        {"field": "settings_json.look", "from": None, "to": "faded_film"},
        {"field": "settings_json.strength", "from": None, "to": 85},
    ]


@pytest.mark.parametrize("client", ["api", "admin"])
def test_a_new_slot_is_its_makers(client: str) -> None:
    if client == "api":
        assert make_api("slots:write")("post", "/api/slots", SLOT_DATA).status_code == 201
    else:
        form = slot_page(**settings(look="sepia"), id="slot-016", name="Old")
        assert browser(superuser=True).post(ADD, form).status_code == 302
    (entry,) = reader()("get", "/api/slots/slot-016/history").json()["data"]
    assert (entry["action"], entry["user"]) == ("created", "staff-0")
    assert {"field": "settings_json.look", "from": None, "to": "sepia"} in entry["changes"]


def test_a_change_by_the_api_is_recorded_field_by_field(api: Api) -> None:
    output = {"output": {"width": 600, "height": 400}}
    put(api, settings_json={"look": "sepia"} | output, is_active=False, size_limit_mb=7)
    changes = {
        "is_active": (True, False),
        "name": (BEFORE["name"], "Old"),
        "settings_json.look": ("black_and_white", "sepia"),
        "settings_json.output.height": (None, 400),
        "settings_json.output.width": (None, 600),
        "size_limit_mb": (None, 7),
    }
    assert list_changes() == [("staff-0", changes)]


def test_a_setting_that_goes_comes_to_nothing(api: Api) -> None:
    put(api, settings_json={"look": "sepia", "strength": 50, "retry": {"attempts": 2}})
    put(api, settings_json={"look": "sepia"})
    removed = {"settings_json.retry.attempts": (2, None), "settings_json.strength": (50, None)}
    assert list_changes()[0] == ("staff-0", removed)


def test_another_provider_and_operation_are_recorded(api: Api) -> None:
    operation = {"provider_id": "openai", "operation_id": "image_edit", "settings_json": {"prompt": "A hat for each"}}
    put(api, **BEFORE | operation)
    assert list_changes() == [
        (
            "staff-0",
            {
                "provider_id": ("studio", "openai"),
                "settings_json.look": ("black_and_white", None),
                "settings_json.prompt": (None, "A hat for each"),
            },
        )
    ]


def test_archiving_by_the_api_is_recorded_and_the_history_stays_readable(api: Api) -> None:
    assert api("delete", SLOT, headers={"If-Match": "*"}).status_code == 204
    at = api("get", SLOT).json()["archived_at"]
    assert list_changes() == [("staff-0", {"archived_at": (None, at)})]


def test_a_change_by_the_admins_form_is_recorded(staff: Client) -> None:
    assert staff.post(change_url(), slot_page(**settings(look="noir"), name="Noir")).status_code == 302
    changes = {"name": (BEFORE["name"], "Noir"), "settings_json.look": ("black_and_white", "noir")}
    assert list_changes() == [("staff-0", changes)]


def test_the_admins_actions_are_recorded(staff: Client) -> None:
    for action in ("switch_off", "switch_on", "archive", "restore"):
        act(staff, action)
    entries = list_changes()
    assert {user for user, _ in entries} == {"staff-0"}
    restored, archived, on, off = (changes for _, changes in entries)
    at = archived["archived_at"][1]
    assert (off, on) == ({"is_active": (True, False)}, {"is_active": (False, True)})
    assert (archived, restored) == ({"archived_at": (None, at)}, {"archived_at": (at, None)})


def test_images_by_the_api_are_recorded(api: Api) -> None:
    first = register(api)
    second = register(api, replace="true")
    assert api("delete", f"/api/template-media/{second}?force=true").status_code == 204
    assert list_changes() == [
        ("staff-0", {"template_media.mood": (second, None)}),
        ("staff-0", {"template_media.mood": (first, second)}),
        ("staff-0", {"template_media.mood": (None, first)}),
    ]


def test_images_by_the_admins_form_are_recorded(staff: Client) -> None:
    first, second = image(), image()
    row = {"setting_key": "mood", "media": first.pk}

    def save() -> None:
        form = slot_page(bindings=[row], **settings(look="black_and_white"), name=BEFORE["name"])
        assert staff.post(change_url(), form).status_code == 302

    save()
    row |= {"id": TemplateBinding.objects.get().pk, "slot": "slot-001"}
    for change in ({"media": second.pk}, {"setting_key": "style"}, {"DELETE": "on"}):
        row |= change
        save()
    one, two = str(first.pk), str(second.pk)
    assert list_changes() == [
        ("staff-0", {"template_media.style": (two, None)}),
        ("staff-0", {"template_media.mood": (two, None), "template_media.style": (None, two)}),
        ("staff-0", {"template_media.mood": (one, two)}),
        ("staff-0", {"template_media.mood": (None, one)}),
    ]


def sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize(
    "write",
    [
        lambda: set_slot(name="Else"),
        lambda: Slot(**Slot.objects.values().get(pk="slot-001") | {"name": "Else"}).save(),
        lambda: sql("UPDATE slots_slot SET name = 'Else' WHERE id = 'slot-001'"),
    ],
    ids=["update", "save", "SQL"],
)
def test_a_write_outside_a_request_is_recorded_without_a_user(api: Api, write: Callable[[], None]) -> None:
    put(api, **BEFORE | {"name": "Mine"})  # on the same connection: a name ends with its transaction
    write()
    assert list_changes() == [(None, {"name": ("Mine", "Else")}), ("staff-0", {"name": (BEFORE["name"], "Mine")})]


def save_unchanged_form() -> None:
    form = slot_page(**settings(look="black_and_white"), name=BEFORE["name"])
    assert browser(superuser=True).post(change_url(), form).status_code == 302


@pytest.mark.parametrize(
    "write",
    [
        lambda: put(make_api("slots:write"), **BEFORE),
        save_unchanged_form,
        lambda: act(browser(superuser=True), "switch_on"),
        lambda: act(browser(superuser=True), "restore"),
        lambda: Slot.objects.get(pk="slot-001").save(),
        lambda: set_slot(settings_json={"strength": None, "look": "black_and_white"}),
        lambda: make_api("slots:write")("put", SLOT, SLOT_DATA | {"name": ""}, headers={"If-Match": "*"}),
    ],
    ids=["PUT", "form", "on", "restored", "save", "null", "refused"],
)
def test_what_changes_nothing_leaves_no_entry(write: Callable[[], Any]) -> None:
    write()
    assert list_changes() == []


def test_only_what_is_committed_is_recorded(api: Api) -> None:
    with transaction.atomic():
        set_slot(name="Else")
        transaction.set_rollback(True)
    assert list_changes() == []


def test_the_history_is_the_slots_own(api: Api) -> None:
    put(api)
    assert list_changes("slot-002") == []


def test_the_newest_is_first_and_pages_follow_each_other(api: Api) -> None:
    for name in "ABCDE":
        put(api, **BEFORE | {"name": name})
    pages = [api("get", f"{SLOT}/history?page={page}&page_size=2").json() for page in (1, 2, 3, 4)]
    assert [page["meta"]["total"] for page in pages] == [6] * 4
    entries = [entry for page in pages for entry in page["data"]]
    names = [(each["from"], each["to"]) for entry in entries for each in entry["changes"] if each["field"] == "name"]
    began = (None, BEFORE["name"])
    assert names == [("D", "E"), ("C", "D"), ("B", "C"), ("A", "B"), (BEFORE["name"], "A"), began]
    assert [entry["at"] for entry in entries] == sorted((entry["at"] for entry in entries), reverse=True)


def test_the_filter_shows_what_one_user_did(api: Api) -> None:
    put(api, name="A")
    put(make_api("slots:write"), name="B")
    set_slot(name="C")
    assert [entry["user"] for entry in history()] == [None, "staff-1", "staff-0"]
    assert [entry["user"] for entry in history(user="staff-1")] == ["staff-1"]
    assert history(user="nobody") == history(user="STAFF-1") == []
    assert api("get", f"{SLOT}/history?user=staff-1").json()["meta"]["total"] == 1


def test_an_entry_keeps_the_name_of_a_user_who_is_gone(api: Api) -> None:
    put(api)
    User.objects.filter(username="staff-0").delete()
    assert [entry["user"] for entry in history()] == ["staff-0"]
    assert len(history(user="staff-0")) == 1


@pytest.mark.parametrize("slot_id", ["slot-099", "slot-1", "%00", "x"])
def test_a_slot_that_there_is_not_has_none(api: Api, slot_id: str) -> None:
    check_refusal(api("get", f"/api/slots/{slot_id}/history"), 404, "not_found")


@pytest.mark.parametrize(
    ("query", "status", "named"),
    [
        ("user=", 422, "user"),
        ("user=%00", 422, "user"),
        ("page_size=101", 422, "page_size"),
        ("users=serg", 400, "users"),
        ("user=a&user=b", 400, "user"),
    ],
)
def test_a_query_that_cannot_be_is_refused_by_name(api: Api, query: str, status: int, named: str) -> None:
    code = "invalid_payload" if status == 400 else "validation_failed"
    assert list(check_refusal(api("get", f"{SLOT}/history?{query}"), status, code)) == [named]


def count_lock_waits() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # or a transaction would see the same ones for good
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0])


def test_of_two_who_write_at_once_each_has_an_entry_and_one_follows_the_other(api: Api, staff: Client) -> None:
    """Neither writes before both have come as far as they can. The form is first, or it would be told of the change."""

    def by_form() -> int:
        answer = staff.post(change_url(), slot_page(**settings(look="black_and_white"), name="Form's"))
        connection.close()
        return answer.status_code

    def by_api() -> int:
        answer = Client().put(SLOT, SLOT_DATA | BEFORE | {"name": "API's"}, "application/json", headers=headers)
        connection.close()
        return answer.status_code

    headers = api.headers | {"If-Match": "*"}
    with transaction.atomic():
        Slot.objects.filter(pk="slot-001").update(size_limit_mb=None)  # holds the row
        waiting = [in_background(by_form)]
        until(lambda: count_lock_waits() == 1)
        waiting.append(in_background(by_api))
        until(lambda: count_lock_waits() == 2)
    assert [wait() for wait in waiting] == [302, 200]
    (last, second), (first_user, first) = list_changes()[0], list_changes()[1]
    assert first["name"] == (BEFORE["name"], second["name"][0])
    assert {last, first_user} == {"staff-0", "staff-1"}
    assert second["name"][1] == Slot.objects.get(pk="slot-001").name


@pytest.fixture
def many_changes(database: None) -> None:
    sql(MANY)
    sql("ANALYZE slots_slotchange")


@pytest.mark.usefixtures("many_changes")
def test_a_page_goes_by_its_index_in_a_constant_number_of_queries(api: Api, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(5) as captured:  # user, permissions, the slot, the page, the count
        answer = api("get", f"{SLOT}/history?page_size=100&user=staff-0")
    assert (len(answer.json()["data"]), answer.json()["meta"]["total"]) == (100, 200)
    for query in [each["sql"] for each in captured.captured_queries if 'FROM "slots_slotchange"' in each["sql"]]:
        assert_uses_index("change_newest_of_slot", query)


def test_the_admins_page_shows_it_in_words(staff: Client) -> None:
    mood = image()
    mood.label = "Evening light"
    mood.save()
    TemplateBinding.objects.create(slot_id="slot-001", setting_key="mood", media=mood)
    act(staff, "switch_off")
    staff.post(change_url(), slot_page(**settings(look="noir", strength="80"), name="Noir", is_active=""))
    page = text_of(staff.get(PAGE))
    assert f"staff-0 Name {BEFORE['name']} Noir" in page
    assert "Settings: Look Black and white film Film noir" in page
    assert "Settings: Strength – 80" in page
    assert "staff-0 On yes no" in page
    assert "– Image: mood – Evening light" in page
    assert "new slot – Name – Black and white film" in page.replace("On – yes ", "")
    assert "Provider – Studio (built in)" in page
    assert "Switched off" in page[page.index("What staff did") :]


def test_the_admins_page_speaks_the_readers_language(staff: Client) -> None:
    act(staff, "switch_off")
    page = text_of(staff.get(PAGE, headers={"Accept-Language": "ru"}))
    assert "staff-0 Включён да нет" in page


def test_the_admins_page_shows_what_no_longer_exists(staff: Client) -> None:
    entry = SlotChange(slot_id="slot-001", at="2026-11-25T12:00:00Z", before={})
    removed = "00000000-0000-4000-8000-000000000000"
    entry.after = {"template_media.mood": removed, "colour": "red", "provider_id": "acme", "operation_id": "dance"}
    entry.save()
    page = text_of(staff.get(PAGE))
    assert all(words in page for words in (f"mood – {removed}", "colour – red", "– acme", "– dance"))


@pytest.mark.usefixtures("many_changes")
def test_the_admins_page_is_paged_in_a_constant_number_of_queries(staff: Client) -> None:
    with CaptureQueriesContext(connection) as captured:
        page = text_of(staff.get(PAGE, {"changes": "2"}))
    assert len(captured) == 6  # session, user, slot, the log's count, the count, the page
    assert "newer older 201 entries" in page
    assert page.count("staff-0 Name") == 50


def test_staff_look_at_the_history_and_nobody_changes_it(staff: Client) -> None:
    assert "new slot" in text_of(browser("slots.view_slot").get(PAGE))
    assert browser("slots.view_templatemedia").get(PAGE).status_code == 403
    assert not admin.site.is_registered(SlotChange)
    assert not Permission.objects.filter(content_type__model="slotchange").exists()
