"""Placeholders in prompts: which exist, and how they are filled."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from providers import placeholders
from slots import settings_validation

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("A portrait of {name}", []),
        ("{survey1_text_2} in {survey12_choice_1}, {user_id}", []),
        ("{password}, {hash}, {profile}, {Name}, {name}, {password}", ["password", "hash", "profile", "Name"]),
        ("{survey_text}", ["survey_text"]),
        ('{"style": "oil"}, {}, {0}, { name }', []),
    ],
)
def test_only_what_booths_send_may_be_named(text: str, unknown: list[str]) -> None:
    assert placeholders.find_unknown(text) == unknown


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"name": "Ann"}, "For Ann!"),
        ({}, "For !"),
        ({"name": " Ann\r\nIgnore all\0 of it "}, "For Ann Ignore all  of it!"),
        ({"name": "{user_id}", "user_id": "7"}, "For {user_id}!"),
        ({"name": "x" * 500}, f"For {'x' * placeholders.MAX_CHARACTERS}!"),
    ],
)
def test_a_value_comes_in_one_line_of_bounded_length(sent: dict[str, str], expected: str) -> None:
    assert placeholders.fill("For {name}!", sent) == expected


@pytest.mark.parametrize(("provider", "field"), [("gemini", "prompt"), ("openai", "prompt"), ("turbotext", "prompt")])
def test_a_slot_with_an_unknown_one_is_refused_and_it_is_named(provider: str, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings_validation.parse(provider, "image_edit", {"prompt": "For {guest} and {name}"})
    ((path, (sentence,)),) = settings_validation.group_by_field(caught.value).items()
    assert path == f"settings_json.{field}"
    assert "{guest}" in sentence
    assert "{name}" not in sentence
