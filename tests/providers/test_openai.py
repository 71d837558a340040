"""The OpenAI adapter against the sandbox on a real socket: its requests, and its result for every response."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from PIL import Image, ImageChops, ImageOps, ImageStat
from pydantic import ValidationError

from core import images
from photoslot.demo_scene import draw_scene
from providers import catalogue
from providers.attempts import Deadline, DeadlineReached, make_picture
from providers.base import (
    Account,
    AmbiguousError,
    OperationSettings,
    Output,
    PermanentError,
    Picture,
    ProviderError,
    Reason,
    Request,
    Retry,
    TransientError,
    Usage,
)
from providers.openai import OpenAI
from providers.openai.form import ImageEdit, StyleTransfer
from providers.prepare import template_cache
from tests.conftest import jpeg
from tests.providers.observers import Permissive, keep_picture
from tests.sandbox.openai import OpenAI as Speaker
from tests.sandbox.openai_form import parts
from tests.sandbox.pictures import ODD, UNUSABLE
from tests.sandbox.wire import Received, WireSandbox

pytestmark = pytest.mark.integration

KEY = "sk-proj-tests0123456789"
SCENE = draw_scene(640, 480)
PHOTO = Picture(images.encode(SCENE, "jpeg", 95), "image/jpeg")
PROMPT = "Make it a painting — “oil”, 油画"


@pytest.fixture(scope="module")
def server() -> Iterator[WireSandbox]:
    with WireSandbox([Speaker]).run() as running:
        yield running


@pytest.fixture
def sandbox(server: WireSandbox) -> Iterator[WireSandbox]:
    server.reset()
    yield server
    server.let_go()


@dataclass
class Recorder(Permissive):
    """Records the error of each attempt."""

    errors: list[ProviderError | None] = field(default_factory=list)

    async def on_accepted(self, reference: str) -> None:
        raise AssertionError("there is no queue")

    def on_poll(self) -> None:
        raise AssertionError("there is no queue")

    async def on_attempt(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> None:
        self.errors.append(error)


@dataclass
class Booth:
    """Sends one photo through the adapter, with retries and deadline as the worker does."""

    sandbox: WireSandbox
    key: str = KEY
    recorder: Recorder = field(default_factory=Recorder)

    @property
    def url(self) -> str:
        return f"{self.sandbox.url}/openai/v1"

    @property
    def posts(self) -> list[Received]:
        return self.sandbox.calls("openai")

    def make(
        self,
        settings: OperationSettings,
        photo: Picture = PHOTO,
        templates: Mapping[str, Picture] | None = None,
        seconds: float = 20,
    ) -> Picture:
        async def run() -> Picture:
            provider = OpenAI(Account(self.key, self.url))
            try:
                request = Request(uuid4(), "any", settings, photo, templates or {})
                return await make_picture(provider, request, Deadline.after(seconds), self.recorder, keep_picture)
            finally:
                await provider.aclose()

        return asyncio.run(run())

    def play(self, *scenarios: str, attempts: int = 1, seconds: float = 20) -> Picture:
        self.sandbox.speakers["openai"].play(*scenarios)
        return self.make(edit(retry=Retry(attempts=attempts, pause_seconds=0)), seconds=seconds)

    def fail(self, *scenarios: str, attempts: int = 3) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            self.play(*scenarios, attempts=attempts)
        return caught.value


@pytest.fixture
def booth(sandbox: WireSandbox) -> Booth:
    return Booth(sandbox)


def edit(**settings: Any) -> ImageEdit:
    return ImageEdit(**{"prompt": PROMPT} | settings)


def make_colour(colour: str, format: images.Format = "png") -> Picture:
    return Picture(images.encode(Image.new("RGB", (300, 300), colour), format), images.MIME_TYPES[format])


def distance(left: Image.Image, right: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(left, right)).mean) / 3


# What is sent


def test_the_picture_is_made_of_the_photo_at_the_size_asked_for(booth: Booth) -> None:
    made = booth.make(edit(size="1024x768"))
    assert made.mime_type == "image/jpeg"
    expected = ImageOps.invert(ImageOps.fit(SCENE, (1024, 768)))
    assert distance(images.decode(made.data), expected) < 6  # the line of text costs that much


def test_the_form_is_what_the_documentation_says(booth: Booth) -> None:
    booth.make(edit(size="1024x1024", quality="high", background="opaque", moderation="low"))
    [post] = booth.posts
    assert post.path == "/v1/images/edits"
    assert {part.name: part.data.decode() for part in parts(post) if part.filename is None} == {
        "prompt": PROMPT,
        "model": "gpt-image-2.5-flare",
        "size": "1024x1024",
        "quality": "high",
        "background": "opaque",
        "moderation": "low",
        "output_format": "jpeg",
        "output_compression": "95",
    }


def test_the_headers_carry_the_key_and_a_length(booth: Booth) -> None:
    booth.make(edit())
    [post] = booth.posts
    assert post.headers["authorization"] == f"Bearer {KEY}"
    assert post.headers["content-length"] == str(len(post.body))
    assert "transfer-encoding" not in post.headers
    assert post.query == {}


def test_photo_style_and_further_images_go_in_this_order(booth: Booth) -> None:
    templates = {"mood": make_colour("red"), "back": make_colour("lime", "jpeg"), "hat": make_colour("blue", "webp")}
    settings = StyleTransfer(prompt=PROMPT, style="mood", template_media=["back", "hat"], size="1024x1024")
    made = images.decode(booth.make(settings, templates=templates).data)
    files = [part for part in parts(booth.posts[0]) if part.filename]
    assert [(part.name, part.filename, part.content_type) for part in files] == [
        ("image[]", "photo.jpeg", "image/jpeg"),
        ("image[]", "mood.png", "image/png"),
        ("image[]", "back.jpeg", "image/jpeg"),
        ("image[]", "hat.webp", "image/webp"),
    ]
    stamps = [made.crop((x, 980, x + 40, 1010)) for x in (12, 76, 140)]  # the sandbox puts them side by side
    reds, greens, blues = zip(*[ImageStat.Stat(stamp).mean for stamp in stamps], strict=True)
    assert (max(reds), max(greens), max(blues)) == (reds[0], greens[1], blues[2])


@pytest.mark.parametrize(("size", "longest"), [("auto", 2048), ("1024x1024", 2048), ("3840x2160", 3840)], ids=str)
def test_a_photo_goes_no_larger_than_is_useful(booth: Booth, size: str, longest: int) -> None:
    booth.make(edit(size=size, quality="low"), Picture(jpeg(4200, 2800), "image/jpeg"))
    photo = next(part for part in parts(booth.posts[0]) if part.filename)
    assert max(Image.open(io.BytesIO(photo.data)).size) == longest


def test_an_iphones_photo_goes_as_jpeg_without_its_place(booth: Booth) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    buffer = io.BytesIO()
    SCENE.save(buffer, "HEIF", exif=exif)
    booth.make(edit(), Picture(buffer.getvalue(), "image/heic"))
    photo = next(part for part in parts(booth.posts[0]) if part.filename)
    assert photo.content_type == "image/jpeg"
    assert not Image.open(io.BytesIO(photo.data)).getexif()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("jpeg", "95")),
        ({"output": Output(format="jpeg", quality=80)}, ("jpeg", "80")),
        ({"output": Output(format="jpeg", quality=80, width=600)}, ("jpeg", "95")),
        ({"output": Output(format="jpeg", quality=80), "frame": "gala"}, ("jpeg", "95")),
        ({"output": Output(format="webp", quality=70)}, ("webp", "70")),
        ({"output": Output(format="png")}, ("png", None)),
        ({"background": "transparent"}, ("png", None)),
        ({"background": "transparent", "output": Output(format="webp")}, ("webp", "92")),
    ],
)
def test_the_format_asked_for_is_the_one_the_slot_needs(
    booth: Booth, settings: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    made = booth.make(edit(**settings))
    sent = {part.name: part.data.decode() for part in parts(booth.posts[0]) if part.filename is None}
    assert (sent["output_format"], sent.get("output_compression")) == expected
    assert made.mime_type == f"image/{expected[0]}"


def test_a_transparent_background_comes_through(booth: Booth) -> None:
    made = booth.make(edit(background="transparent"))
    assert images.decode(made.data).getchannel("A").getextrema() == (0, 255)


# What it costs


def test_the_bill_is_the_usage_at_the_prices_of_the_catalogue(booth: Booth) -> None:
    usage = booth.make(edit(size="1024x1024", quality="medium")).usage
    text, image = 6 + len(PROMPT) // 4, 20 * 15
    assert usage == Usage(
        {"text_input_tokens": text, "image_input_tokens": image, "text_output_tokens": 0, "image_output_tokens": 1667},
        "gpt-image-2.5-flare",
        Decimal(5 * text + 8 * image + 30 * 1667) / 1_000_000,
    )


def test_output_tokens_without_details_are_the_pictures(booth: Booth) -> None:
    usage = booth.play("plain_usage").usage
    assert usage is not None
    assert usage.units["image_output_tokens"] == 1667 * 1536 * 1024 // 1024**2
    assert usage.cost is not None


@pytest.mark.parametrize("scenario", ["no_usage", "bad_usage"])
def test_a_picture_without_figures_has_an_unknown_cost(booth: Booth, scenario: str) -> None:
    made = booth.play(scenario)
    assert made.usage == Usage({}, "gpt-image-2.5-flare", None)


# Errors

FAULTS: dict[str, tuple[type[ProviderError], Reason]] = {
    "moderation_input": (PermanentError, Reason.REFUSED),
    "moderation_output": (PermanentError, Reason.REFUSED),
    "safety_violations": (PermanentError, Reason.REFUSED),
    "content_policy": (PermanentError, Reason.REFUSED),
    "safety_words": (PermanentError, Reason.REFUSED),
    "invalid_image": (PermanentError, Reason.BAD_PHOTO),
    "too_large": (PermanentError, Reason.BAD_PHOTO),
    "media_type": (PermanentError, Reason.BAD_PHOTO),
    "invalid_value": (PermanentError, Reason.BAD_SETTINGS),
    "unknown_parameter": (PermanentError, Reason.BAD_SETTINGS),
    "model_gone": (PermanentError, Reason.BAD_SETTINGS),
    "billing_limit": (PermanentError, Reason.QUOTA),
    "billing_inactive": (PermanentError, Reason.QUOTA),
    "insufficient_quota": (PermanentError, Reason.QUOTA),
    "bad_key": (PermanentError, Reason.AUTH),
    "not_verified": (PermanentError, Reason.AUTH),
    "country": (PermanentError, Reason.AUTH),
    "redirect:http://127.0.0.1:9/": (TransientError, Reason.OVERLOADED),
    "rate_silent": (TransientError, Reason.OVERLOADED),
    "server:500": (TransientError, Reason.OVERLOADED),
    "server:502": (TransientError, Reason.OVERLOADED),
    "server:503": (TransientError, Reason.OVERLOADED),
    "server:504": (TransientError, Reason.SLOW),
    "server:408": (TransientError, Reason.SLOW),
    "server:409": (TransientError, Reason.OVERLOADED),
    "html_502": (TransientError, Reason.OVERLOADED),
    "error_text": (TransientError, Reason.OVERLOADED),
    "error_list": (TransientError, Reason.OVERLOADED),
    "server:503:false": (PermanentError, Reason.OVERLOADED),
    "should_retry:false": (PermanentError, Reason.BAD_SETTINGS),
    "should_retry:true": (TransientError, Reason.BAD_SETTINGS),
    "lost": (AmbiguousError, Reason.SLOW),
    "truncated": (AmbiguousError, Reason.SLOW),
    "reset": (AmbiguousError, Reason.SLOW),
    "html_200": (AmbiguousError, Reason.NO_IMAGE),
    "empty": (AmbiguousError, Reason.NO_IMAGE),
    "bad_utf8": (AmbiguousError, Reason.NO_IMAGE),
    "no_data": (AmbiguousError, Reason.NO_IMAGE),
    "null_data": (AmbiguousError, Reason.NO_IMAGE),
    "empty_data": (AmbiguousError, Reason.NO_IMAGE),
    "null_picture": (AmbiguousError, Reason.NO_IMAGE),
    "url_picture": (AmbiguousError, Reason.NO_IMAGE),
    "base64:invalid": (AmbiguousError, Reason.NO_IMAGE),
    "picture:html": (AmbiguousError, Reason.NO_IMAGE),
    "picture:zero_bytes": (AmbiguousError, Reason.NO_IMAGE),
    "picture:bomb": (AmbiguousError, Reason.NO_IMAGE),
    "picture:gif": (AmbiguousError, Reason.NO_IMAGE),
    "picture:cut_png": (AmbiguousError, Reason.NO_IMAGE),
    "picture:cut_jpeg": (AmbiguousError, Reason.NO_IMAGE),
    "picture:cut_header": (AmbiguousError, Reason.NO_IMAGE),
}


@pytest.mark.parametrize("scenario", FAULTS)
def test_a_fault_has_its_reason_and_is_repeated_only_if_that_is_free(booth: Booth, scenario: str) -> None:
    kind, reason = FAULTS[scenario]
    error = booth.fail(scenario, scenario, attempts=2)
    assert (type(error), error.reason) == (kind, reason)
    assert len(booth.posts) == (2 if kind is TransientError else 1)


@pytest.mark.parametrize("scenario", ["empty_data", "null_picture", "picture:html", "picture:bomb"])
def test_what_was_billed_without_a_picture_is_on_the_bill(booth: Booth, scenario: str) -> None:
    usage = booth.fail(scenario).usage
    assert usage is not None
    assert usage.cost is not None
    assert usage.cost > 0


def test_overloaded_twice_and_then_a_picture(booth: Booth) -> None:
    assert booth.play("server:503", "html_502", attempts=3).mime_type == "image/jpeg"
    assert [error and error.reason for error in booth.recorder.errors] == [Reason.OVERLOADED, Reason.OVERLOADED, None]
    assert len({post.body[-4000:] for post in booth.posts if post.body}) == 3  # each with a boundary of its own
    assert len({part.data for post in booth.posts for part in parts(post) if part.filename}) == 1


@pytest.mark.parametrize(
    ("scenario", "seconds"),
    [
        ("rate:7", 7),
        ("rate:0", 0),
        ("rate:1.5", 1.5),
        ("rate:121", 121),
        ("rate_ms:467", 0.467),
        ("rate_date:90", 90),
        ("rate_date:-90", 0),
        ("rate_text:12s", 12),
        ("rate_text:467ms", 0.467),
        ("rate_text:6m0.5s", 360.5),
        ("rate_silent", None),
        ("rate:soon", None),
        ("rate:inf", None),
        ("rate:-3", None),
    ],
)
def test_the_time_to_wait_is_found_in_every_place(booth: Booth, scenario: str, seconds: float | None) -> None:
    error = booth.fail(scenario, attempts=1)
    assert error.reason == Reason.OVERLOADED
    assert error.retry_after == (seconds if seconds is None else pytest.approx(seconds, abs=1.1))
    if scenario.startswith(("rate_ms", "rate_text", "rate:")):
        assert error.retry_after == seconds


def test_the_next_attempt_comes_when_the_provider_said(booth: Booth) -> None:
    booth.play("rate_ms:400", attempts=2)
    first, second = booth.posts
    assert 0.4 <= second.at - first.at < 2


def test_a_wish_beyond_the_deadline_ends_it_at_once(booth: Booth) -> None:
    started = time.monotonic()
    with pytest.raises(TransientError, match="Limit 5, Used 5"):
        booth.play("rate:60", attempts=5, seconds=5)
    assert time.monotonic() - started < 3
    assert len(booth.posts) == 1


def test_no_connection_is_tried_again(booth: Booth) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = Account(KEY, f"http://127.0.0.1:{port}/v1")

    async def call() -> None:
        provider = OpenAI(nowhere)
        request = Request(uuid4(), "any", edit(retry=Retry(attempts=2, pause_seconds=0)), PHOTO, {})
        await make_picture(provider, request, Deadline.after(10), booth.recorder, keep_picture)

    with pytest.raises(TransientError) as caught:
        asyncio.run(call())
    assert caught.value.reason == Reason.OVERLOADED
    assert len(booth.recorder.errors) == 2


def test_at_the_deadline_the_connection_is_closed(booth: Booth, sandbox: WireSandbox) -> None:
    with pytest.raises(DeadlineReached):
        booth.play("hold", attempts=5, seconds=0.7)
    sandbox.wait_for(lambda: len(sandbox.hung_up) == 1)
    assert len(booth.posts) == 1


def test_a_key_that_is_refused(sandbox: WireSandbox) -> None:
    booth = Booth(sandbox, key="sk-bad-0123456789")
    error = booth.fail()
    assert error.reason == Reason.AUTH
    assert "sk-bad" not in error.message


def test_a_redirect_is_not_followed_with_the_key(booth: Booth, sandbox: WireSandbox) -> None:
    booth.fail(f"redirect:{sandbox.url}/openai/v1/models", attempts=1)
    assert sandbox.calls("openai", "GET") == []


# The messages that staff read


def test_a_refusal_says_where_and_why_and_how_to_ask_support(booth: Booth) -> None:
    message = booth.fail("moderation_output").message
    assert message.startswith("HTTP 400: moderation_blocked: Your request was rejected")
    assert "stage output: sexual, violence" in message
    assert "(req_sandbox" in message


@pytest.mark.parametrize("scenario", ["empty_data", "html_200"])
def test_a_lost_picture_has_the_id_of_the_request(booth: Booth, scenario: str) -> None:
    assert "(req_sandbox" in booth.fail(scenario).message


def test_neither_key_nor_prompt_is_in_a_message(booth: Booth) -> None:
    message = booth.fail(f"echo:{PROMPT}").message
    assert "Could not process the prompt '…'" in message
    assert "sk-proj" not in message
    assert len(message) <= 500


# Odd responses


@pytest.mark.parametrize(
    "scenario",
    [
        "bom",
        "wrong_type",
        "chunked",
        "http10",
        "gzip",
        "duplicate_headers",
        "keep_alive_closed",
        "base64:url_safe",
        "base64:data_uri",
        "two_images",
    ],
)
def test_an_odd_answer_with_a_picture_is_a_picture(booth: Booth, scenario: str) -> None:
    made = booth.play(scenario)
    assert images.decode(made.data).size == (1536, 1024)


@pytest.mark.parametrize("name", sorted(ODD.keys() - set(UNUSABLE)))
def test_the_type_is_what_the_bytes_are(booth: Booth, name: str) -> None:
    made = booth.play(f"picture:{name}")
    with Image.open(io.BytesIO(made.data)) as opened:
        assert Image.MIME[opened.format or ""] == made.mime_type


@pytest.mark.parametrize("field", ["data", "b64_json"])
def test_each_field_of_the_answer_is_read_by_its_name(booth: Booth, field: str) -> None:
    assert booth.fail(f"rename:{field}").reason is Reason.NO_IMAGE


@pytest.mark.parametrize("field", ["usage", "input_tokens_details", "text_tokens", "image_tokens"])
def test_each_field_of_the_usage_is_read_by_its_name(booth: Booth, field: str) -> None:
    usage = booth.play(f"rename:{field}").usage
    assert usage is not None
    assert usage.cost is None


# The template images


@pytest.mark.parametrize("templates", [{}, {"mood": Picture(b"text", "image/png")}])
def test_a_template_that_cannot_be_used_costs_nothing(booth: Booth, templates: dict[str, Picture]) -> None:
    with pytest.raises(PermanentError, match="mood") as caught:
        booth.make(StyleTransfer(prompt=PROMPT, style="mood"), templates=templates)
    assert caught.value.reason == Reason.BAD_TEMPLATE
    assert booth.posts == []


def test_a_photo_that_cannot_be_used_costs_nothing(booth: Booth) -> None:
    with pytest.raises(PermanentError) as caught:
        booth.make(edit(), Picture(b"text", "image/jpeg"))
    assert caught.value.reason == Reason.BAD_PHOTO
    assert booth.posts == []


def test_settings_point_to_their_templates() -> None:
    settings = StyleTransfer(prompt="x", style="mood", template_media=["hat", "back", "mood"], frame="gala")
    assert settings.template_keys() == ["mood", "gala", "hat", "back", "mood"]
    assert settings.image_keys() == ["mood", "hat", "back"]


# The account


def check(account: Account) -> None:
    async def run() -> None:
        provider = OpenAI(account)
        try:
            await provider.check_account()
        finally:
            await provider.aclose()

    asyncio.run(run())


def test_checking_an_account_is_a_harmless_call(booth: Booth, sandbox: WireSandbox) -> None:
    check(Account(KEY, booth.url))
    [call] = sandbox.calls("openai", "GET")
    assert (call.path, call.headers["authorization"]) == ("/v1/models", f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("key", "path", "reason"),
    [("sk-bad", "/openai/v1", Reason.AUTH), (KEY, "/openai/v2", Reason.BAD_SETTINGS), (KEY, "/x", Reason.BAD_SETTINGS)],
)
def test_an_account_that_does_not_work(sandbox: WireSandbox, key: str, path: str, reason: Reason) -> None:
    with pytest.raises(PermanentError) as caught:
        check(Account(key, sandbox.url + path))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("scenario", "kind"),
    [
        ("html_200", PermanentError),  # a hotel's login page
        ("empty", PermanentError),
        ("server:503", TransientError),
        ("truncated", TransientError),
        ("insufficient_quota", PermanentError),
    ],
)
def test_an_account_whose_check_fails(booth: Booth, scenario: str, kind: type[ProviderError]) -> None:
    booth.sandbox.speakers["openai"].play(scenario)
    with pytest.raises(kind):
        check(Account(KEY, booth.url))


# The settings


def test_the_examples_of_the_docs_are_accepted() -> None:
    page = (settings.BASE_DIR / "docs/providers/openai.md").read_text()
    first, second = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    ImageEdit.model_validate_json(first)
    StyleTransfer.model_validate_json(second)


@pytest.fixture
def operator_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """An operator's own catalogue: one model of fixed sizes stays, one has no price yet, a new one has only a name."""

    def write(models: dict[str, Any]) -> None:
        (tmp_path / "openai.json").write_text(json.dumps({"models": models}))
        catalogue.load_models.cache_clear()

    monkeypatch.setattr(settings, "PROVIDER_CATALOGUE_DIR", str(tmp_path))
    no_price = {"prices": [{"from": "2999-01-01", "text_input": "1", "image_input": "1", "image_output": "1"}]}
    write(
        {
            "gpt-image-1.5": {"retired_on": "2999-01-01"},
            "gpt-image-2": no_price,
            "gpt-image-9": {"status": "current"},
        }
    )
    yield write
    catalogue.load_models.cache_clear()


def test_a_default_that_was_retired_since_is_refused_too(operator_catalogue: Callable[..., None]) -> None:
    operator_catalogue({"gpt-image-2.5-flare": {"retired_on": "2026-11-01", "use_instead": ["gpt-image-9"]}})
    assert get_error({}) == ("model", "gpt-image-2.5-flare was retired on 2026-11-01. Use: gpt-image-9")


def get_error(settings: dict[str, Any], kind: type[ImageEdit] = ImageEdit) -> tuple[str, str]:
    """The invalid field and the error's message."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"prompt": "x"} | settings)
    [error] = caught.value.errors()
    return str(error["loc"][0]), error["msg"]


@pytest.mark.usefixtures("operator_catalogue")
@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"prompt": "x" * 32_001}, "prompt", "at most 32000"),
        ({"mask": "key"}, "mask", "not permitted"),
        ({"model": "gpt-image-1"}, "model", "retired on 2026-10-23. Use: gpt-image-2.6-flare, gpt-image-2.6-sunburst"),
        ({"model": "dall-e-3"}, "model", "retired on 2026-05-12"),
        ({"model": "gpt-image-7"}, "model", "not known. Use: "),
        ({"size": "large"}, "size", "pattern"),
        ({"size": "1000x1024"}, "size", "multiples of 16"),
        ({"size": "1024x1000"}, "size", "multiples of 16"),
        ({"size": "4096x1024"}, "size", "longer than 3840"),
        ({"size": "3200x1024"}, "size", "3 times"),
        ({"size": "1024x3200"}, "size", "3 times"),
        ({"size": "512x512"}, "size", "655360 to 8294400"),
        ({"size": "3840x3840"}, "size", "655360 to 8294400"),
        ({"size": "1024x768", "model": "gpt-image-1.5"}, "size", "only: auto, 1024x1024, 1536x1024, 1024x1536"),
        ({"quality": "best"}, "quality", "'auto', 'low'"),
        ({"quality": "max", "model": "gpt-image-2"}, "quality", "only: auto, low, medium, high"),
        ({"background": "transparent", "model": "gpt-image-2"}, "background", "no transparent background"),
        ({"background": "transparent", "output": {"format": "jpeg"}}, "background", "png or webp"),
        ({"moderation": "off"}, "moderation", "'auto' or 'low'"),
        ({"template_media": ["k"] * 16}, "template_media", "at most 15"),
        ({"template_media": ["Not a key"]}, "template_media", "pattern"),
    ],
)
def test_settings_are_refused_with_the_field_named(settings: dict[str, Any], field: str, words: str) -> None:
    where, message = get_error(settings)
    assert where == field
    assert words in message


def test_style_transfer_needs_its_style_and_leaves_room_for_it() -> None:
    assert get_error({}, StyleTransfer) == ("style", "Field required")
    assert get_error({"style": "mood", "template_media": ["k"] * 15}, StyleTransfer)[0] == "template_media"


@pytest.mark.usefixtures("operator_catalogue")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": "1536x864"},
        {"size": "3840x2160"},
        {"size": "640x1024"},
        {"size": "1536x1024", "model": "gpt-image-1.5"},
        {"quality": "max", "model": "gpt-image-2.6-sunburst"},
        {"background": "transparent", "output": {"format": "webp"}},
        {"template_media": ["a"] * 15},
        {"model": "gpt-image-9", "size": "123x45", "quality": "max", "background": "transparent"},
    ],
)
def test_settings_that_are_accepted(settings: dict[str, Any]) -> None:
    ImageEdit.model_validate({"prompt": "x"} | settings)


@pytest.mark.usefixtures("operator_catalogue")
def test_a_model_without_a_price_costs_an_unknown_sum(booth: Booth) -> None:
    usage = booth.make(edit(model="gpt-image-2")).usage
    assert usage is not None
    assert usage.units["image_output_tokens"] > 0
    assert usage.cost is None


def test_a_template_image_is_prepared_once(sandbox: WireSandbox) -> None:
    new = Picture(jpeg(61, 41, "olive"), "image/jpeg")
    before = template_cache.hits
    for _ in range(3):
        Booth(sandbox).make(StyleTransfer(prompt=PROMPT, style="mood"), templates={"mood": new})
    assert template_cache.hits == before + 2
