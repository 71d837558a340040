"""Odd pictures from a provider. They are paid for: a usable one is used, for an unusable one no second call is made."""

from __future__ import annotations

import pytest

from tests.providers.end_to_end.harness import PROVIDERS, SCENE, Harness, check, distance, open_picture
from tests.sandbox.pictures import BASE64, ODD, UNUSABLE

pytestmark = pytest.mark.e2e

USABLE = [*(f"picture:{name}" for name in ODD if name not in UNUSABLE), "two_images", "same"]
IN_JSON = [f"base64:{name}" for name in BASE64 if name != "invalid"]
BAD = [f"picture:{name}" for name in UNUSABLE]


def expected_calls(provider: str) -> str:
    return "made" if provider == "turbotext" else "made$"


def pair(scenarios: list[str], *providers: str) -> list[tuple[str, str]]:
    return [(provider, scenario) for scenario in scenarios for provider in providers]


@pytest.mark.parametrize(("provider", "scenario"), pair(USABLE, *PROVIDERS) + pair(IN_JSON, "gemini", "openai"))
def test_an_odd_picture_is_a_picture(harness: Harness, provider: str, scenario: str) -> None:
    check(harness, provider, harness.post(provider, scenario), 200, expected_calls(provider))


@pytest.mark.parametrize("scenario", USABLE)
def test_whatever_it_is_the_booth_gets_the_size_and_format_of_its_slot(harness: Harness, scenario: str) -> None:
    reply = harness.post("turbotext", scenario, output={"format": "jpeg", "width": 600, "height": 400})
    picture = open_picture(reply)
    assert (picture.size, picture.format, picture.mode) == ((600, 400), "JPEG", "RGB")


@pytest.mark.parametrize(("provider", "scenario"), pair(BAD, *PROVIDERS) + pair(["base64:invalid"], "gemini", "openai"))
def test_what_is_no_picture_is_not_bought_again(harness: Harness, provider: str, scenario: str) -> None:
    expected = "failed:no_image" if provider == "turbotext" else "ambiguous:no_image$"
    check(harness, provider, harness.post(provider, scenario), 502, expected)


def test_a_download_without_end_is_broken_off(harness: Harness) -> None:
    check(harness, "turbotext", harness.post("turbotext", "too_large"), 502, "failed:no_image")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_photo_itself_is_an_answer_like_any_other(harness: Harness, provider: str) -> None:
    picture = open_picture(harness.post(provider, "same"))
    assert distance(picture, SCENE.resize(picture.size)) < 6
