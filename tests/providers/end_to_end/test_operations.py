"""Every operation of every paid provider makes the picture from the booth's photo and the slot's template image."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from PIL import Image, ImageOps, ImageStat

from providers.models import ProviderCall
from stats.models import ProcessingLog
from tests.providers.end_to_end.harness import PROMPT, SCENE, Harness, check, create_template, distance, open_picture
from tests.sandbox.gemini_pictures import TINT

pytestmark = pytest.mark.e2e


def tint(size: tuple[int, int]) -> Image.Image:
    return Image.blend(ImageOps.fit(SCENE, size), Image.new("RGB", size, TINT), 0.25)


def invert(size: tuple[int, int]) -> Image.Image:
    return ImageOps.invert(ImageOps.fit(SCENE, size))


def fade(size: tuple[int, int]) -> Image.Image:
    return Image.blend(ImageOps.fit(SCENE, size), invert(size), 0.4)


def redden(size: tuple[int, int]) -> Image.Image:
    return Image.blend(ImageOps.fit(SCENE, size), Image.new("RGB", size, "red"), 0.5)


def fit(size: tuple[int, int]) -> Image.Image:
    return ImageOps.fit(SCENE, size)


Box = tuple[int, int, int, int]
# The settings, the sandbox's transformation of the photo, and where in the picture the red template image is visible.
OPERATIONS: list[tuple[str, str, dict[str, Any], Callable[[tuple[int, int]], Image.Image], Box | None]] = [
    ("gemini", "image_edit", {"aspect_ratio": "3:2"}, tint, None),
    ("gemini", "style_transfer", {"aspect_ratio": "3:2", "style": "red"}, tint, (30, 750, 100, 820)),
    ("gemini", "identity_transfer", {"aspect_ratio": "3:2", "face": "red"}, tint, (30, 750, 100, 820)),
    ("openai", "image_edit", {}, invert, None),
    ("openai", "style_transfer", {"style": "red"}, invert, (10, 590, 50, 630)),
    ("turbotext", "image_edit", {}, fade, None),
    ("turbotext", "style_transfer", {"style": "red"}, redden, None),
    ("turbotext", "identity_transfer", {"face": "red"}, fit, (20, 20, 300, 180)),
]


@pytest.mark.parametrize(("provider", "operation", "settings", "expected", "stamp"), OPERATIONS)
def test_the_picture_is_made_of_the_very_photo(
    harness: Harness,
    provider: str,
    operation: str,
    settings: dict[str, Any],
    expected: Callable[[tuple[int, int]], Image.Image],
    stamp: Box | None,
) -> None:
    create_template("red", Image.new("RGB", (300, 300), "red"))
    reply = harness.post(provider, operation=operation, **settings)
    picture = open_picture(reply).convert("RGB")
    right = (picture.width // 2, 40, picture.width - 20, picture.height - 160)  # without stamps, borders and captions
    assert distance(picture.crop(right), expected(picture.size).crop(right)) < 6
    if stamp:
        red, green, blue = ImageStat.Stat(picture.crop(stamp)).mean
        assert (red > 200, green + blue < 60) == (True, True)
    check(harness, provider, reply, 200, "made" if provider == "turbotext" else "made$")


def test_the_prompt_is_what_the_slot_says(harness: Harness) -> None:
    for provider in ("gemini", "openai"):
        harness.post(provider)
        assert PROMPT.encode() in harness.paid_requests(provider)[0].body


BOOKS = [
    (
        "gemini",
        "gemini-nano-banana-2.1",
        {"input_tokens": 571, "image_tokens": 1120, "text_tokens": 0, "thought_tokens": 120},
        Decimal("0.035357"),  # 571 × 1.50 + 1120 × 30 + 120 × 7.50, per million
    ),
    (
        "openai",
        "gpt-image-2.5-flare",
        {"text_input_tokens": 16, "image_input_tokens": 260, "text_output_tokens": 0, "image_output_tokens": 122},
        Decimal("0.005820"),  # 16 × 5 + 260 × 8 + 122 × 30, per million
    ),
    ("turbotext", "generate_image2image", {"photo_attempts": 1, "photo_attempts_left": 999}, None),
]


@pytest.mark.parametrize(("provider", "model", "units", "cost"), BOOKS)
def test_the_books_hold_what_was_used_and_what_it_costs(
    harness: Harness, provider: str, model: str, units: dict[str, int], cost: Decimal | None
) -> None:
    assert harness.post(provider).status == 200
    call = ProviderCall.objects.get()
    assert (call.model, call.units, call.cost_usd) == (model, units, cost)
    logged = ProcessingLog.objects.get(status="provider_responded").details.get("cost_usd")
    assert logged == cost if cost is None else abs(Decimal(logged) - cost) < Decimal("0.000001")
