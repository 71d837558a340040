"""Gemini's Files API: what is uploaded, how often, what happens if a file was lost, and what is left behind."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from providers import gemini as module
from providers.attempts import Deadline, DeadlineReached, make_picture
from providers.base import PermanentError, Picture, ProviderError, Reason
from providers.gemini import Gemini
from providers.gemini.files import FileCache
from providers.prepare import template_cache
from tests.providers.gemini_factories import PHOTO, Recorder, build_request, generations, make, make_account, read_parts
from tests.providers.observers import keep_picture
from tests.sandbox.gemini import KEY
from tests.sandbox.gemini import Gemini as Google
from tests.sandbox.pictures import encode

pytest_plugins = "tests.providers.gemini_fixtures"
pytestmark = pytest.mark.integration


def make_noise(side: int = 400) -> Picture:
    """A picture that no format compresses: 480 KB at 400 pixels a side."""
    image = Image.frombytes("RGB", (side, side), random.Random(1).randbytes(3 * side * side))
    return Picture(encode(image, "PNG"), "image/png")


TEMPLATE = make_noise()
SMALL = Picture(encode(Image.new("RGB", (60, 40), "navy"), "PNG"), "image/png")


def style_request(template: Picture = TEMPLATE, photo: Picture = PHOTO) -> Any:
    return build_request(photo, {"art": template}, "style_transfer", style="art")


def count_uploads(google: Google) -> int:
    return len([call for call in google.sandbox.calls("gemini", path="/upload/") if "upload_id" not in call.query])


def kinds(google: Google, number: int = -1) -> list[str]:
    """The kind of each part of a request."""
    return [next(iter(part)) for part in read_parts(google, number)]


@pytest.fixture
def low_inline_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowers the limit for inline images, so that a small photo exceeds it."""
    monkeypatch.setattr(module, "INLINE_BYTES", 1_000)


async def test_a_template_is_uploaded_once_and_named_by_its_uri(gemini: Gemini, google: Google) -> None:
    for _ in range(3):
        await make(gemini, style_request())
    assert count_uploads(google) == 1
    assert [kinds(google, number) for number in range(3)] == [["inlineData", "fileData", "text"]] * 3
    [file] = google.files.files.values()
    assert read_parts(google)[1]["fileData"] == {"mimeType": "image/png", "fileUri": file.uri}
    assert Image.open(BytesIO(file.data)).tobytes() == Image.open(BytesIO(TEMPLATE.data)).tobytes()


async def test_the_upload_protocol(gemini: Gemini, google: Google) -> None:
    await make(gemini, style_request())
    start, data = google.sandbox.calls("gemini", path="/upload/v1beta/files")
    size = str(len(TEMPLATE.data))
    assert start.headers["x-goog-api-key"] == KEY
    assert start.headers["x-goog-upload-protocol"] == "resumable"
    assert start.headers["x-goog-upload-command"] == "start"
    assert start.headers["x-goog-upload-header-content-length"] == size
    assert start.headers["x-goog-upload-header-content-type"] == "image/png"
    assert "x-goog-api-key" not in data.headers  # the URL itself is the credential
    assert data.headers["x-goog-upload-command"] == "upload, finalize"
    assert (data.headers["x-goog-upload-offset"], data.headers["content-length"]) == ("0", size)


async def test_a_small_template_is_sent_inline(gemini: Gemini, google: Google) -> None:
    await make(gemini, style_request(SMALL))
    assert count_uploads(google) == 0
    assert kinds(google) == ["inlineData", "inlineData", "text"]


async def test_booths_at_the_same_time_upload_once(gemini: Gemini, google: Google) -> None:
    await asyncio.gather(*(make(gemini, style_request()) for _ in range(6)))
    assert (count_uploads(google), len(generations(google))) == (1, 6)


async def test_a_processed_file_is_waited_for(gemini: Gemini, google: Google) -> None:
    google.files.plays.append("processing:2")
    await make(gemini, style_request())
    assert len(google.sandbox.calls("gemini", "GET", "/v1beta/files/")) == 2
    assert kinds(google)[1] == "fileData"


@pytest.mark.parametrize("ahead", [dt.timedelta(hours=49), dt.timedelta(hours=47, minutes=55)])
async def test_a_file_that_is_about_to_expire_is_uploaded_again(
    gemini: Gemini, google: Google, ahead: dt.timedelta
) -> None:
    google.files.ahead = -ahead  # it was uploaded that long ago
    await make(gemini, style_request())
    google.files.ahead = dt.timedelta()
    await make(gemini, style_request())
    assert count_uploads(google) == 2


@pytest.mark.parametrize("scenario", ["deleted there", "lost_file_403", "lost_file_404"])
async def test_a_file_that_is_gone_is_uploaded_again_within_the_attempt(
    gemini: Gemini, google: Google, scenario: str
) -> None:
    await make(gemini, style_request())
    if scenario == "deleted there":
        google.files.files.clear()
    else:
        google.play(scenario)
    recorder = Recorder()
    await make(gemini, style_request(), recorder)
    assert recorder.errors == [None]
    assert (count_uploads(google), len(generations(google))) == (2, 3)


async def test_a_file_that_is_lost_again_fails_the_job(gemini: Gemini, google: Google) -> None:
    google.play("lost_file_403", "lost_file_403")
    with pytest.raises(PermanentError):
        await make(gemini, style_request())
    assert (count_uploads(google), len(generations(google))) == (2, 2)


async def test_a_retired_model_is_not_taken_for_a_lost_file(gemini: Gemini, google: Google) -> None:
    google.play("gone")
    with pytest.raises(PermanentError) as raised:
        await make(gemini, style_request())
    assert raised.value.reason is Reason.BAD_SETTINGS
    assert (count_uploads(google), len(generations(google))) == (1, 1)


async def test_a_template_the_provider_cannot_process(gemini: Gemini, google: Google) -> None:
    google.files.plays.append("failed")
    with pytest.raises(PermanentError) as raised:
        await make(gemini, style_request())
    assert raised.value.reason is Reason.BAD_TEMPLATE
    assert generations(google) == []


@pytest.mark.parametrize("fault", ["start_503", "not_final"])
async def test_where_uploads_fail_the_template_is_sent_inline(gemini: Gemini, google: Google, fault: str) -> None:
    google.files.plays.append(fault)
    for _ in range(2):
        await make(gemini, style_request())
    assert kinds(google) == ["inlineData", "inlineData", "text"]
    assert count_uploads(google) == 1  # the second photo did not try another one


async def test_a_held_upload_costs_its_time_out_and_not_the_photo(
    gemini: Gemini, google: Google, settings: Any
) -> None:
    settings.PROVIDER_CALL_TIMEOUT_SECONDS = 1
    google.files.plays.append("hold")
    await make(gemini, style_request())
    assert kinds(google) == ["inlineData", "inlineData", "text"]


@pytest.mark.usefixtures("low_inline_limit")
@pytest.mark.parametrize("scenario", ["", "overloaded", "finish:SAFETY"])
async def test_a_large_photo_is_uploaded_and_deleted(google: Google, scenario: str) -> None:
    adapter = Gemini(make_account(google))
    google.play(scenario)
    with suppress(PermanentError):
        await make(adapter)
    await adapter.aclose()
    assert kinds(google) == ["fileData", "text"]
    assert count_uploads(google) == 1  # also for two attempts
    assert len(google.sandbox.calls("gemini", "DELETE", "/v1beta/files/")) == 1
    assert google.files.files == {}


@pytest.mark.usefixtures("low_inline_limit")
async def test_a_large_photo_is_deleted_when_time_is_up(google: Google) -> None:
    adapter = Gemini(make_account(google))
    google.play("hold")
    with pytest.raises(DeadlineReached):
        await make_picture(adapter, build_request(), Deadline.after(1), Recorder(), keep_picture)
    await adapter.aclose()
    assert google.files.files == {}


@pytest.mark.usefixtures("low_inline_limit")
async def test_a_template_stays_when_the_photo_is_deleted(google: Google) -> None:
    adapter = Gemini(make_account(google))
    await make(adapter, style_request())
    await adapter.aclose()
    [file] = google.files.files.values()
    assert file.size == len(TEMPLATE.data)


@pytest.mark.usefixtures("low_inline_limit")
@pytest.mark.parametrize(("fault", "reason"), [("failed", Reason.BAD_PHOTO), ("start_503", Reason.OVERLOADED)])
async def test_a_large_photo_that_cannot_be_uploaded(google: Google, fault: str, reason: Reason) -> None:
    adapter = Gemini(make_account(google))
    google.files.plays.append(fault)
    with pytest.raises(ProviderError) as raised:
        await make(adapter, retry={"attempts": 1})
    await adapter.aclose()
    assert raised.value.reason is reason
    assert generations(google) == []


async def test_a_cache_is_shared_by_the_adapters_of_an_account(google: Google) -> None:
    cache = FileCache()
    google.keys |= {"another-key"}
    for key in (KEY, KEY, "another-key"):
        adapter = Gemini(make_account(google, key), cache)
        await make(adapter, style_request())
        await adapter.aclose()
    assert count_uploads(google) == 2  # a file belongs to the account that uploaded it


async def test_the_largest_photo_is_uploaded(gemini: Gemini, google: Google) -> None:
    """A cut-out of pure noise: 16 MB as PNG, which in base64 is more than one page of the documentation allows."""
    photo = encode(Image.frombytes("RGBA", (2000, 2000), random.Random(1).randbytes(16_000_000)), "PNG")
    await make(gemini, build_request(Picture(photo, "image/png")))
    assert kinds(google) == ["fileData", "text"]
    assert len(generations(google)[0].body) < 10_000


async def test_an_inline_template_is_prepared_once(gemini: Gemini, google: Google) -> None:
    new = Picture(encode(Image.new("RGB", (61, 41), "olive"), "PNG"), "image/png")
    before = template_cache.hits
    for _ in range(3):
        await make(gemini, style_request(new))
    assert kinds(google)[1] == "inlineData"
    assert template_cache.hits == before + 2
