"""Every response of Gemini's tables: the result, how often the call is repeated, and what it costs."""

from __future__ import annotations

import asyncio
import datetime as dt
from decimal import Decimal
from io import BytesIO
from itertools import pairwise

import pytest
from PIL import Image

from core import images
from providers.attempts import Deadline, make_picture
from providers.base import AmbiguousError, PermanentError, ProviderError, Reason, TransientError, Usage
from providers.gemini import Gemini
from providers.gemini.errors import redact
from providers.gemini.responses import cost
from tests.providers.gemini_factories import PHOTO, Recorder, build_request, fail, generations, make, read_json
from tests.providers.observers import keep_picture
from tests.sandbox.gemini import KEY
from tests.sandbox.gemini import Gemini as Google
from tests.sandbox.pictures import BASE64, ODD, UNUSABLE

pytest_plugins = "tests.providers.gemini_fixtures"
pytestmark = pytest.mark.integration

R = Reason
SECRET_PROMPT = "Turn the mayor into a confidential otter"

# Scenario, reason, the number of calls until the job fails.
FINISHED = [
    ("text_only", R.NO_IMAGE, 2),
    ("no_parts", R.NO_IMAGE, 2),
    ("only_thoughts", R.NO_IMAGE, 2),
    ("no_candidates", R.NO_IMAGE, 2),
    ("error_200", R.NO_IMAGE, 2),
    ("finish:NO_IMAGE", R.NO_IMAGE, 4),
    ("finish:IMAGE_OTHER", R.NO_IMAGE, 2),
    ("finish:OTHER", R.NO_IMAGE, 2),
    ("finish:MALFORMED_RESPONSE", R.NO_IMAGE, 2),
    ("finish:MAX_TOKENS", R.NO_IMAGE, 2),
    ("finish:A_REASON_OF_NEXT_YEAR", R.NO_IMAGE, 2),
    ("finish:CONTINUATION", R.NO_IMAGE, 1),
    ("finish:IMAGE_SAFETY", R.REFUSED, 2),
    ("finish:IMAGE_PROHIBITED_CONTENT", R.REFUSED, 1),
    ("finish:PROHIBITED_CONTENT", R.REFUSED, 1),
    ("finish:SAFETY", R.REFUSED, 1),
    ("finish:BLOCKLIST", R.REFUSED, 1),
    ("finish:SPII", R.REFUSED, 1),
    ("finish:MODEL_ARMOR", R.REFUSED, 1),
    ("finish:IMAGE_RECITATION", R.REFUSED, 1),
    ("finish:RECITATION", R.REFUSED, 1),
    ("finish:LANGUAGE", R.BAD_SETTINGS, 1),
    ("finish:ESCALATION", R.BAD_SETTINGS, 1),
    ("finish:MISSING_THOUGHT_SIGNATURE", R.BAD_SETTINGS, 1),
    ("finish:MALFORMED_FUNCTION_CALL", R.BAD_SETTINGS, 1),
    ("finish:UNEXPECTED_TOOL_CALL", R.BAD_SETTINGS, 1),
    ("finish:TOO_MANY_TOOL_CALLS", R.BAD_SETTINGS, 1),
    ("finish:PUP_LIMITED_DISABLED", R.AUTH, 1),
    ("block:SAFETY", R.REFUSED, 1),
    ("block:OTHER", R.REFUSED, 1),
    ("block:BLOCKLIST", R.REFUSED, 1),
    ("block:PROHIBITED_CONTENT", R.REFUSED, 1),
    ("block:IMAGE_SAFETY", R.REFUSED, 1),
    ("block:OF_NEXT_YEAR", R.REFUSED, 1),
    ("recorded_refusal", R.REFUSED, 1),
]

HTTP = [
    ("unauthenticated", PermanentError, R.AUTH),
    ("suspended", PermanentError, R.AUTH),
    ("region", PermanentError, R.AUTH),
    ("depleted", PermanentError, R.QUOTA),
    ("day", PermanentError, R.QUOTA),
    ("no_billing", PermanentError, R.QUOTA),
    ("gone", PermanentError, R.BAD_SETTINGS),
    ("tokens", PermanentError, R.BAD_SETTINGS),
    ("too_large", PermanentError, R.BAD_PHOTO),
    ("cancelled", PermanentError, R.SLOW),
    ("rate", TransientError, R.OVERLOADED),
    ("rate_bare", TransientError, R.OVERLOADED),
    ("overloaded", TransientError, R.OVERLOADED),
    ("in_a_list", TransientError, R.OVERLOADED),
    ("internal", TransientError, R.OVERLOADED),
    ("html_502", TransientError, R.OVERLOADED),
    ("redirect:http://127.0.0.1:9/elsewhere", TransientError, R.OVERLOADED),
    ("deadline", TransientError, R.SLOW),
    ("timeout", TransientError, R.SLOW),
    ("truncated", AmbiguousError, R.SLOW),
    ("reset", AmbiguousError, R.SLOW),
    ("lost", AmbiguousError, R.SLOW),
    ("html_200", AmbiguousError, R.NO_IMAGE),
    ("empty", AmbiguousError, R.NO_IMAGE),
    ("bad_utf8", AmbiguousError, R.NO_IMAGE),
]


@pytest.mark.parametrize(("scenario", "reason", "calls"), FINISHED)
async def test_an_answer_without_a_picture(
    gemini: Gemini, google: Google, scenario: str, reason: Reason, calls: int
) -> None:
    google.play(*[scenario] * 5)
    errors = await fail(gemini)
    assert len(generations(google)) == calls
    assert [type(error) for error in errors] == [TransientError] * (calls - 1) + [PermanentError]
    assert {error.reason for error in errors} == {reason}
    assert all(error.usage for error in errors) == (scenario != "error_200")


@pytest.mark.parametrize(("scenario", "kind", "reason"), HTTP)
async def test_an_error(
    gemini: Gemini, google: Google, scenario: str, kind: type[ProviderError], reason: Reason
) -> None:
    google.play(*[scenario] * 2)
    errors = await fail(gemini, retry={"attempts": 2, "pause_seconds": 0})
    assert {(type(error), error.reason) for error in errors} == {(kind, reason)}
    assert len(generations(google)) == len(errors) == (2 if kind is TransientError else 1)
    assert {call.path.partition("/")[0] for call in google.sandbox.journal} == {""}  # no redirect was followed


@pytest.mark.parametrize("scenario", ["finish:NO_IMAGE", "overloaded", "html_502", "rate_bare", "finish:IMAGE_SAFETY"])
async def test_an_error_that_may_pass_is_repeated(gemini: Gemini, google: Google, scenario: str) -> None:
    google.play(scenario)
    recorder = Recorder()
    picture = await make(gemini, None, recorder)
    assert images.probe(picture.data).mime_type == "image/jpeg"
    assert [error is None for error in recorder.errors] == [False, True]


async def test_after_max_tokens_the_model_thinks_less(gemini: Gemini, google: Google) -> None:
    google.play("finish:MAX_TOKENS")
    await make(gemini, build_request(thinking_level="high"))
    levels = [read_json(google, number)["generationConfig"]["thinkingConfig"]["thinkingLevel"] for number in (0, 1)]
    assert levels == ["HIGH", "MINIMAL"]


@pytest.mark.parametrize("scenario", ["drafts", "two_images"])
async def test_the_last_picture_that_is_no_thought_is_taken(gemini: Gemini, google: Google, scenario: str) -> None:
    plain = await make(gemini)
    google.play(scenario)
    assert (await make(gemini)).data == plain.data


BAD = [f"picture:{name}" for name in UNUSABLE] + ["base64:invalid"]


@pytest.mark.parametrize(
    "scenario", sorted(({f"picture:{name}" for name in ODD} | {f"base64:{name}" for name in BASE64}) - set(BAD))
)
async def test_an_odd_picture_is_still_one_and_its_type_is_what_it_is(
    gemini: Gemini, google: Google, scenario: str
) -> None:
    google.play(scenario)
    picture = await make(gemini)
    with Image.open(BytesIO(picture.data)) as opened:
        assert Image.MIME[opened.format or ""] == picture.mime_type
    images.decode(picture.data)


@pytest.mark.parametrize("scenario", BAD)
async def test_a_picture_that_cannot_be_used_is_not_bought_again(gemini: Gemini, google: Google, scenario: str) -> None:
    google.play(scenario)
    [error] = await fail(gemini)
    assert (type(error), error.reason) == (AmbiguousError, R.NO_IMAGE)
    assert error.usage
    assert error.usage.cost


async def test_the_photo_itself_is_an_answer_like_any_other(gemini: Gemini, google: Google) -> None:
    google.play("same")
    assert (await make(gemini)).data == PHOTO.data


@pytest.mark.parametrize(
    "scenario", ["chunked", "http10", "gzip", "bom", "wrong_type", "duplicate_headers", "keep_alive_closed"]
)
async def test_the_transport_makes_no_difference(gemini: Gemini, google: Google, scenario: str) -> None:
    plain = await make(gemini)
    google.play(scenario)
    assert (await make(gemini)).data == plain.data


@pytest.mark.parametrize("field", ["candidates", "content", "parts", "inlineData", "data"])
async def test_each_field_of_the_answer_is_read_by_its_name(gemini: Gemini, google: Google, field: str) -> None:
    google.play(f"rename:{field}")
    [error] = await fail(gemini, retry={"attempts": 1})
    assert error.reason is R.NO_IMAGE


@pytest.mark.parametrize(
    ("field", "unit"),
    [("promptTokenCount", "input_tokens"), ("thoughtsTokenCount", "thought_tokens"), ("tokenCount", "image_tokens")],
)
async def test_each_field_of_the_usage_is_read_by_its_name(
    gemini: Gemini, google: Google, field: str, unit: str
) -> None:
    google.play(f"rename:{field}")
    usage = (await make(gemini)).usage
    assert usage
    assert usage.units[unit] == 0


@pytest.mark.parametrize(
    ("scenario", "least", "most"),
    [("rate:1.500s", 1.5, 3), ("rate_prose:1s", 1, 3), ("rate:0s", 1, 3), ("overloaded:1.2s", 1.2, 3)],
)
async def test_retry_info_is_obeyed_and_the_message_is_not(
    gemini: Gemini, google: Google, scenario: str, least: float, most: float
) -> None:
    google.play(scenario)
    await make(gemini)
    first, second = (call.at for call in generations(google))
    assert least <= second - first < most


@pytest.mark.parametrize("delay", ["14", "soon", "-3s", ""])
async def test_a_retry_info_that_is_none_leaves_the_slots_own_pause(gemini: Gemini, google: Google, delay: str) -> None:
    google.play(f"rate:{delay}")
    recorder = Recorder()
    await make(gemini, None, recorder)
    assert recorder.errors[0]
    assert recorder.errors[0].retry_after is None


async def test_a_hint_beyond_the_deadline_ends_it_at_once(gemini: Gemini, google: Google) -> None:
    google.play("rate:40s")
    deadline = Deadline.after(20)
    with pytest.raises(TransientError) as raised:
        await make_picture(gemini, build_request(), deadline, Recorder(), keep_picture)
    assert deadline.seconds_left() > 15
    assert 40 <= (raised.value.retry_after or 0) <= 44


async def test_booths_refused_together_do_not_come_back_together(gemini: Gemini, google: Google) -> None:
    google.play(*["rate:30s"] * 5)
    errors = [(await fail(gemini, retry={"attempts": 1}))[0] for _ in range(5)]
    pauses = sorted(error.retry_after or 0 for error in errors)
    assert all(later > earlier for earlier, later in pairwise(pauses))


async def test_a_message_contains_no_key(gemini: Gemini, google: Google) -> None:
    google.play("suspended")
    [error] = await fail(gemini, prompt=SECRET_PROMPT)
    assert "has been suspended" in error.message
    assert KEY not in error.message


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("in_a_list", "HTTP 503 UNAVAILABLE: The model is overloaded. Please try again later."),
        ("day", "HTTP 429 RESOURCE_EXHAUSTED: You exceeded your current quota, please check your plan and billing"),
        ("html_502", "HTTP 502"),
        ("finish:IMAGE_OTHER", "finished with IMAGE_OTHER: As the sandbox was told. (response sandbox-"),
        ("block:SAFETY", "prompt blocked: SAFETY"),
    ],
)
async def test_the_providers_own_words_are_kept(gemini: Gemini, google: Google, scenario: str, words: str) -> None:
    google.play(scenario)
    assert words in (await fail(gemini, retry={"attempts": 1}))[0].message


@pytest.mark.parametrize("quoted", ["A" * 3000, "-_aB9" * 40, SECRET_PROMPT, KEY])
def test_what_a_provider_quotes_is_cut_out(quoted: str) -> None:
    text = redact(f'Base64 decoding failed for "{quoted}" and so on', KEY, SECRET_PROMPT)
    assert text == 'Base64 decoding failed for "…" and so on'


async def test_a_long_message_is_trimmed(gemini: Gemini, google: Google) -> None:
    google.play("finish:" + "VERY " * 300)
    assert len((await fail(gemini, retry={"attempts": 1}))[0].message) == 500


async def test_usage_and_cost(gemini: Gemini) -> None:
    picture = await make(gemini)
    assert picture.usage == Usage(
        {"input_tokens": 565, "image_tokens": 1120, "text_tokens": 0, "thought_tokens": 120},
        "gemini-nano-banana-2.1",
        Decimal("0.0353475"),  # 565 × 1.50 + 1120 × 30 + 120 × 7.50, per million
    )


async def test_a_refusal_bills_what_went_in_and_what_was_thought(gemini: Gemini, google: Google) -> None:
    google.play("recorded_refusal")
    [error] = await fail(gemini, model="gemini-3-pro-image")
    assert error.usage == Usage(
        {"input_tokens": 1119, "image_tokens": 0, "text_tokens": 0, "thought_tokens": 240},
        "gemini-3-pro-image",
        Decimal("0.005118"),
    )
    assert "Support codes: 15236754" in error.message


async def test_no_usage_is_unknown_and_not_free(gemini: Gemini, google: Google) -> None:
    google.play("no_usage")
    assert (await make(gemini)).usage is None


UNITS = {"input_tokens": 0, "image_tokens": 1_000_000, "text_tokens": 0, "thought_tokens": 0}


@pytest.mark.parametrize(
    ("model", "day", "expected"),
    [
        ("gemini-nano-banana-2.1", dt.date(2026, 11, 20), Decimal(30)),
        ("gemini-nano-banana-2.1", dt.date(2026, 10, 6), None),  # before its first price
        ("gemini-3-pro-image", dt.date(2026, 11, 20), Decimal(120)),
        ("gemini-3-pro-image-preview", dt.date(2026, 11, 20), None),
        ("a-model-nobody-knows", dt.date(2026, 11, 20), None),
    ],
)
def test_the_price_is_that_of_the_day(model: str, day: dt.date, expected: Decimal | None) -> None:
    assert cost(model, UNITS, day) == expected


async def test_fifteen_booths_at_once_share_one_adapter(gemini: Gemini, google: Google) -> None:
    pictures = await asyncio.gather(*(make(gemini, prompt=f"number {n}") for n in range(15)))
    assert len(generations(google)) == len(pictures) == 15
