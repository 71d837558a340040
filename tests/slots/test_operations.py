"""A slot's settings against the declaration of its operation, in words for staff."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from slots import operations

pytestmark = pytest.mark.unit


def faults(settings_json: object, provider: str = "studio", operation: str = "image_edit", keys: str = "") -> Any:
    with pytest.raises(ValidationError) as caught:
        operations.validate(provider, operation, settings_json, keys.split())
    return caught.value.message_dict


@pytest.mark.parametrize(
    ("settings_json", "sentence"),
    [
        ({}, "look: This setting is required."),
        ({"look": "sepia", "colour": 1}, "colour: This operation has no such setting."),
        ({"look": "sepia", "strength": -1}, "strength: Must be at least 0."),
        ({"look": "sepia", "strength": 101}, "strength: Must be at most 100."),
        ({"look": "sepia", "strength": "80"}, "strength: Must be a whole number."),
        ({"look": "sepia", "strength": True}, "strength: Must be a whole number."),
        ({"look": "sepia", "frame": 5}, "frame: Must be text."),
        ({"look": "sepia", "frame": "My Frame"}, "frame: Use a-z, 0-9, - and _, beginning with a letter."),
        ({"look": "sepia", "frame": "f" * 65}, "frame: Must be at most 64 characters."),
        ({"look": "sepia", "output": {"width": 4}}, "output.width: Must be at least 16."),
        ({"look": "sepia", "output": []}, "output: Must be an object."),
        ({"look": "sepia", "retry": {"pause_seconds": float("nan")}}, "retry.pause_seconds: Must be at most 30.0."),
        ([], "Must be an object."),
        (None, "Must be an object."),
        ({"look": "a\0b"}, "The character NUL cannot be stored."),
    ],
)
def test_each_fault_is_told_with_its_place(settings_json: object, sentence: str) -> None:
    told = faults(settings_json)
    assert list(told) == ["settings_json"]
    assert any(fault.startswith(sentence) for fault in told["settings_json"]), told


def test_an_unknown_look_is_answered_with_those_there_are() -> None:
    (sentence,) = faults({"look": "technicolor"})["settings_json"]
    assert sentence.startswith("look: Must be one of: ")
    assert "'sepia'" in sentence


def test_all_faults_are_told_at_once() -> None:
    assert len(faults({"strength": 101, "colour": 1})["settings_json"]) == 3


def test_a_provider_or_operation_that_is_not_there() -> None:
    assert list(faults({}, provider="nobody")) == ["provider_id"]
    assert list(faults({}, operation="identity_transfer")) == ["operation_id"]


def test_a_key_needs_its_template_image() -> None:
    settings_json = {"style": "mood", "frame": "border"}
    told = faults(settings_json, operation="style_transfer", keys="border other")
    assert told == {"settings_json": ["The slot has no template image under the key: mood."]}
    operations.validate("studio", "style_transfer", settings_json, ["border", "mood"])
