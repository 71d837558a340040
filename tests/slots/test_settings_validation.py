"""A slot's settings against the declaration of its operation, with messages for staff."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import translation
from django.utils.translation import gettext

from providers import catalogue
from slots import settings_validation
from tests.slots.factories import BAD_FRAMES, draw_frame

pytestmark = pytest.mark.unit


def faults(settings_json: object, provider: str = "studio", operation: str = "image_edit", keys: str = "") -> Any:
    with pytest.raises(ValidationError) as caught:
        settings_validation.validate(provider, operation, settings_json, dict.fromkeys(keys.split(), draw_frame))
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
        ({"look": "sepia", "output": {"format": "gif"}}, "output.format: Must be one of: 'jpeg', 'png', 'webp'."),
        ([], "Must be an object."),
        (None, "Must be an object."),
        ({"look": "a\0b"}, "The character NUL cannot be stored."),
    ],
)
def test_each_fault_is_reported_with_its_path(settings_json: object, sentence: str) -> None:
    errors = faults(settings_json)
    assert list(errors) == ["settings_json"]
    assert any(fault.startswith(sentence) for fault in errors["settings_json"]), errors


def test_an_unknown_look_is_answered_with_those_there_are() -> None:
    (sentence,) = faults({"look": "technicolor"})["settings_json"]
    assert sentence.startswith("look: Must be one of: ")
    assert "'sepia'" in sentence


def test_all_faults_are_reported_at_once() -> None:
    assert len(faults({"strength": 101, "colour": 1})["settings_json"]) == 3


def test_faults_can_be_had_by_field() -> None:
    with pytest.raises(ValidationError) as caught:
        settings_validation.parse("studio", "image_edit", {"look": "sepia", "strength": 101, "output": {"width": 4}})
    assert settings_validation.group_by_field(caught.value) == {
        "settings_json.strength": ["Must be at most 100."],
        "settings_json.output.width": ["Must be at least 16."],
    }


def test_a_fault_of_no_single_setting_is_that_of_the_field() -> None:
    with pytest.raises(ValidationError) as caught:
        settings_validation.parse("studio", "image_edit", None)
    assert settings_validation.group_by_field(caught.value) == {"settings_json": ["Must be an object."]}


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize(
    ("provider", "model", "instead"),
    [
        ("gemini", "gemini-3-pro-image-preview", "gemini-3-pro-image"),
        ("openai", "gpt-image-1", "gpt-image-2.6-flare, gpt-image-2.6-sunburst"),
    ],
)
def test_a_retired_model_is_refused_with_the_alternatives(
    provider: str, model: str, instead: str, language: str
) -> None:
    with translation.override(language):
        (sentence,) = faults({"prompt": "x", "model": model}, provider)["settings_json"]
        expected = gettext("%(model)s was retired on %(date)s. Use: %(instead)s")
    date = catalogue.load_models(provider)[model]["retired_on"]
    assert sentence == f"model: {expected % {'model': model, 'date': date, 'instead': instead}}"


@pytest.mark.parametrize(
    ("provider", "settings_json", "sentence"),
    [
        (
            "gemini",
            {"model": "gemini-3-pro-image", "thinking_level": "high"},
            "gemini-3-pro-image takes no such setting.",
        ),
        ("gemini", {"image_size": "512"}, "gemini-nano-banana-2.1 takes one of: 1K, 2K, 4K."),
        ("openai", {"size": "100x100"}, "Width and height must be multiples of 16."),
        ("openai", {"size": "big"}, "Does not have the form that is described for this setting."),
        ("turbotext", {"negative_prompt": "x " * 81}, "Must be at most 80 words."),
    ],
)
def test_a_providers_own_rules_have_messages(provider: str, settings_json: dict[str, Any], sentence: str) -> None:
    (message,) = faults({"prompt": "x"} | settings_json, provider)["settings_json"]
    assert message.partition(": ")[2] == sentence


def test_a_provider_or_operation_that_is_not_there() -> None:
    assert list(faults({}, provider="nobody")) == ["provider_id"]
    assert list(faults({}, operation="identity_transfer")) == ["operation_id"]


def test_a_key_needs_its_template_image() -> None:
    settings_json = {"style": "mood", "frame": "border"}
    errors = faults(settings_json, operation="style_transfer", keys="border other")
    assert errors == {"settings_json": ["style: The slot has no template image under the key: mood."]}
    settings_validation.validate("studio", "style_transfer", settings_json, {"border": draw_frame, "mood": draw_frame})


def open_missing() -> bytes:
    raise FileNotFoundError


@pytest.mark.parametrize("fault", [*BAD_FRAMES, "file gone"])
def test_a_frame_must_be_readable_and_have_a_transparent_part(fault: str) -> None:
    def read() -> bytes:
        return BAD_FRAMES[fault] if fault in BAD_FRAMES else open_missing()

    settings_json = {"look": "sepia", "frame": "border"}
    with pytest.raises(ValidationError) as caught:
        settings_validation.validate("studio", "image_edit", settings_json, {"border": read})
    ((path, (sentence,)),) = settings_validation.group_by_field(caught.value).items()
    assert path == "settings_json.frame"
    transparent = fault in ("opaque", "without transparency")
    assert ("transparent part" if transparent else "upload it again") in sentence
