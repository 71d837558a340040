"""The one declaration of an operation's settings, as JSON Schema and in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import translation
from jsonschema import Draft202012Validator

from providers import catalogue, declaration, registry
from providers.base import Operation
from slots.models import Slot

pytestmark = pytest.mark.contract

DECLARED = [
    (provider.id, operation) for provider in registry.get_classes().values() for operation in provider.operations
]
OURS = [(pk, operation) for pk, operation in DECLARED if registry.get_classes()[pk].__module__.startswith("providers.")]


def schema_of(provider_id: str, operation_id: str) -> Any:
    answer = Client().get(declaration.schema_ref(provider_id, operation_id))
    assert answer.status_code == 200
    return answer.json()


def find_examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the examples of settings in the providers' pages, with the provider's id."""
    for page in Path(settings.BASE_DIR, "docs/providers").glob("*.md"):
        for block in re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL):
            example = json.loads(block)
            if "models" not in example:  # those are for the catalogue
                yield page.stem, example


def guess_operation(example: dict[str, Any]) -> str:
    return "style_transfer" if "style" in example else "identity_transfer" if "face" in example else "image_edit"


@pytest.mark.parametrize(("provider_id", "operation"), DECLARED)
def test_each_operation_has_a_json_schema_at_its_address(provider_id: str, operation: Operation) -> None:
    schema = schema_of(provider_id, operation.id)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"{settings.PUBLIC_BASE_URL}/api/providers/{provider_id}/operations/{operation.id}/schema"


def test_the_schema_says_what_each_setting_is_and_takes() -> None:
    properties = schema_of("gemini", "style_transfer")["properties"]
    assert properties["prompt"] == {
        "type": "string",
        "title": "Prompt",
        "description": "What to make of the photo, which is sent first.",
        "minLength": 1,
        "maxLength": 16_000,
    }
    assert properties["style"]["format"] == "template-key"
    assert properties["model"]["enum"] == catalogue.list_current("gemini")
    assert schema_of("studio", "image_edit")["properties"]["strength"]["maximum"] == 100


@pytest.mark.parametrize(
    ("provider_id", "operation_id"), [("nobody", "image_edit"), ("studio", "dance"), ("studio", "identity_transfer")]
)
def test_what_is_not_there_is_answered_with_the_envelope(provider_id: str, operation_id: str) -> None:
    answer = Client().get(f"/api/providers/{provider_id}/operations/{operation_id}/schema")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_schema_is_only_to_be_read() -> None:
    answer = Client().post(declaration.schema_ref("studio", "image_edit"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.usefixtures("rolled_back_database")
def test_the_schema_takes_what_the_first_slots_are_set_to_and_no_other_key() -> None:
    slots = Slot.objects.all()
    assert len(slots) == 15
    for slot in slots:
        validator = Draft202012Validator(schema_of(slot.provider_id, slot.operation_id))
        validator.validate(slot.settings_json)
        assert not validator.is_valid(slot.settings_json | {"unheard": 1})


@pytest.mark.parametrize(("provider_id", "example"), list(find_examples()))
def test_the_schema_takes_what_is_documented(provider_id: str, example: dict[str, Any]) -> None:
    Draft202012Validator(schema_of(provider_id, guess_operation(example))).validate(example)


@pytest.mark.parametrize(("provider_id", "operation"), OURS)
def test_each_setting_says_what_it_is(provider_id: str, operation: Operation) -> None:
    for setting in declaration.list_settings(operation):
        assert setting.description, setting.path
        assert not setting.title.istitle() or " " not in setting.title, "the title is pydantic's own"
    for group in declaration.list_groups(operation):
        assert group.title
        assert bool(group.description) == bool(group.path)


@pytest.mark.parametrize(
    ("provider_id", "operation_id", "path", "values", "default"),
    [
        ("studio", "image_edit", "strength", "a whole number from 0 to 100", "100"),
        ("studio", "style_transfer", "style", "the key of a template image of the slot", "–"),
        ("gemini", "image_edit", "prompt", "text of at most 16000 characters", "–"),
        ("gemini", "image_edit", "template_media", "a list of keys of template images of the slot", "–"),
        ("gemini", "image_edit", "safety_settings", "JSON", "–"),
        ("gemini", "image_edit", "retry.pause_seconds", "a number from 0 to 30", "–"),
        ("gemini", "image_edit", "output.fit", "cover, contain", "cover"),
        ("turbotext", "identity_transfer", "face_restore", "true or false", "false"),
    ],
)
def test_values_and_defaults_are_described_in_words(
    provider_id: str, operation_id: str, path: str, values: str, default: str
) -> None:
    operation = registry.get_operation(provider_id, operation_id)
    assert operation is not None
    [setting] = [setting for setting in declaration.list_settings(operation) if setting.path == path]
    assert (setting.values, setting.default_in_words) == (values, default)


def test_the_schema_is_in_english_whoever_reads_it() -> None:
    with translation.override("ru"):
        [operation] = [operation for pk, operation in OURS if (pk, operation.id) == ("studio", "image_edit")]
        schema = declaration.json_schema("studio", operation)
    assert schema["title"] == "Studio (built in): Look"
    assert "Sepia" in schema["properties"]["look"]["enumNames"]
