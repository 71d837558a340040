"""A slot's fallback is checked like the slot itself, and its faults have their paths."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from slots import settings_validation
from tests.slots.factories import BAD_FRAMES, draw_frame

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

SEPIA = {"provider_id": "studio", "operation_id": "image_edit", "settings_json": {"look": "sepia"}}


def find_faults(fallback: dict[str, Any], frame: bytes | None = None) -> dict[str, list[str]]:
    """The faults by field; none if it may be saved."""
    templates = {} if frame is None else {"border": lambda: frame}
    try:
        settings_validation.validate("gemini", "image_edit", {"prompt": "Oil", "fallback": fallback}, templates)
    except ValidationError as error:
        return settings_validation.group_by_field(error)
    return {}


def test_a_whole_fallback_is_accepted() -> None:
    assert find_faults(SEPIA) == {}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"provider_id": "mystery"}, "provider_id"),
        ({"operation_id": "identity_transfer"}, "operation_id"),
        ({"settings_json": {"look": "plaid"}}, "settings_json.look"),
        ({"settings_json": {}}, "settings_json.look"),
        ({"settings_json": {"look": "sepia", "frame": "border"}}, "settings_json.frame"),
        ({"settings_json": {"look": "sepia", "fallback": SEPIA}}, "settings_json.fallback"),
        ({"settings_json": {"look": "sepia", "daily_budget": 5}}, "settings_json.daily_budget"),
        ({"more": 1}, "more"),
    ],
)
def test_a_fault_has_its_path(changes: dict[str, Any], path: str) -> None:
    assert list(find_faults(SEPIA | changes)) == [f"settings_json.fallback.{path}"]


def test_its_template_images_are_the_slots() -> None:
    framed = SEPIA | {"settings_json": {"look": "sepia", "frame": "border"}}
    assert find_faults(framed, draw_frame()) == {}
    assert list(find_faults(framed, BAD_FRAMES["opaque"])) == ["settings_json.fallback.settings_json.frame"]
