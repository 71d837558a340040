"""Turbotext's settings, and parsing of its responses, which have no schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from django.conf import settings
from pydantic import ValidationError

from providers import catalogue
from providers.turbotext import Turbotext, responses
from providers.turbotext.operations import IdentityTransfer, ImageEdit, StyleTransfer
from tests.sandbox.turbotext_helpers import PROMPT

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("operation_id", "values", "field"),
    [
        ("image_edit", {}, "prompt"),
        ("image_edit", {"prompt": "  "}, "prompt"),
        ("image_edit", {"prompt": "x" * 2001}, "prompt"),
        ("image_edit", {"prompt": "x", "strength": 81}, "strength"),
        ("image_edit", {"prompt": "x", "strength": -1}, "strength"),
        ("image_edit", {"prompt": "x", "strength": 1.5}, "strength"),
        ("image_edit", {"prompt": "x", "seed": 0}, "seed"),
        ("image_edit", {"prompt": "x", "seed": 10**10 + 1}, "seed"),
        ("image_edit", {"prompt": "x", "scale": 0.05}, "scale"),
        ("image_edit", {"prompt": "x", "scale": 20.1}, "scale"),
        ("image_edit", {"prompt": "x", "scale": float("nan")}, "scale"),
        ("image_edit", {"prompt": "x", "negative_prompt": "word " * 81}, "negative_prompt"),
        ("image_edit", {"prompt": "x", "original_language": "russian"}, "original_language"),
        ("image_edit", {"prompt": "x", "model": "y"}, "model"),
        ("style_transfer", {}, "style"),
        ("style_transfer", {"style": "mood", "strength": 1}, "strength"),
        ("identity_transfer", {}, "face"),
        ("identity_transfer", {"face": "hero", "face_restore": "True"}, "face_restore"),
    ],
)
def test_settings_are_refused_with_the_field_named(operation_id: str, values: dict[str, Any], field: str) -> None:
    declared = {operation.id: operation.settings for operation in Turbotext.operations}
    with pytest.raises(ValidationError) as caught:
        declared[operation_id].model_validate(values)
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


@pytest.mark.parametrize(
    "values", [{"strength": 0}, {"strength": 80}, {"seed": 10**10}, {"scale": 20}, {"negative_prompt": "word " * 80}]
)
def test_the_limits_themselves_are_allowed(values: Mapping[str, Any]) -> None:
    ImageEdit.model_validate({"prompt": PROMPT, **values})


def test_a_retired_method_is_refused_with_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"status": "retired", "retired_on": "2027-01-01", "use_instead": ["generate_image2image"]}
    monkeypatch.setitem(catalogue.load_models("turbotext"), "mix_images", facts)
    with pytest.raises(ValidationError, match=r"mix_images was retired on 2027-01-01\. Use: generate_image2image"):
        StyleTransfer(style="mood")


def test_the_examples_of_the_documentation_work() -> None:
    page = (settings.BASE_DIR / "docs/providers/turbotext.md").read_text()
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    for operation, example in zip(Turbotext.operations, examples, strict=True):
        operation.settings.model_validate(example)


def test_settings_point_to_their_templates() -> None:
    assert StyleTransfer(style="mood", frame="gala").template_keys() == ["mood", "gala"]
    assert IdentityTransfer(face="hero").template_keys() == ["hero"]


# Responses


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        ('{"success":true,"data":{"prompt":"a"],"seed":1},"error":""}', {"success": True, "seed": 1}),
        ('{"success":true,"data":{"prompt":"a ]} \\" ]"],"seed":1}}', {"success": True, "seed": 1}),
        ('Notice: {x} in {file}\n{"success":true,"data":{"seed":1}}<!-- {} -->', {"success": True, "seed": 1}),
        ('{"action":"reconnect"}', {"action": "reconnect"}),
    ],
)
def test_objects_are_found(body: str, parsed: dict[str, Any]) -> None:
    found = responses.parse(body.encode())
    assert found is not None
    assert {name: found.get(name, found.get("data", {}).get(name)) for name in parsed} == parsed


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"null", b'"success"', b"{" * 60_000, b'{"success":' + b"[" * 60_000]
)
def test_what_is_no_answer_is_none(body: bytes) -> None:
    assert responses.parse(body) is None
