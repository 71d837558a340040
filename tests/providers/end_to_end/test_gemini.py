"""Each of Gemini's own errors, end to end; those of transport and pictures are in their own modules."""

from __future__ import annotations

import datetime as dt

import pytest
from PIL import Image

from core import images
from tests.providers.end_to_end.harness import Harness, check, create_template, open_picture
from tests.sandbox.pictures import encode

pytestmark = pytest.mark.e2e

# The scenario, which every request plays, and the recorded calls. A $: the cost is recorded, also of a refusal.
REASONS = [
    ("text_only", 2 * "failed:no_image$ "),
    ("no_parts", 2 * "failed:no_image$ "),
    ("only_thoughts", 2 * "failed:no_image$ "),
    ("no_candidates", 2 * "failed:no_image$ "),
    ("error_200", 2 * "failed:no_image "),
    ("finish:NO_IMAGE", 4 * "failed:no_image$ "),
    ("finish:IMAGE_OTHER", 2 * "failed:no_image$ "),
    ("finish:OTHER", 2 * "failed:no_image$ "),
    ("finish:MALFORMED_RESPONSE", 2 * "failed:no_image$ "),
    ("finish:MAX_TOKENS", 2 * "failed:no_image$ "),
    ("finish:A_REASON_OF_NEXT_YEAR", 2 * "failed:no_image$ "),
    ("finish:CONTINUATION", "failed:no_image$"),
    ("finish:IMAGE_SAFETY", 2 * "refused:refused$ "),
    ("finish:IMAGE_PROHIBITED_CONTENT", "refused:refused$"),
    ("finish:PROHIBITED_CONTENT", "refused:refused$"),
    ("finish:SAFETY", "refused:refused$"),
    ("finish:BLOCKLIST", "refused:refused$"),
    ("finish:SPII", "refused:refused$"),
    ("finish:IMAGE_RECITATION", "refused:refused$"),
    ("finish:RECITATION", "refused:refused$"),
    ("finish:LANGUAGE", "failed:bad_settings$"),
    ("finish:ESCALATION", "failed:bad_settings$"),
    ("finish:MISSING_THOUGHT_SIGNATURE", "failed:bad_settings$"),
    ("finish:MALFORMED_FUNCTION_CALL", "failed:bad_settings$"),
    ("finish:UNEXPECTED_TOOL_CALL", "failed:bad_settings$"),
    ("finish:TOO_MANY_TOOL_CALLS", "failed:bad_settings$"),
    ("finish:PUP_LIMITED_DISABLED", "failed:auth$"),
    ("block:SAFETY", "refused:refused$"),
    ("block:OTHER", "refused:refused$"),
    ("block:BLOCKLIST", "refused:refused$"),
    ("block:PROHIBITED_CONTENT", "refused:refused$"),
    ("block:IMAGE_SAFETY", "refused:refused$"),
    ("recorded_refusal", "refused:refused$"),
]
ERRORS = [
    ("unauthenticated", "failed:auth"),
    ("suspended", "failed:auth"),
    ("region", "failed:auth"),
    ("depleted", "failed:quota"),
    ("day", "failed:quota"),
    ("no_billing", "failed:quota"),
    ("gone", "failed:bad_settings"),
    ("tokens", "failed:bad_settings"),
    ("too_large", "failed:bad_photo"),
    ("cancelled", "failed:slow"),
    ("overloaded", 5 * "failed:overloaded "),
]
PASSING = [
    ("rate:0s", "failed:overloaded made$"),
    ("rate:0.2s", "failed:overloaded made$"),
    ("rate_prose:0.2s", "failed:overloaded made$"),
    ("rate_bare", "failed:overloaded made$"),
    ("overloaded", "failed:overloaded made$"),
    ("in_a_list", "failed:overloaded made$"),
    ("internal", "failed:overloaded made$"),
    ("deadline", "failed:slow made$"),
    ("timeout", "failed:slow made$"),
    ("finish:NO_IMAGE", "failed:no_image$ made$"),
    ("finish:IMAGE_SAFETY", "refused:refused$ made$"),
    ("drafts", "made$"),
    ("no_usage", "made"),  # an unknown cost is unknown, not nothing
]


@pytest.mark.parametrize(("scenario", "expected"), REASONS + ERRORS)
def test_a_fault(harness: Harness, scenario: str, expected: str) -> None:
    reply = harness.post("gemini", (scenario,) * 5)
    check(harness, "gemini", reply, 502, expected.strip())


@pytest.mark.parametrize(("scenario", "expected"), PASSING)
def test_a_fault_that_passes(harness: Harness, scenario: str, expected: str) -> None:
    check(harness, "gemini", harness.post("gemini", scenario), 200, expected)


def test_overloaded_three_times_and_then_a_picture(harness: Harness) -> None:
    reply = harness.post("gemini", ("overloaded", "internal", "overloaded"))
    check(harness, "gemini", reply, 200, 3 * "failed:overloaded " + "made$")


def test_a_wish_to_wait_beyond_the_deadline_ends_it_at_once(harness: Harness) -> None:
    check(harness, "gemini", harness.post("gemini", "rate:60s"), 502, "failed:overloaded")


def test_a_photo_that_gemini_cannot_read_is_encoded_again_once(harness: Harness) -> None:
    check(harness, "gemini", harness.post("gemini", "bad_image"), 200, "made$", posts=2)


def test_a_photo_that_gemini_cannot_read_at_all(harness: Harness) -> None:
    reply = harness.post("gemini", ("bad_image", "bad_image"))
    check(harness, "gemini", reply, 502, "failed:bad_photo", posts=2)


# The Files API


def large(number: int) -> Image.Image:
    """A template image that is large enough for an upload, different for each number."""
    return Image.effect_noise((900, 900), 60 + number).convert("RGB")


@pytest.mark.parametrize("fault", ["", "processing:1", "start_503", "not_final"])
def test_a_template_is_uploaded_or_goes_with_the_request(harness: Harness, fault: str) -> None:
    create_template("style", large(1))
    harness.google.files.plays.append(fault)
    reply = harness.post("gemini", operation="style_transfer", style="style")
    check(harness, "gemini", reply, 200, "made$")
    assert len([file for file in harness.google.files.files.values() if file.data]) == (fault != "start_503")


def test_a_template_that_gemini_cannot_read(harness: Harness) -> None:
    create_template("style", large(2))
    harness.google.files.plays.append("failed")
    reply = harness.post("gemini", operation="style_transfer", style="style")
    assert (reply.status, b'"bad_template"' in reply.body) == (502, True)
    assert harness.paid_requests("gemini") == []


def test_a_template_that_has_expired_at_the_provider_is_uploaded_again(harness: Harness) -> None:
    create_template("style", large(3))
    assert harness.post("gemini", operation="style_transfer", style="style").status == 200
    harness.google.files.ahead = dt.timedelta(hours=49)
    assert harness.post("gemini", operation="style_transfer", style="style").status == 200
    assert [file.name for file in harness.google.files.files.values()] == ["files/sandbox1", "files/sandbox2"]


@pytest.mark.parametrize(("number", "scenario"), [(4, "lost_file_403"), (5, "lost_file_404")])
def test_a_template_that_was_lost_early_is_uploaded_again(harness: Harness, number: int, scenario: str) -> None:
    create_template("style", large(number))
    reply = harness.post("gemini", scenario, operation="style_transfer", style="style")
    check(harness, "gemini", reply, 200, "made$", posts=2)
    assert len(harness.google.files.files) == 2


def test_a_photo_too_large_to_go_along_is_uploaded_and_deleted_whatever_comes(harness: Harness) -> None:
    noise = Image.merge("RGB", [Image.effect_noise((4000, 4000), 200)] * 3)
    reply = harness.post("gemini", "finish:SAFETY", photo=encode(noise, "JPEG", quality=98), image_size="4K")
    check(harness, "gemini", reply, 502, "refused:refused$")
    assert len(harness.wire.calls("gemini", "DELETE")) == 1


def test_a_picture_in_4k_comes_whole(harness: Harness) -> None:
    picture = open_picture(harness.post("gemini", image_size="4K", aspect_ratio="3:2"))
    assert picture.size == (5056, 3392)
    images.decode(encode(picture, "JPEG"))
