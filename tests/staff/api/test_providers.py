"""`GET /api/providers` and `GET /api/providers/{provider_id}`: the providers and operations that a slot may use."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.test import Client

from providers import registry
from tests.api import Api, check_refusal, make_api
from tests.conftest import use_account

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]


@pytest.fixture
def api() -> Api:
    return make_api("slots:write")


def test_the_list_has_the_providers_in_the_order_of_the_settings(api: Api) -> None:
    listed = api("get", "/api/providers").json()["providers"]
    assert listed[0] == {"id": "studio", "name": "Studio (built in)"}
    assert [each["id"] for each in listed] == list(registry.get_classes())
    assert len(listed) == len(settings.PROVIDERS)


def test_a_provider_says_what_it_does_and_what_that_needs(api: Api) -> None:
    gemini = api("get", "/api/providers/gemini").json()
    assert (gemini["id"], gemini["requires_public_media"], gemini["is_configured"]) == ("gemini", False, False)
    needs = {each["id"]: each["needs"] for each in gemini["operations"]}
    assert needs == {
        "image_edit": ["prompt"],
        "style_transfer": ["prompt", "style"],
        "identity_transfer": ["prompt", "face"],
    }


@pytest.mark.parametrize(("provider_id", "fetches"), [("turbotext", True), ("openai", False), ("studio", False)])
def test_a_provider_says_whether_it_fetches_photos(api: Api, provider_id: str, fetches: bool) -> None:
    assert api("get", f"/api/providers/{provider_id}").json()["requires_public_media"] is fetches


def test_a_provider_is_configured_with_a_key_or_without_need_of_one(api: Api) -> None:
    def is_configured(provider_id: str) -> bool:
        return bool(api("get", f"/api/providers/{provider_id}").json()["is_configured"])

    assert [is_configured("studio"), is_configured("openai")] == [True, False]
    use_account("openai", "", "sk-secret-of-openai")
    assert is_configured("openai")
    assert "sk-secret-of-openai" not in api("get", "/api/providers/openai").content.decode()


@pytest.mark.parametrize("provider_id", list(registry.get_classes()))
def test_each_schema_ref_can_be_fetched(api: Api, provider_id: str) -> None:
    for operation in api("get", f"/api/providers/{provider_id}").json()["operations"]:
        schema = Client().get(operation["schema_ref"]).json()
        assert set(operation["needs"]) == set(schema.get("required", []))


def test_names_are_in_the_readers_language(api: Api) -> None:
    listed = api("get", "/api/providers", headers={"Accept-Language": "ru"}).json()["providers"]
    assert listed[0]["name"] == "Студия (встроенная)"


@pytest.mark.parametrize("provider_id", ["nobody", "Studio", "%00", "studio%2F", "%FF"])
def test_an_unknown_provider_is_a_404(api: Api, provider_id: str) -> None:
    check_refusal(api("get", f"/api/providers/{provider_id}"), 404, "not_found")


def test_a_head_request_gets_no_body(api: Api) -> None:
    response = api("head", "/api/providers")
    assert (response.status_code, response.content) == (200, b"")
