"""The documentation page on the options of a slot matches the code."""

from __future__ import annotations

import json
import re

import pytest
from django.conf import settings

from providers import placeholders
from providers.base import SLOT_SETTINGS
from slots import settings_validation
from tests.slots.factories import draw_frame

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

PAGE = (settings.BASE_DIR / "docs/slots.md").read_text()
EXAMPLES = {name: json.loads(value) for name, value in re.findall(r"^\| `(\w+)` \| `(.+?)` \|", PAGE, re.MULTILINE)}


def test_each_setting_has_an_example_that_is_accepted() -> None:
    assert EXAMPLES.keys() == {*SLOT_SETTINGS, "frame", "output", "retry"}
    settings_validation.validate("studio", "image_edit", {"look": "sepia", **EXAMPLES}, {"border": draw_frame})


def test_each_placeholder_it_names_is_one_and_none_is_left_out() -> None:
    named = set(re.findall(r"`\{(\w+)\}`", PAGE.split("## Placeholders")[1]))
    assert placeholders.find_unknown("".join(f"{{{name}}}" for name in named)) == []
    assert set(placeholders.FIELDS) <= named
