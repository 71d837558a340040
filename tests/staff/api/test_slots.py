"""`/api/slots`: listing and creating slots."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from slots.models import Slot
from tests.api import Api, check_refusal, make_api
from tests.conftest import set_slot

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]

NOIR = {"name": "Noir", "provider_id": "studio", "operation_id": "image_edit", "settings_json": {"look": "noir"}}


@pytest.fixture
def api() -> Api:
    return make_api("slots:write")


def list_ids(api: Api, **query: Any) -> list[str]:
    """The numbers of the slots on the page."""
    response = api("get", "/api/slots?" + "&".join(f"{name}={value}" for name, value in query.items()))
    assert response.status_code == 200, response.content
    return [each["id"].removeprefix("slot-0") for each in response.json()["data"]]


def create(api: Api, **more: Any) -> Any:
    return api("post", "/api/slots", NOIR | more)


def test_the_list_shows_the_slots_and_how_many_there_are(api: Api) -> None:
    listed = api("get", "/api/slots").json()
    assert listed["meta"] == {"page": 1, "page_size": 20, "total": 15}
    slot = Slot.objects.get(pk="slot-002")
    slot_json = listed["data"][1]
    assert slot_json.pop("created_at").endswith("Z")
    assert slot_json.pop("updated_at").endswith("Z")
    assert slot_json == {
        "id": "slot-002",
        "name": slot.name,
        "provider_id": "studio",
        "operation_id": "image_edit",
        "settings_json": slot.settings_json,
        "is_active": True,
        "size_limit_mb": None,
        "archived_at": None,
        "ingest_url": "http://localhost:8000/ingest/slot-002",
    }


def test_pages_follow_each_other(api: Api) -> None:
    pages = [list_ids(api, page=page, page_size=6) for page in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [6, 6, 3, 0]
    assert [each for page in pages for each in page] == [f"{number:02d}" for number in range(1, 16)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"provider_id": "openai"}, ["02"]),
        ({"operation_id": "style_transfer"}, ["02"]),
        ({"is_active": "false"}, ["03"]),
        ({"is_active": "true", "search": "OLDEN glo"}, ["04"]),
        ({"search": "t-005"}, ["05"]),
        ({"search": "100%25"}, []),
        ({"search": "", "page_size": 1}, ["01"]),
        ({"archived": "true"}, ["06"]),
        ({"archived": "false", "search": "slot-006"}, []),
        ({"provider_id": "openai", "is_active": "false"}, []),
        ({"provider_id": "nobody"}, []),
        ({"page_size": 2, "sort_order": "desc"}, ["15", "14"]),
        ({"page_size": 1, "sort_by": "name"}, ["04"]),
        ({"page_size": 1, "sort_by": "updated_at", "sort_order": "desc"}, ["07"]),
    ],
)
def test_the_list_is_filtered_searched_and_sorted(api: Api, query: dict[str, Any], found: list[str]) -> None:
    set_slot("slot-002", provider_id="openai", operation_id="style_transfer")
    set_slot("slot-003", is_active=False)
    set_slot("slot-004", name="A golden glow")
    Slot.objects.filter(pk="slot-006").archive()
    Slot.objects.get(pk="slot-007").save()
    assert list_ids(api, **query) == found


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("page=0", "page"),
        ("page=x", "page"),
        ("page=1.0", "page"),
        ("page=99999999999999999999", "page"),
        ("page_size=101", "page_size"),
        ("sort_by=settings_json", "sort_by"),
        ("sort_order=up", "sort_order"),
        ("is_active=1", "is_active"),
        ("archived=", "archived"),
        ("search=%00", "search"),
    ],
)
def test_an_invalid_query_value_is_refused_by_name(api: Api, query: str, named: str) -> None:
    assert list(check_refusal(api("get", f"/api/slots?{query}"), 422, "validation_failed")) == [named]


@pytest.mark.parametrize("query", ["colour=red", "page=1&pages=2"])
def test_an_unknown_query_parameter_is_malformed(api: Api, query: str) -> None:
    check_refusal(api("get", f"/api/slots?{query}"), 400, "invalid_payload")
    check_refusal(api("get", "/api/slots/slot-001?page=1"), 400, "invalid_payload")
    check_refusal(api("post", "/api/slots?page=1", NOIR), 400, "invalid_payload")


def test_the_list_takes_the_same_queries_for_any_number_of_slots(api: Api, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(4):  # the user, their permissions and groups', the page, the count
        list_ids(api, page_size=100)


def test_a_new_slot_gets_the_first_free_id(api: Api) -> None:
    Slot.objects.filter(pk="slot-007").delete()
    response = create(api)
    assert response.status_code == 201
    assert response.json()["id"] == "slot-007"
    assert response.headers["Location"] == "/api/slots/slot-007"
    assert response.headers["ETag"] == api("get", "/api/slots/slot-007").headers["ETag"]
    assert create(api).json()["id"] == "slot-016"


def test_a_new_slot_has_the_values_of_the_request(api: Api) -> None:
    response = create(api, id="slot-900", is_active=False, size_limit_mb=7)
    values = NOIR | {"id": "slot-900", "is_active": False, "size_limit_mb": 7}
    assert values.items() <= response.json().items()
    assert response.json().items() <= api("get", "/api/slots/slot-900").json().items()
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.get_change_message()) == ("slot-900", "Added.")


@pytest.mark.parametrize("is_archived", [False, True])
def test_an_id_that_is_taken_never_overwrites(api: Api, is_archived: bool) -> None:
    if is_archived:
        Slot.objects.filter(pk="slot-001").archive()
    before = Slot.objects.filter(pk="slot-001").values().get()
    assert check_refusal(create(api, id="slot-001"), 409, "slot_exists") == {"id": "slot-001"}
    assert Slot.objects.filter(pk="slot-001").values().get() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"id": "booth-1"}, "id"),
        ({"id": "slot-1"}, "id"),
        ({"id": "slot-٠٠١"}, "id"),
        ({"id": "slot-" + "1" * 40}, "id"),
        ({"name": " "}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"name": 5}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"provider_id": "nobody"}, "provider_id"),
        ({"operation_id": "dance"}, "operation_id"),
        ({"settings_json": []}, "settings_json"),
        ({"settings_json": {}}, "settings_json.look"),
        ({"settings_json": {"look": "\ud800"}}, "settings_json.look"),
        ({"settings_json": {"look": "noir\0"}}, "settings_json"),
        ({"settings_json": {"look": "noir", "strength": 101}}, "settings_json.strength"),
        ({"settings_json": {"look": "noir", "glitter": 1}}, "settings_json.glitter"),
        ({"settings_json": {"look": "noir", "frame": "gold"}}, "settings_json.frame"),
        ({"is_active": "yes"}, "is_active"),
        ({"size_limit_mb": 0}, "size_limit_mb"),
        ({"size_limit_mb": 2049}, "size_limit_mb"),
    ],
)
def test_a_slot_that_breaks_a_rule_is_refused_by_the_fields_name(api: Api, changes: dict[str, Any], named: str) -> None:
    assert list(check_refusal(create(api, **changes), 422, "validation_failed")) == [named]
    assert Slot.objects.count() == 15
    assert not LogEntry.objects.exists()


def test_a_number_that_json_can_write_and_no_column_holds_is_refused(api: Api) -> None:
    written = json.dumps(NOIR).replace('"noir"', '"noir", "strength": 1e999').encode()
    refused = check_refusal(api("post", "/api/slots", written), 422, "validation_failed")
    assert list(refused) == ["settings_json.strength"]


def test_an_unknown_field_is_malformed(api: Api) -> None:
    assert "colour" in check_refusal(create(api, colour="red", name=""), 400, "invalid_payload")


@pytest.mark.parametrize("missing", sorted(NOIR))
def test_a_missing_field_is_named(api: Api, missing: str) -> None:
    values = {name: value for name, value in NOIR.items() if name != missing}
    assert list(check_refusal(api("post", "/api/slots", values), 422, "validation_failed")) == [missing]
