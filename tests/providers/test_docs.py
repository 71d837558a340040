"""Each provider's page for operators has the required sections, and its examples are valid settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError

from providers import catalogue, registry
from slots import settings_validation

pytestmark = pytest.mark.unit

OURS = [id for id, provider in registry.get_classes().items() if not provider.__module__.startswith("tests.")]
HEADINGS = ["Getting a key", "Quotas and prices", "Settings", "What its errors mean", "A bad evening"]


def page(provider_id: str) -> str:
    return Path(settings.BASE_DIR, f"docs/providers/{provider_id}.md").read_text()


def examples(provider_id: str) -> list[dict[str, Any]]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page(provider_id), re.DOTALL)]


def accepts(provider_id: str, operation_id: str, example: dict[str, Any]) -> bool:
    try:
        settings_validation.parse(provider_id, operation_id, example)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("provider_id", OURS)
def test_it_has_all_its_parts(provider_id: str) -> None:
    headings = re.findall(r"^## (.*)$", page(provider_id), re.MULTILINE)
    assert [heading for heading in headings if heading in HEADINGS] == HEADINGS


@pytest.mark.parametrize("provider_id", OURS)
def test_every_setting_of_an_operation_is_explained(provider_id: str) -> None:
    common = set(registry.get_classes()["instant"].operations[0].settings.model_fields)
    declared = {
        name for o in registry.get_classes()[provider_id].operations for name in o.settings.model_fields
    } - common
    assert {name for name in declared if f"| `{name}` |" not in page(provider_id)} == set()


@pytest.mark.parametrize(("provider_id", "example"), [(id, example) for id in OURS for example in examples(id)])
def test_its_examples_are_accepted(provider_id: str, example: dict[str, Any]) -> None:
    if "models" in example:  # for the catalogue
        assert example["models"].keys() <= catalogue.load_models(provider_id).keys()
        return
    assert any(
        accepts(provider_id, operation.id, example) for operation in registry.get_classes()[provider_id].operations
    )


@pytest.mark.parametrize("provider_id", OURS)
def test_there_is_an_example(provider_id: str) -> None:
    assert any("models" not in example for example in examples(provider_id))
