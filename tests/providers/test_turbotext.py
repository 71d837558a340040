"""The Turbotext adapter against a server that speaks its protocol on a real socket: queueing and polling."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import aclosing
from decimal import Decimal
from uuid import uuid4

import pytest
from django.test import override_settings

from providers import catalogue
from providers.attempts import LAST_POLL_SECONDS, DeadlineReached
from providers.base import (
    Account,
    AmbiguousError,
    OperationSettings,
    PermanentError,
    Picture,
    ProviderError,
    Reason,
    Request,
    TransientError,
)
from providers.turbotext import Turbotext, responses
from providers.turbotext.operations import IdentityTransfer, ImageEdit, StyleTransfer
from tests.sandbox.providers import QuickTurbotext
from tests.sandbox.turbotext import KEY
from tests.sandbox.turbotext_helpers import AT_ONCE, EDIT, PROMPT, Cast, colour, near, stage
from tests.sandbox.wire import WireSandbox

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def sandbox() -> Iterator[WireSandbox]:
    with stage() as running:
        yield running


@pytest.fixture
def cast(sandbox: WireSandbox) -> Cast:
    sandbox.reset()
    return Cast(sandbox)


# The good case


async def test_a_photo_is_queued_polled_and_downloaded(cast: Cast) -> None:
    cast.turbotext.reconnects = 2
    picture = await cast.make()
    assert picture.mime_type == "image/png"
    assert colour(picture) == near("steelblue")
    assert colour(picture, 0, 0) == near("magenta")
    assert cast.seen.references == ["generate_image2image:4001"]
    assert cast.seen.polls == 3


async def test_the_wire_of_an_edit(cast: Cast) -> None:
    cast.turbotext.reconnects = 0
    await cast.make(settings=ImageEdit(prompt=PROMPT, seed=7, scale=9, negative_prompt="blur", retry=AT_ONCE))
    create, poll = cast.sandbox.calls("turbotext")
    assert create.path == poll.path == "/api_ai/generate_image2image"
    for post in (create, poll):
        assert post.query == {}
        assert post.headers["authorization"] == f"Bearer {KEY}"
        assert post.headers["content-type"] == "application/x-www-form-urlencoded"
        assert "cookie" not in post.headers
    assert cast.posts("create_queue") == [
        {
            "do": "create_queue",
            "url": f"{cast.sandbox.url}/media/photo",
            "content": PROMPT,
            "strength": "40",
            "scale": "9.0",
            "seed": "7",
            "negative_prompt": "blur",
            "original_language": "ru",
        }
    ]
    assert cast.posts("get_result") == [{"do": "get_result", "queueid": "4001"}]


async def test_the_download_carries_no_key(cast: Cast) -> None:
    await cast.make()
    (download,) = cast.sandbox.calls("turbotext", "GET")
    assert (download.path, download.query) == ("/download.php", {"f": ["generate_image2image_id4001_0.png"]})
    assert not {"authorization", "cookie"} & download.headers.keys()
    assert KEY not in str(download.headers)


async def test_a_style_goes_onto_the_photo(cast: Cast) -> None:
    picture = await cast.make(settings=StyleTransfer(style="mood", prompt=PROMPT))
    media = f"{cast.sandbox.url}/media"
    assert cast.posts("create_queue") == [
        {"do": "create_queue", "url_image_target": f"{media}/photo", "url": f"{media}/style", "content": PROMPT}
    ]
    assert colour(picture) == pytest.approx((162, 172, 90), abs=12)  # half steelblue, half gold
    assert cast.seen.references == ["mix_images:4001"]


@pytest.mark.parametrize("restored", [True, False])
async def test_a_face_goes_onto_the_person(cast: Cast, restored: bool) -> None:
    picture = await cast.make(settings=IdentityTransfer(face="hero", face_restore=restored))
    media = f"{cast.sandbox.url}/media"
    assert cast.posts("create_queue") == [
        {
            "do": "create_queue",
            "url": f"{media}/photo",
            "url_image_target": f"{media}/face",
            "face_restore": str(restored),
        }
    ]
    assert colour(picture, 0.3, 0.3) == near("crimson")
    assert colour(picture, 0.7, 0.7) == near("steelblue")


async def test_another_worker_polls_the_same_queueid_and_pays_nothing(cast: Cast) -> None:
    async with aclosing(QuickTurbotext(cast.account())) as killed:
        accepted = await killed.submit_job(await killed.prepare_payload(cast.request(EDIT)))
    picture = await cast.make(reference=accepted.reference)
    assert colour(picture) == near("steelblue")
    assert len(cast.posts("create_queue")) == 1


async def test_a_job_that_is_never_done_ends_with_the_deadline(cast: Cast) -> None:
    with pytest.raises(DeadlineReached):
        await cast.make("forever", seconds=LAST_POLL_SECONDS + 0.5)
    assert cast.seen.polls > 3
    assert len(cast.posts("create_queue")) == 1


async def test_usage_is_one_attempt_and_what_is_left_of_them(cast: Cast) -> None:
    usage = (await cast.make()).usage
    assert usage
    assert usage.units == {"photo_attempts": 1, "photo_attempts_left": 999}
    assert (usage.model, usage.cost) == ("generate_image2image", None)


async def test_a_price_in_the_catalogue_is_the_cost(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.models("turbotext")["generate_image2image"], "price_usd", 0.03)
    usage = (await cast.make()).usage
    assert usage
    assert usage.cost == Decimal("0.03")


async def test_no_key_prompt_or_link_is_logged(cast: Cast, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await cast.make("poll:lost")
        await cast.fault("error:params_error")
    assert caplog.text
    assert not [secret for secret in (KEY, PROMPT, "/media/photo") if secret in caplog.text]


# create_queue: what it answers when it does not queue


@pytest.mark.parametrize(
    ("scenario", "kind", "reason"),
    [
        ("error:LIMIT", PermanentError, Reason.QUOTA),
        ("error:url_error", PermanentError, Reason.BAD_SETTINGS),
        ("error:params_error", PermanentError, Reason.BAD_SETTINGS),
        ("error:size_error", PermanentError, Reason.BAD_PHOTO),
        ("error:face_not_detected", PermanentError, Reason.BAD_PHOTO),
        ("error:face_not_found", PermanentError, Reason.BAD_PHOTO),
        ("error:quality_limit", PermanentError, Reason.BAD_PHOTO),
        ("error:forbidden_content", PermanentError, Reason.REFUSED),
        ("error:Something new", PermanentError, Reason.NO_IMAGE),
        ("error:", PermanentError, Reason.NO_IMAGE),
        ("error_number", PermanentError, Reason.NO_IMAGE),
        ("error_object:limit,", PermanentError, Reason.QUOTA),
        ("error_object:face_not_detected,url", PermanentError, Reason.BAD_PHOTO),
        ("error_object:face_not_detected,url_image_target", PermanentError, Reason.BAD_TEMPLATE),
        ("error_object:url_error,url_image_target", PermanentError, Reason.BAD_SETTINGS),
        ("http:400", PermanentError, Reason.BAD_SETTINGS),
        ("http:401", PermanentError, Reason.AUTH),
        ("http:403", PermanentError, Reason.AUTH),
        ("http:402", PermanentError, Reason.QUOTA),
        ("http:429", PermanentError, Reason.QUOTA),
        ("http:404", PermanentError, Reason.BAD_SETTINGS),
        ("redirect:https://evil.example/", PermanentError, Reason.BAD_SETTINGS),
        # The attempt may have been spent: never sent again.
        ("http:504", AmbiguousError, Reason.SLOW),
        ("http:524", AmbiguousError, Reason.SLOW),
        ("lost", AmbiguousError, Reason.SLOW),
        ("truncated", AmbiguousError, Reason.SLOW),
        ("reset", AmbiguousError, Reason.SLOW),
        ("html_200", AmbiguousError, Reason.OVERLOADED),
        ("empty", AmbiguousError, Reason.OVERLOADED),
        ("bad_utf8", AmbiguousError, Reason.OVERLOADED),
        ("no_queueid", AmbiguousError, Reason.OVERLOADED),
    ],
)
async def test_a_create_that_ends_the_job(cast: Cast, scenario: str, kind: type[ProviderError], reason: Reason) -> None:
    error = await cast.fault(scenario)
    assert (type(error), error.reason, error.usage) == (kind, reason, None)
    assert len(cast.posts("create_queue")) == 1
    assert cast.posts("get_result") == []


@pytest.mark.parametrize("scenario", ["error:provider_busy", "http:500", "http:502", "http:503", "html_502"])
async def test_a_create_that_queued_nothing_is_sent_again(cast: Cast, scenario: str) -> None:
    await cast.make(scenario)
    assert [type(error) for error in cast.seen.errors] == [TransientError]
    assert cast.seen.errors[0].reason == Reason.OVERLOADED
    assert len(cast.posts("create_queue")) == 2


async def test_a_create_without_an_answer_is_not_sent_again(cast: Cast) -> None:
    with override_settings(PROVIDER_CALL_TIMEOUT_SECONDS=0.3):
        error = await cast.fault("hold")
    assert (type(error), error.reason) == (AmbiguousError, Reason.SLOW)
    assert len(cast.posts("create_queue")) == 1
    cast.sandbox.wait_for(lambda: len(cast.sandbox.hung_up) == 1)  # and the connection is given up


async def test_no_connection_is_no_attempt(cast: Cast) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with aclosing(QuickTurbotext(Account(KEY, f"http://127.0.0.1:{port}"))) as provider:
        payload = await provider.prepare_payload(cast.request(EDIT))
        with pytest.raises(TransientError) as caught:
            await provider.submit_job(payload)
    assert caught.value.reason == Reason.OVERLOADED


@pytest.mark.parametrize("status", [429, 503])
async def test_the_wish_of_retry_after_is_handed_on(cast: Cast, status: int) -> None:
    error = await cast.fault(f"http:{status},7", seconds=5)  # 7 s are more than there are: the fault is the answer
    assert error.retry_after == 7
    assert len(cast.posts("create_queue")) == 1


@pytest.mark.parametrize(
    "scenario", ["chunked", "http10", "bom", "wrong_type", "php_warning", "success_text", "queueid_string"]
)
async def test_an_odd_create_is_understood(cast: Cast, scenario: str) -> None:
    await cast.make(scenario)
    assert cast.seen.references == ["generate_image2image:4001"]
    assert cast.seen.errors == []


async def test_a_photo_that_turbotext_cannot_fetch_names_public_base_url(cast: Cast) -> None:
    cast.turbotext.allows_private = False
    error = await cast.fault()
    assert error.reason == Reason.BAD_SETTINGS
    assert "PUBLIC_BASE_URL" in error.message
    assert cast.sandbox.calls("media", "GET") == []


async def test_the_last_photo_attempt_is_the_last(cast: Cast) -> None:
    cast.turbotext.photo_attempts = 1
    usage = (await cast.make()).usage
    assert usage
    assert usage.units["photo_attempts_left"] == 0
    assert (await cast.fault()).reason == Reason.QUOTA


@pytest.mark.parametrize("key", ["another", "", "ключ", "two\nlines"])
async def test_a_wrong_key(cast: Cast, key: str) -> None:
    error = await cast.fault(key=key)
    assert (type(error), error.reason) == (PermanentError, Reason.AUTH)


@pytest.mark.parametrize("field", ["success", "queueid"])
async def test_each_field_of_a_create_is_read_by_its_name(cast: Cast, field: str) -> None:
    assert type(await cast.fault(f"rename:{field}")) is AmbiguousError


# get_result


@pytest.mark.parametrize(
    "scenario",
    [
        "poll:lost",
        "poll:truncated",
        "poll:reset",
        "poll:html_502",
        "poll:html_200",
        "poll:empty",
        "poll:bad_utf8",
        "poll:redirect:https://evil.example/",
        "poll_http:401",
        "poll_http:404",
        "poll_http:429",
        "poll_http:500",
        "poll_http:504",
    ],
)
async def test_a_poll_that_fails_is_asked_again(cast: Cast, scenario: str) -> None:
    assert colour(await cast.make(scenario)) == near("steelblue")
    assert len(cast.posts("create_queue")) == 1
    assert cast.seen.polls > 1


@pytest.mark.parametrize("scenario", ["poll:hold", "download:hold"])
async def test_a_poll_that_is_never_answered_is_asked_again(cast: Cast, scenario: str) -> None:
    with override_settings(PROVIDER_CALL_TIMEOUT_SECONDS=0.5):
        assert colour(await cast.make(scenario)) == near("steelblue")
    assert len(cast.posts("create_queue")) == 1
    cast.sandbox.wait_for(lambda: len(cast.sandbox.hung_up) == 1)


@pytest.mark.parametrize("scenario", ["says_nothing", "poll_error:provider_busy", "poll_error:"])
async def test_what_says_nothing_of_the_job_is_no_end_of_it(cast: Cast, scenario: str) -> None:
    with pytest.raises(DeadlineReached):
        await cast.make(scenario, seconds=LAST_POLL_SECONDS + 0.5)
    assert cast.seen.polls > 3
    assert len(cast.posts("create_queue")) == 1


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("forbidden", Reason.REFUSED),
        ("poll_error:forbidden_content", Reason.REFUSED),
        ("poll_error:url_error", Reason.BAD_SETTINGS),
        ("poll_error:face_not_found", Reason.BAD_PHOTO),
        ("poll_error_object:face_not_found,url_image_target", Reason.BAD_TEMPLATE),
        ("poll_error:quality_limit", Reason.BAD_PHOTO),
        ("poll_error:LIMIT", Reason.QUOTA),
        ("poll_error:Something new", Reason.NO_IMAGE),
        ("poll_error_number", Reason.NO_IMAGE),
        ("no_picture", Reason.NO_IMAGE),
    ],
)
async def test_an_end_without_a_picture_is_final_and_has_spent_an_attempt(
    cast: Cast, scenario: str, reason: Reason
) -> None:
    error = await cast.fault(scenario)
    assert (type(error), error.reason) == (PermanentError, reason)
    assert error.usage
    assert error.usage.units["photo_attempts"] == 1
    assert len(cast.posts("create_queue")) == 1
    assert cast.sandbox.calls("turbotext", "GET") == []


async def test_the_providers_own_words_are_in_the_message(cast: Cast) -> None:
    assert (await cast.fault("poll_error:Сервер устал")).message == "Сервер устал"
    assert len((await cast.fault("poll_error:" + "x" * 900)).message) == responses.MAX_WORDS


async def test_words_that_repeat_key_or_prompt_are_blanked(cast: Cast) -> None:
    assert (await cast.fault(f"error:bad {PROMPT} of {KEY}")).message == "bad … of …"


async def test_a_template_that_is_no_picture_shows_while_polling(cast: Cast) -> None:
    error = await cast.fault("late_fetch", settings=StyleTransfer(style="broken"))
    assert error.reason == Reason.BAD_SETTINGS


@pytest.mark.parametrize("scenario", ["in_data", "relative", "absolute", "malformed", "php_warning", "success_text"])
async def test_every_shape_of_a_result(cast: Cast, scenario: str) -> None:
    picture = await cast.make(scenario)
    assert colour(picture) == near("steelblue")
    assert picture.usage
    assert picture.usage.units == {"photo_attempts": 1, "photo_attempts_left": 999}


@pytest.mark.parametrize("field", ["limits", "foto_limit"])
async def test_what_is_left_of_the_plan_is_read_by_its_name(cast: Cast, field: str) -> None:
    usage = (await cast.make(f"rename:{field}")).usage
    assert usage
    assert usage.units == {"photo_attempts": 1}


@pytest.mark.parametrize("field", ["uploaded_image", "image"])
async def test_one_place_of_the_picture_makes_up_for_the_other(cast: Cast, field: str) -> None:
    assert colour(await cast.make(f"rename:{field}")) == near("steelblue")


async def test_an_unknown_queueid_ends(cast: Cast) -> None:
    error = await cast.fault(reference="generate_image2image:1")
    assert (type(error), error.reason) == (PermanentError, Reason.NO_IMAGE)
    assert cast.posts("create_queue") == []


# The account, and what is checked before anything is sent


async def test_checking_an_account_spends_nothing(cast: Cast) -> None:
    async with aclosing(QuickTurbotext(cast.account())) as provider:
        await provider.check_account()
    (call,) = cast.sandbox.calls("turbotext")
    assert (call.path, call.body) == ("/api_ai/available_api", b"do=create_queue")
    assert cast.turbotext.photo_attempts == 1000


async def test_checking_an_account_with_a_wrong_key(cast: Cast) -> None:
    async with aclosing(QuickTurbotext(cast.account("another"))) as provider:
        with pytest.raises(PermanentError) as caught:
            await provider.check_account()
    assert caught.value.reason == Reason.AUTH


@pytest.mark.parametrize("ending", ["", "/", "/api_ai", "/api_ai/"])
async def test_the_address_may_be_as_the_documentation_has_it(cast: Cast, ending: str) -> None:
    async with aclosing(QuickTurbotext(Account(KEY, f"{cast.sandbox.url}/turbotext{ending}"))) as provider:
        await provider.check_account()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [(StyleTransfer(style="other"), Reason.BAD_TEMPLATE), (IdentityTransfer(face="other"), Reason.BAD_TEMPLATE)],
)
async def test_a_template_without_a_link_is_named(cast: Cast, settings: OperationSettings, reason: Reason) -> None:
    error = await cast.fault(settings=settings)
    assert (error.reason, "other" in error.message) == (reason, True)
    assert cast.sandbox.journal == []


async def test_a_photo_without_a_link_is_a_fault_of_the_settings() -> None:
    request = Request(uuid4(), "image_edit", EDIT, Picture(b"", "image/jpeg"), {})
    with pytest.raises(PermanentError, match="PUBLIC_BASE_URL") as caught:
        await QuickTurbotext(Account(KEY, "https://www.turbotext.ru")).prepare_payload(request)
    assert caught.value.reason == Reason.BAD_SETTINGS


@pytest.mark.parametrize(
    ("public", "provider", "is_fine"),
    [
        ("https://photos.example.com", Turbotext.default_base_url, True),
        ("http://93.184.216.34:8000", Turbotext.default_base_url, True),
        ("", Turbotext.default_base_url, False),
        ("http://localhost:8000", Turbotext.default_base_url, False),
        ("http://booth-pc:8000", Turbotext.default_base_url, False),
        ("http://booth.local", Turbotext.default_base_url, False),
        ("http://192.168.1.5:8000", Turbotext.default_base_url, False),
        ("http://[::1]:8000", Turbotext.default_base_url, False),
        ("http://[", Turbotext.default_base_url, False),
        ("http://localhost:8000", "http://127.0.0.1:9000/turbotext", True),  # a sandbox
    ],
)
def test_a_public_address_that_turbotext_cannot_reach_is_named(public: str, provider: str, is_fine: bool) -> None:
    problem = Turbotext.public_base_url_problem(public, provider)
    assert (problem is None) == is_fine
    assert is_fine or "PUBLIC_BASE_URL" in str(problem)
