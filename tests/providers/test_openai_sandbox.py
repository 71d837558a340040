"""The OpenAI sandbox: OpenAI's own SDK accepts it, and it refuses what OpenAI refuses."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import httpx
import openai
import pytest
from openai.types import ImagesResponse
from openai.types.shared import ErrorObject
from PIL import Image, ImageOps, ImageStat
from pydantic import ValidationError

from core import images
from photoslot.demo_scene import draw_scene
from tests.sandbox.openai import OpenAI as Speaker
from tests.sandbox.openai_faults import BODIES, ERRORS
from tests.sandbox.pictures import BASE64, ODD
from tests.sandbox.wire import WireSandbox

pytestmark = pytest.mark.integration

PHOTO = ("photo.png", images.encode(draw_scene(300, 200), "png"), "image/png")
OTHER = ("other.jpg", images.encode(Image.new("RGB", (200, 200), "red"), "jpeg"), "image/jpeg")
MODEL = "gpt-image-2.5-flare"


@pytest.fixture(scope="module")
def server() -> Iterator[WireSandbox]:
    with WireSandbox([Speaker]).run() as running:
        yield running


@pytest.fixture
def sandbox(server: WireSandbox) -> Iterator[WireSandbox]:
    server.reset()
    yield server
    server.let_go()


def options(sandbox: WireSandbox, **more: Any) -> dict[str, Any]:
    return {"api_key": "sk-x", "base_url": f"{sandbox.url}/openai/v1", "max_retries": 0} | more


@pytest.fixture
def client(sandbox: WireSandbox) -> Iterator[openai.OpenAI]:
    with closing(openai.OpenAI(**options(sandbox))) as open_picture:
        yield open_picture


@pytest.fixture
async def async_client(sandbox: WireSandbox) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(**options(sandbox)) as open_picture:
        yield open_picture


def open_picture(response: ImagesResponse) -> Image.Image:
    assert response.data is not None
    return Image.open(io.BytesIO(base64.b64decode(response.data[0].b64_json or "")))


# The SDK


def test_the_sdk_edits_two_images_with_a_mask(client: openai.OpenAI) -> None:
    mask = ("mask.png", images.encode(Image.new("RGBA", (300, 200)), "png"), "image/png")
    response = client.images.edit(image=[PHOTO, OTHER], mask=mask, prompt="two", model=MODEL, size="1024x1024")
    picture = open_picture(response)
    assert (picture.size, picture.format) == ((1024, 1024), "PNG")
    expected = ImageOps.invert(ImageOps.fit(Image.open(io.BytesIO(PHOTO[1])), (1024, 1024)))
    assert picture.getpixel((512, 512)) == expected.getpixel((512, 512))
    red, green, blue = ImageStat.Stat(picture.crop((12, 980, 40, 1010))).mean  # the other image's stamp
    assert red > 200
    assert green + blue < 60


async def test_the_async_sdk_edits_two_images(async_client: openai.AsyncOpenAI) -> None:
    response = await async_client.images.edit(
        image=[PHOTO, OTHER],
        prompt="two",
        model=MODEL,
        size="1536x864",
        quality="max",
        output_format="webp",
        output_compression=80,
        background="transparent",
        extra_body={"moderation": "low"},
    )
    picture = open_picture(response)
    assert (picture.size, picture.format, picture.mode) == ((1536, 864), "WEBP", "RGBA")
    assert (response.size, response.quality, response.background) == ("1536x864", "max", "transparent")


def test_the_answer_passes_the_sdks_types_to_the_letter(client: openai.OpenAI) -> None:
    raw = client.images.with_raw_response.edit(image=PHOTO, prompt="one", model=MODEL)
    body = raw.http_response.json()
    strict = ImagesResponse.model_validate(body, strict=True, extra="forbid")
    assert strict.usage is not None
    assert strict.usage.total_tokens == strict.usage.input_tokens + strict.usage.output_tokens
    assert strict.model_dump(exclude_unset=True) == body  # no field is renamed, none is made up


ODDITIES = [
    *("same", "two_images", "no_usage", "plain_usage", "chunked", "gzip", "http10", "bom", "duplicate_headers"),
    *(f"picture:{name}" for name in ODD),
    *(f"base64:{name}" for name in BASE64),
]


@pytest.mark.parametrize("scenario", ODDITIES)
def test_an_odd_answer_passes_the_sdks_types_too(client: openai.OpenAI, scenario: str) -> None:
    raw = client.images.with_raw_response.edit(image=PHOTO, prompt=f"[[{scenario}]]", model=MODEL)
    ImagesResponse.model_validate(
        json.loads(raw.http_response.content.decode("utf-8-sig")), strict=True, extra="forbid"
    )


RENAMED = [
    *("created", "background", "data", "b64_json", "output_format", "quality", "size", "usage"),
    *("input_tokens", "input_tokens_details", "output_tokens", "total_tokens", "image_tokens", "text_tokens"),
]


@pytest.mark.parametrize("field", RENAMED)
def test_a_renamed_field_is_noticed_by_the_sdks_types(sandbox: WireSandbox, field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field}X"):
        ImagesResponse.model_validate(post(sandbox, {"prompt": f"[[rename:{field}]]"}).json(), extra="forbid")


def test_every_reply_has_the_id_of_its_request(client: openai.OpenAI) -> None:
    good = client.images.with_raw_response.edit(image=PHOTO, prompt="one", model=MODEL)
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=PHOTO, prompt="[[moderation_input]]", model=MODEL)
    assert good.headers["x-request-id"] != caught.value.request_id
    assert (caught.value.request_id or "").startswith("req_")


def test_the_sdk_lists_the_models(client: openai.OpenAI) -> None:
    assert "gpt-image-2.5-sunburst" in {model.id for model in client.models.list()}


@pytest.mark.parametrize(
    ("scenario", "kind", "code"),
    [
        ("moderation_input", openai.BadRequestError, "moderation_blocked"),
        ("billing_limit", openai.BadRequestError, "billing_hard_limit_reached"),
        ("bad_key", openai.AuthenticationError, "invalid_api_key"),
        ("not_verified", openai.PermissionDeniedError, None),
        ("model_gone", openai.NotFoundError, "model_not_found"),
        ("rate:1", openai.RateLimitError, "rate_limit_exceeded"),
        ("insufficient_quota", openai.RateLimitError, "insufficient_quota"),
        ("server:409", openai.ConflictError, None),
        ("server:500", openai.InternalServerError, None),
    ],
)
def test_the_sdk_knows_its_own_errors(client: openai.OpenAI, scenario: str, kind: Any, code: str | None) -> None:
    with pytest.raises(kind) as caught:
        client.images.edit(image=PHOTO, prompt=f"[[{scenario}]]", model=MODEL)
    assert caught.value.code == code


def test_an_html_page_and_a_truncated_answer_are_the_sdks_errors_too(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.images.edit(image=PHOTO, prompt="[[html_502]]", model=MODEL)
    assert isinstance(caught.value.body, str)
    with pytest.raises(openai.APIConnectionError):
        client.images.edit(image=PHOTO, prompt="[[truncated]]", model=MODEL)


def test_the_sdk_obeys_the_sandboxs_retry_after(sandbox: WireSandbox) -> None:
    sandbox.speakers["openai"].play("rate_ms:900")
    with closing(openai.OpenAI(**options(sandbox, max_retries=1))) as patient:
        patient.images.edit(image=PHOTO, prompt="one", model=MODEL)
    first, second = sandbox.calls("openai")
    assert second.at - first.at >= 0.9  # without the header it waits half a second at most


# Every error in the official shape

TABLES = {name for name in ERRORS if name not in ("error_text", "error_list")}  # those two are meant to be odd


@pytest.mark.parametrize("scenario", sorted(TABLES))
def test_an_error_has_the_four_keys_of_the_official_schema(sandbox: WireSandbox, scenario: str) -> None:
    argument = {"server": ":500", "should_retry": ":true"}.get(scenario, ":1" if scenario.startswith("rate") else "")
    answer = post(sandbox, {"prompt": f"[[{scenario}{argument}]]"})
    assert answer.status_code >= 400
    assert set(answer.json()) == {"error"}
    ErrorObject.model_validate(answer.json()["error"], strict=True)


# Strictness


def post(sandbox: WireSandbox, data: dict[str, Any], files: Any = None, **more: Any) -> httpx.Response:
    return httpx.post(
        f"{sandbox.url}/openai/v1/images/edits",
        headers={"Authorization": "Bearer sk-x"},
        data=data,
        files=[("image[]", PHOTO)] if files is None else files,
        timeout=30,
        **more,
    )


@pytest.mark.parametrize(
    ("data", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "missing_required_parameter"),
        ({"prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
        ({"response_format": "b64_json"}, "response_format", "unknown_parameter"),
        ({"model": "dall-e-2"}, "model", "model_not_found"),
        ({"model": "gpt-image-3"}, "model", "model_not_found"),
        ({"model": "gpt-image-1.5", "size": "1024x768"}, "size", "invalid_value"),
        ({"size": "1000x1000"}, "size", "invalid_value"),
        ({"size": "640x640"}, "size", "invalid_value"),
        ({"size": "4000x2000"}, "size", "invalid_value"),
        ({"size": "3200x1024"}, "size", "invalid_value"),
        ({"size": "big"}, "size", "invalid_value"),
        ({"model": "gpt-image-2", "quality": "max"}, "quality", "invalid_value"),
        ({"model": "gpt-image-2", "background": "transparent"}, "background", "invalid_value"),
        ({"background": "transparent", "output_format": "jpeg"}, "background", "invalid_value"),
        ({"output_compression": "50"}, "output_compression", "invalid_png_output_compression"),
        ({"output_format": "jpeg", "output_compression": "101"}, "output_compression", "invalid_value"),
        ({"output_format": "tiff"}, "output_format", "invalid_value"),
        ({"input_fidelity": "high"}, "input_fidelity", "invalid_value"),
        ({"moderation": "off"}, "moderation", "invalid_value"),
        ({"n": "11"}, "n", "invalid_value"),
    ],
)
def test_a_field_that_breaks_a_rule(sandbox: WireSandbox, data: dict[str, str], param: str, code: str) -> None:
    answer = post(sandbox, {"prompt": "x"} | data)
    assert answer.status_code == (404 if param == "model" else 400)
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ([], 400, "missing_required_parameter"),
        ([("image[]", PHOTO)] * 17, 400, "array_above_max_length"),
        ([("image", PHOTO), ("image", PHOTO)], 400, "duplicate_parameter"),
        ([("image", PHOTO), ("image[]", PHOTO)], 400, "duplicate_parameter"),
        ([("image[]", (None, PHOTO[1], "image/png"))], 400, "invalid_type"),
        ([("image[]", ("a.heic", PHOTO[1], "image/heic"))], 400, "unsupported_file_mimetype"),
        ([("image[]", ("a.png", b"text", "image/png"))], 400, "invalid_image_file"),
        ([("image[]", ("a.jpg", PHOTO[1], "image/jpeg"))], 400, "invalid_image_file"),
        ([("image[]", PHOTO), ("mask", PHOTO)], 400, "invalid_mask_image_format"),
        ([("image[]", ("a.png", bytes(50_000_000), "image/png"))], 413, None),
    ],
    ids=[
        "none",
        "seventeen",
        "image twice",
        "both names",
        "no file name",
        "heic",
        "no image",
        "mislabelled",
        "mask without alpha",
        "fifty megabytes",
    ],
)
def test_images_that_break_a_rule(sandbox: WireSandbox, files: Any, status: int, code: str | None) -> None:
    answer = post(sandbox, {"prompt": "x"}, files or [("user", (None, "x"))])
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_sixteen_images_are_allowed(sandbox: WireSandbox) -> None:
    assert post(sandbox, {"prompt": "x"}, [("image[]", PHOTO)] * 16).status_code == 200


def test_a_mask_of_another_size(sandbox: WireSandbox) -> None:
    mask = ("mask.png", images.encode(Image.new("RGBA", (30, 20)), "png"), "image/png")
    answer = post(sandbox, {"prompt": "x"}, [("image[]", PHOTO), ("mask", mask)])
    assert answer.json()["error"]["message"].endswith("mask size does not match image size")


@pytest.mark.parametrize("body", [b"", b"--b\r\n\r\n", b"no boundary at all", b"--other\r\n"])
def test_a_body_that_is_no_form(sandbox: WireSandbox, body: bytes) -> None:
    headers = {"Authorization": "Bearer sk-x", "Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{sandbox.url}/openai/v1/images/edits", headers=headers, content=body)
    assert answer.status_code == 400


def test_the_json_variant_takes_data_urls(sandbox: WireSandbox) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PHOTO[1]).decode()}"
    answer = httpx.post(
        f"{sandbox.url}/openai/v1/images/edits",
        headers={"Authorization": "Bearer sk-x"},
        json={"prompt": "x", "images": [{"image_url": url}], "size": "1024x1024"},
        timeout=30,
    )
    assert answer.json()["size"] == "1024x1024"


@pytest.mark.parametrize("header", [{}, {"Authorization": "Basic sk-x"}, {"Authorization": "Bearer pk-x"}])
def test_a_key_is_needed(sandbox: WireSandbox, header: dict[str, str]) -> None:
    answer = httpx.get(f"{sandbox.url}/openai/v1/models", headers=header)
    assert answer.status_code == 401
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("scenario", sorted(BODIES))
def test_a_spoiled_answer_is_not_the_usual_one(sandbox: WireSandbox, scenario: str) -> None:
    argument = ":invalid" if scenario == "base64" else ""
    usual, spoiled = (post(sandbox, {"prompt": prompt}).json() for prompt in ("x", f"[[{scenario}{argument}]]"))
    del usual["created"]
    spoiled.pop("created")
    assert spoiled != usual
