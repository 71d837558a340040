"""What a slot may set for Gemini: each rule, and each model's limits from the catalogue."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from django.conf import settings as django_settings

from providers import catalogue
from providers.gemini.settings import AspectRatio, IdentityTransfer, ImageEdit, ImageSize, StyleTransfer
from tests.sandbox.gemini import MODELS

pytestmark = pytest.mark.unit

SAFETY = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}


def get_errors(settings: type[ImageEdit] = ImageEdit, **values: Any) -> dict[str, str]:
    """Messages by field."""
    with pytest.raises(pydantic.ValidationError) as raised:
        settings.model_validate({"prompt": "x"} | values)
    return {".".join(map(str, error["loc"])): error["msg"] for error in raised.value.errors()}


def test_only_the_prompt_is_required() -> None:
    assert ImageEdit(prompt="x").model == "gemini-nano-banana-2.1"
    assert StyleTransfer(prompt="x", style="art").template_keys() == ["art"]
    assert set(get_errors(StyleTransfer)) == {"style"}
    assert set(get_errors(IdentityTransfer)) == {"face"}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 16_001}, "prompt"),
        ({"promt": "x"}, "promt"),
        ({"temperature": 1}, "temperature"),
        ({"person_generation": "ALLOW_ALL"}, "person_generation"),
        ({"aspect_ratio": "5:7"}, "aspect_ratio"),
        ({"image_size": "1k"}, "image_size"),
        ({"thinking_level": "extreme"}, "thinking_level"),
        ({"template_media": "bride"}, "template_media"),
        ({"template_media": ["Not A Key"]}, "template_media.0"),
        ({"template_media": [f"k{n}" for n in range(14)]}, "template_media"),
        ({"safety_settings": [SAFETY | {"method": "PROBABILITY"}]}, "safety_settings.0.method"),
        ({"safety_settings": [SAFETY | {"threshold": "SOMETIMES"}]}, "safety_settings.0.threshold"),
        ({"safety_settings": [SAFETY, SAFETY]}, "safety_settings"),
        ({"negative_prompt": 3}, "negative_prompt"),
    ],
)
def test_what_is_refused_names_its_field(values: dict[str, Any], field: str) -> None:
    assert set(get_errors(**values)) == {field}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"model": "gemini-nano-banana-2.1", "image_size": "512"}, "image_size"),
        ({"model": "gemini-nano-banana-2.1", "thinking_level": "low"}, "thinking_level"),
        ({"model": "gemini-3-pro-image", "thinking_level": "high"}, "thinking_level"),
        ({"model": "gemini-3-pro-image", "aspect_ratio": "1:8"}, "aspect_ratio"),
        ({"model": "gemini-3.1-flash-lite-image", "image_size": "1K"}, "image_size"),
    ],
)
def test_a_model_has_its_own_limits(values: dict[str, Any], field: str) -> None:
    [(name, message)] = get_errors(**values).items()
    assert name == field
    assert values["model"] in message


def test_a_style_counts_among_the_images() -> None:
    keys = [f"k{n}" for n in range(13)]
    assert len(ImageEdit(prompt="x", template_media=keys).image_keys()) == 13
    assert "12" in get_errors(StyleTransfer, style="art", template_media=keys)["template_media"]


@pytest.mark.parametrize("model", ["gemini-3.1-flash-image", "gemini-2.5-flash-image", "gemini-3-pro-image-preview"])
def test_a_retired_model_names_what_to_use(model: str) -> None:
    message = get_errors(model=model)["model"]
    assert "retired" in message
    assert any(name in message for name in catalogue.load_models("gemini")[model]["use_instead"])


def test_an_unknown_model_names_the_current_ones() -> None:
    assert "gemini-nano-banana-2.1" in get_errors(model="dall-e-3")["model"]


def test_an_operator_may_add_a_model(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gemini.json").write_text('{"models": {"gemini-5-image": {"status": "current"}}}')
    monkeypatch.setattr(django_settings, "PROVIDER_CATALOGUE_DIR", str(tmp_path))
    catalogue.load_models.cache_clear()
    try:
        settings = ImageEdit(prompt="x", model="gemini-5-image", image_size="4K", thinking_level="low")
        assert settings.model == "gemini-5-image"
    finally:
        catalogue.load_models.cache_clear()


@pytest.mark.parametrize(("model", "facts"), catalogue.load_models("gemini").items())
def test_the_catalogue_is_whole(model: str, facts: dict[str, Any]) -> None:
    assert facts["source"]
    for price in facts.get("prices", []):
        dt.date.fromisoformat(price["from"])
        assert price["source"]
        assert all(Decimal(price[kind]) > 0 for kind in ("input", "output_text", "output_image"))
    if facts["status"] == "retired":
        assert dt.date.fromisoformat(facts["retired_on"]) < dt.date(2026, 11, 24)
        assert all(catalogue.load_models("gemini")[name]["status"] == "current" for name in facts["use_instead"])
    else:
        assert facts["prices"]
        assert set(facts["ratios"]) <= set(AspectRatio.__args__)  # type: ignore[attr-defined]
        assert set(facts["sizes"]) <= set(ImageSize.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "facts"), [(m, f) for m, f in catalogue.load_models("gemini").items() if f["status"] == "current"]
)
def test_the_sandbox_agrees_with_the_catalogue(model: str, facts: dict[str, Any]) -> None:
    assert set(facts["ratios"]) == set(MODELS[model].ratios)
    assert set(facts["sizes"]) == set(MODELS[model].sizes)
    assert {level.upper() for level in facts["thinking_levels"]} == set(MODELS[model].levels)
