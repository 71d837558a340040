"""The requests to Gemini, field by field."""

from __future__ import annotations

import asyncio
import base64
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from core import images
from photoslot.demo_scene import draw_scene
from providers.base import PermanentError, Picture, ProviderError, Reason
from providers.gemini import Gemini
from tests.providers.gemini_factories import (
    PHOTO,
    build_request,
    fail,
    find_operation,
    generations,
    make,
    make_account,
    read_json,
    read_parts,
)
from tests.sandbox.gemini import KEY
from tests.sandbox.gemini import Gemini as Google
from tests.sandbox.pictures import encode

pytest_plugins = "tests.providers.gemini_fixtures"
pytestmark = pytest.mark.integration

WHITE = Picture(encode(Image.new("RGB", (90, 60), "white"), "PNG"), "image/png")
BLACK = Picture(encode(Image.new("RGB", (90, 60), "black"), "PNG"), "image/png")
BLUE = Picture(encode(Image.new("RGB", (90, 60), "blue"), "PNG"), "image/png")


def decode_part(part: dict[str, Any]) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(part["inlineData"]["data"])))


async def test_the_least_request(gemini: Gemini, google: Google) -> None:
    await make(gemini, build_request(prompt="Make it snow"))
    [call] = google.sandbox.journal
    assert call.path == "/v1beta/models/gemini-nano-banana-2.1:generateContent"
    assert call.query == {}
    assert call.headers["x-goog-api-key"] == KEY
    assert call.headers["content-type"] == "application/json"
    assert KEY.encode() not in call.body
    photo = {"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(PHOTO.data).decode()}}
    assert read_json(google) == {
        "contents": [{"role": "user", "parts": [photo, {"text": "Make it snow"}]}],
        "generationConfig": {"responseModalities": ["IMAGE"]},
    }


async def test_every_setting(gemini: Gemini, google: Google) -> None:
    safety = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}
    settings: dict[str, Any] = {
        "aspect_ratio": "3:4",
        "image_size": "2K",
        "thinking_level": "high",
        "safety_settings": [safety],
    }
    picture = await make(gemini, build_request(prompt="Make it snow", negative_prompt="dogs", **settings))
    body = read_json(google)
    assert body["contents"][0]["parts"][-1] == {"text": "Make it snow\n\nAvoid: dogs"}
    assert body["safetySettings"] == [safety]
    assert body["generationConfig"] == {
        "responseModalities": ["IMAGE"],
        "imageConfig": {"aspectRatio": "3:4", "imageSize": "2K"},
        "thinkingConfig": {"thinkingLevel": "HIGH"},
    }
    assert Image.open(BytesIO(picture.data)).size == (1792, 2400)


@pytest.mark.parametrize(("operation", "key"), [("style_transfer", "style"), ("identity_transfer", "face")])
async def test_photo_first_then_its_template_then_the_list_then_the_prompt(
    gemini: Gemini, google: Google, operation: str, key: str
) -> None:
    templates = {"a": WHITE, "b": BLACK, "c": BLUE}
    settings: dict[str, Any] = {key: "c", "template_media": ["b", "a", "c"], "frame": "unused"}
    await make(gemini, build_request(PHOTO, templates, operation, **settings))
    *pictures, prompt = read_parts(google)
    assert decode_part(pictures[0]).size == (600, 400)
    colours = [decode_part(part).convert("RGB").getpixel((5, 5)) for part in pictures[1:]]
    assert colours == [(0, 0, 255), (0, 0, 0), (255, 255, 255)]
    assert prompt == {"text": "As a watercolour"}


async def test_the_picture_is_made_from_the_photo_and_the_templates(gemini: Gemini) -> None:
    picture = await make(gemini, build_request(PHOTO, {"a": BLUE}, template_media=["a"]))
    made, photo = Image.open(BytesIO(picture.data)).convert("RGB"), draw_scene(600, 400)
    red, green, blue = made.getpixel((30, made.height - 60))  # type: ignore[misc]
    assert blue > 200
    assert max(red, green) < 100
    middle = photo.resize((1, 1), box=(250, 150, 350, 250)).getpixel((0, 0))
    tinted = made.crop((made.width // 2 - 80, made.height // 2 - 80, made.width // 2 + 80, made.height // 2 + 80))
    expected = [0.75 * channel + 0.25 * tint for channel, tint in zip(middle, (255, 140, 0), strict=True)]  # type: ignore[arg-type]
    assert tinted.resize((1, 1)).getpixel((0, 0)) == pytest.approx(expected, abs=25)


@pytest.mark.parametrize(
    ("model", "ratio", "size", "pixels"),
    [
        ("gemini-nano-banana-2.1", None, None, (1264, 848)),
        ("gemini-nano-banana-2.1", "21:9", "1K", (1584, 672)),
        ("gemini-nano-banana-2.1", "1:8", "1K", (384, 3072)),
        ("gemini-3-pro-image", "4:5", "2K", (1856, 2304)),
        ("gemini-nano-banana-2.1", "1:1", "4K", (4096, 4096)),
        ("gemini-3.1-flash-lite-image", "9:16", None, (768, 1376)),
    ],
)
async def test_the_models_and_their_sizes(
    gemini: Gemini, model: str, ratio: str | None, size: str | None, pixels: tuple[int, int]
) -> None:
    picture = await make(gemini, model=model, aspect_ratio=ratio, image_size=size)
    assert images.probe(picture.data).mime_type == picture.mime_type
    assert Image.open(BytesIO(picture.data)).size == pixels


@pytest.mark.parametrize(
    ("format", "size", "image_size", "side"),
    [
        ("HEIF", (300, 200), None, 300),
        ("JPEG", (4200, 2800), None, 2048),
        ("JPEG", (4200, 2800), "2K", 3000),
        ("JPEG", (4200, 2800), "4K", 4096),
    ],
)
async def test_the_photo_is_prepared(
    gemini: Gemini, google: Google, format: str, size: tuple[int, int], image_size: str | None, side: int
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRET-CAMERA"
    data = encode(draw_scene(300, 200).resize(size), format, exif=exif)
    await make(gemini, build_request(Picture(data, "image/heic"), image_size=image_size))
    photo = read_parts(google)[0]
    assert photo["inlineData"]["mimeType"] == "image/jpeg"
    assert max(decode_part(photo).size) == side
    assert b"SECRET-CAMERA" not in base64.b64decode(photo["inlineData"]["data"])


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (build_request(Picture(b"GIF89a", "image/gif")), Reason.BAD_PHOTO),
        (build_request(template_media=["gone"]), Reason.BAD_TEMPLATE),
        (build_request(PHOTO, {"broken": Picture(b"?", "image/png")}, template_media=["broken"]), Reason.BAD_TEMPLATE),
    ],
)
async def test_an_unusable_request_is_not_sent(gemini: Gemini, google: Google, request_: Any, reason: Reason) -> None:
    with pytest.raises(PermanentError) as raised:
        await make(gemini, request_)
    assert raised.value.reason is reason
    assert google.sandbox.journal == []


async def test_an_image_the_provider_cannot_read_is_encoded_again_once(gemini: Gemini, google: Google) -> None:
    google.play("bad_image")
    await make(gemini)
    before, after = (read_parts(google, number)[0]["inlineData"]["data"] for number in (0, 1))
    assert before == base64.b64encode(PHOTO.data).decode() != after
    google.play("bad_image", "bad_image")
    [error] = await fail(gemini)
    assert (type(error), error.reason) == (PermanentError, Reason.BAD_PHOTO)


async def test_a_cancelled_job_closes_the_connection(gemini: Gemini, google: Google) -> None:
    google.play("hold")
    job = asyncio.create_task(make(gemini))
    await asyncio.to_thread(google.sandbox.wait_for, lambda: len(generations(google)) == 1)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await asyncio.to_thread(google.sandbox.wait_for, lambda: len(google.sandbox.hung_up) == 1)
    assert job.cancelled()


async def test_the_account_is_checked_by_a_harmless_call(gemini: Gemini, google: Google) -> None:
    await gemini.check_account()
    [call] = google.sandbox.journal
    assert (call.method, call.path, call.query) == ("GET", "/v1beta/models", {"pageSize": ["1"]})


@pytest.mark.parametrize(("key", "reason"), [("wrong", Reason.AUTH), ("", Reason.AUTH)])
async def test_a_wrong_key_is_reported(google: Google, key: str, reason: Reason) -> None:
    adapter = Gemini(make_account(google, key))
    with pytest.raises(PermanentError) as checked:
        await adapter.check_account()
    with pytest.raises(ProviderError) as made:
        await make(adapter)
    await adapter.aclose()
    assert {checked.value.reason, made.value.reason} == {reason}
    assert len(generations(google)) == 1


def test_the_operations() -> None:
    assert [operation.id for operation in Gemini.operations] == ["image_edit", "style_transfer", "identity_transfer"]
    assert find_operation("image_edit").settings is not find_operation("style_transfer").settings
    assert not Gemini.repeatable
