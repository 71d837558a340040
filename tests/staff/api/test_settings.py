"""`/api/settings`: the ingest password, the response timeout and the providers' accounts."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.hashers import check_password
from django.contrib.auth.models import User

from ingest.models import IngestSettings
from jobs.models import Job
from photoslot.supervisor import find_free_port
from providers import registry
from providers.models import ProviderAccount
from tests import leaks
from tests.api import Api, check_refusal, make_api
from tests.conftest import PASSWORD, Booth, Processes, in_background, jpeg, use_account, use_sandbox
from tests.sandbox.server import Sandbox

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]

NEW = "cheese at eight"
KEY = "AIza-a-new-key-of-gemini"
PROXY = "http://user:hidden%2Fword@proxy:3128"
leaks.note(NEW, KEY, PROXY)


@pytest.fixture
def api() -> Api:
    return make_api("settings:read", "settings:write")


def put(api: Api, **changes: Any) -> Any:
    return api("put", "/api/settings", changes)


def get_account(api: Api, provider_id: str = "gemini") -> Any:
    return api("get", "/api/settings").json()["provider_keys"][provider_id]


def is_password(value: str) -> bool:
    return check_password(value, IngestSettings.objects.get().password_hash)


def list_log_entries() -> list[tuple[str, str, str]]:
    entries = LogEntry.objects.order_by("pk")
    return [(each.user.username, each.object_repr, each.get_change_message()) for each in entries]


def test_the_response_has_the_contracts_shape(api: Api) -> None:
    response = api("get", "/api/settings").json()
    assert response["dslr_password"] == {"is_set": True, "updated_at": None, "updated_by": None}
    assert response["ingest"] == {"sync_response_timeout_sec": 48, "ingest_ttl_sec": 48}
    assert response["media_cache"] == {"processed_media_ttl_hours": 72, "public_link_ttl_sec": 48}
    assert list(response["provider_keys"]) == list(registry.get_classes())
    assert response["provider_keys"]["gemini"] == {
        "is_configured": False,
        "updated_at": None,
        "updated_by": None,
        "has_proxy": False,
        "is_enabled": True,
        "base_url": "",
    }


def test_a_new_password_is_valid_and_says_who_set_it_and_when(api: Api) -> None:
    response = put(api, dslr_password={"value": NEW})
    changed = response.json()["dslr_password"]
    assert is_password(NEW)
    assert (changed["is_set"], changed["updated_by"]) == (True, User.objects.get().username)
    assert changed["updated_at"].endswith("Z")
    assert "generated_value" not in changed


def test_a_generated_password_is_in_that_response_and_nowhere_else(api: Api, caplog: Any) -> None:
    plain = put(api, dslr_password={"generate": True}).json()["dslr_password"]["generated_value"]
    assert len(plain) == 16
    assert is_password(plain)
    stored = [*map(str, IngestSettings.objects.values_list()), *map(str, LogEntry.objects.values_list()), caplog.text]
    assert not [text for text in [*stored, api("get", "/api/settings").content.decode()] if plain in text]


def test_the_response_timeout_can_be_changed_alone(api: Api) -> None:
    response = put(api, ingest={"sync_response_timeout_sec": 10}).json()
    assert response["ingest"] == {"sync_response_timeout_sec": 10, "ingest_ttl_sec": 10}
    assert response["media_cache"]["public_link_ttl_sec"] == 10
    assert is_password(PASSWORD)


def test_keys_and_proxies_are_write_only(api: Api) -> None:
    response = put(api, provider_keys={"gemini": {"api_key": KEY, "proxy_url": PROXY}})
    changed = response.json()["provider_keys"]["gemini"]
    assert (changed["is_configured"], changed["has_proxy"]) == (True, True)
    assert changed["updated_by"] == User.objects.get().username
    secrets = ProviderAccount.objects.get(pk="gemini").decrypt()
    assert (secrets.key, secrets.proxy_url) == (KEY, PROXY)
    visible = response.content.decode() + str(list(ProviderAccount.objects.values_list())) + str(list_log_entries())
    assert KEY not in visible
    assert "hidden" not in visible


def test_the_public_fields_of_an_account_are_returned(api: Api) -> None:
    values = {
        "is_enabled": False,
        "base_url": "https://relay:8080/g",
        "max_concurrent": 3,
        "per_minute": 60,
    }
    put(api, provider_keys={"gemini": values | {"per_day": None}})
    assert values.items() <= get_account(api).items()
    assert "per_day" not in get_account(api)
    put(api, provider_keys={"gemini": {"base_url": "", "max_concurrent": None}})
    assert get_account(api) == get_account(api) | {"is_enabled": False, "base_url": "", "per_minute": 60}
    assert "max_concurrent" not in get_account(api)


def test_an_empty_key_removes_it_and_a_missing_one_keeps_it(api: Api) -> None:
    put(api, provider_keys={"gemini": {"api_key": KEY}})
    put(api, provider_keys={"gemini": {"per_day": 5}})
    assert get_account(api)["is_configured"] is True
    put(api, provider_keys={"gemini": {"api_key": ""}})
    assert get_account(api)["is_configured"] is False


def test_a_new_key_closes_the_circuit_breaker(api: Api) -> None:
    use_account("gemini", "", "AIza-old", failures=5)
    put(api, provider_keys={"gemini": {"per_day": 5}})
    assert ProviderAccount.objects.get(pk="gemini").failures == 5
    put(api, provider_keys={"gemini": {"api_key": KEY}})
    assert ProviderAccount.objects.get(pk="gemini").failures == 0


def test_each_change_is_in_the_admins_history_without_its_value(api: Api) -> None:
    put(
        api,
        dslr_password={"value": NEW},
        ingest={"sync_response_timeout_sec": 20},
        provider_keys={"gemini": {"api_key": KEY, "per_day": 5}, "openai": {}},
    )
    who = User.objects.get().username
    assert list_log_entries() == [
        (who, "booth settings", "Changed dslr_password and sync_response_timeout_sec."),
        (who, "Google Gemini", "Changed api_key and per_day."),
    ]


def test_an_empty_request_changes_nothing(api: Api) -> None:
    before = api("get", "/api/settings").json()
    nothing: list[dict[str, Any]] = [{}, {"ingest": {}}, {"provider_keys": {}}, {"provider_keys": {"gemini": {}}}]
    for body in nothing:
        assert put(api, **body).json() == before
    assert list_log_entries() == []


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"slot": 1}, {"slot"}),
        ({"ingest": {"ingest_ttl_sec": 20}}, {"ingest.ingest_ttl_sec"}),
        ({"media_cache": {"public_link_ttl_sec": 20}}, {"media_cache"}),
        ({"dslr_password": {"is_set": True}}, {"dslr_password.is_set"}),
        ({"provider_keys": {"nobody": {}}}, {"provider_keys.nobody"}),
        (
            {"provider_keys": {"gemini": {"key": "x", "org": 1}}},
            {"provider_keys.gemini.key", "provider_keys.gemini.org"},
        ),
        (
            {"ingest": {"sync_response_timeout_sec": 5, "x": 1}, "y": 2},
            {"y"},
        ),
        ([], set()),
    ],
)
def test_unknown_fields_are_malformed(api: Api, body: Any, fields: set[str]) -> None:
    response = api("put", "/api/settings", body)
    assert check_refusal(response, 400, "invalid_payload").keys() == fields
    assert list_log_entries() == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        *(
            ({"ingest": {"sync_response_timeout_sec": value}}, "ingest.sync_response_timeout_sec")
            for value in (9, 61, -48, 48.5, "48", True, None, 10**30)
        ),
        ({"ingest": None}, "ingest"),
        ({"ingest": []}, "ingest"),
        ({"dslr_password": {}}, "dslr_password"),
        ({"dslr_password": {"generate": False}}, "dslr_password"),
        ({"dslr_password": {"generate": True, "value": NEW}}, "dslr_password"),
        ({"dslr_password": {"generate": "true"}}, "dslr_password.generate"),
        ({"dslr_password": {"value": "0xbeef"}}, "dslr_password.value"),
        ({"dslr_password": {"value": "password123"}}, "dslr_password.value"),
        ({"dslr_password": {"value": f" {NEW}"}}, "dslr_password.value"),
        ({"dslr_password": {"value": "x" * 129}}, "dslr_password.value"),
        ({"dslr_password": {"value": f"{NEW}\0"}}, "dslr_password.value"),
        ({"dslr_password": {"value": 12345678}}, "dslr_password.value"),
        *(
            ({"provider_keys": {"gemini": {name: value}}}, f"provider_keys.gemini.{name}")
            for name, value in (
                ("api_key", "two words"),
                ("api_key", None),
                ("api_key", "k" * 1001),
                ("base_url", "relay"),
                ("base_url", "http://user:pass@relay"),
                ("proxy_url", "http://user:pass#word@proxy:3128"),
                ("is_enabled", 1),
                ("is_enabled", None),
                ("max_concurrent", 0),
                ("per_minute", 2**31),
                ("per_day", "5"),
            )
        ),
        ({"provider_keys": {"gemini": None}}, "provider_keys.gemini"),
        ({"provider_keys": ["gemini"]}, "provider_keys"),
    ],
)
def test_invalid_values_are_refused_by_name_and_not_echoed(api: Api, body: Any, field: str) -> None:
    response = api("put", "/api/settings", body)
    assert list(check_refusal(response, 422, "validation_failed")) == [field]
    secrets = ("0xbeef", "password123", NEW, "two words", "pass#word")
    assert not [secret for secret in secrets if secret in response.content.decode()]
    assert list_log_entries() == []


def test_one_invalid_field_leaves_everything_unchanged(api: Api) -> None:
    before = api("get", "/api/settings").json()
    response = put(
        api,
        dslr_password={"generate": True},
        ingest={"sync_response_timeout_sec": 20},
        provider_keys={"gemini": {"api_key": KEY}, "openai": {"per_day": 0}},
    )
    check_refusal(response, 422, "validation_failed")
    assert api("get", "/api/settings").json() == before
    assert is_password(PASSWORD)


def test_a_failing_database_leaves_everything_unchanged(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(ProviderAccount, "save", fail)
    changes = {"dslr_password": {"value": NEW}, "provider_keys": {"gemini": {"per_day": 5}}}
    check_refusal(put(api, **changes), 500, "internal_error")
    assert is_password(PASSWORD)
    assert list_log_entries() == []


@pytest.mark.e2e
def test_a_new_deadline_and_password_apply_to_new_photos_only(api: Api, booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    wait = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1)
    changes = {"dslr_password": {"generate": True}, "ingest": {"sync_response_timeout_sec": 20}}
    plain = put(api, **changes).json()["dslr_password"]["generated_value"]
    sandbox.let_go()
    assert wait().status == 200
    assert booth.post(jpeg()).status == 401
    assert booth.post(jpeg(colour="red"), password=plain).status == 200
    deadlines = [round((job.expires_at - job.created_at).total_seconds()) for job in Job.objects.order_by("created_at")]
    assert deadlines == [48, 20]


def post_status(processes: Processes, password: str) -> int:
    return Booth(processes.url).post(jpeg(), "slot-999", password).status


@pytest.mark.e2e
def test_a_new_password_is_valid_in_every_process_at_once(api: Api, processes: Processes) -> None:
    others = [processes, Processes(find_free_port(), processes.started)]
    for each in others:
        each.web()
        assert post_status(each, PASSWORD) == 404  # it caches that the password is right
    plain = put(api, dslr_password={"generate": True}).json()["dslr_password"]["generated_value"]
    assert [post_status(each, password) for each in others for password in (PASSWORD, plain)] == [401, 404] * 2
