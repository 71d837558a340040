"""The Turbotext adapter against the sandbox on a real socket: queueing and polling."""

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
from tests.sandbox.turbotext_helpers import (
    AT_ONCE,
    EDIT,
    PROMPT,
    Harness,
    approx_colour,
    colour_at,
    run_sandbox,
)
from tests.sandbox.wire import WireSandbox

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def sandbox() -> Iterator[WireSandbox]:
    with run_sandbox() as started:
        yield started


@pytest.fixture
def harness(sandbox: WireSandbox) -> Harness:
    sandbox.reset()
    return Harness(sandbox)


# The good case


async def test_a_photo_is_queued_polled_and_downloaded(harness: Harness) -> None:
    harness.turbotext.reconnects = 2
    picture = await harness.make()
    assert picture.mime_type == "image/png"
    assert colour_at(picture) == approx_colour("steelblue")
    assert colour_at(picture, 0, 0) == approx_colour("magenta")
    assert harness.observer.references == ["generate_image2image:4001"]
    assert harness.observer.polls == 3


async def test_the_wire_of_an_edit(harness: Harness) -> None:
    harness.turbotext.reconnects = 0
    await harness.make(settings=ImageEdit(prompt=PROMPT, seed=7, scale=9, negative_prompt="blur", retry=AT_ONCE))
    create, poll = harness.sandbox.calls("turbotext")
    assert create.path == poll.path == "/api_ai/generate_image2image"
    for post in (create, poll):
        assert post.query == {}
        assert post.headers["authorization"] == f"Bearer {KEY}"
        assert post.headers["content-type"] == "application/x-www-form-urlencoded"
        assert "cookie" not in post.headers
    assert harness.posts("create_queue") == [
        {
            "do": "create_queue",
            "url": f"{harness.sandbox.url}/media/photo",
            "content": PROMPT,
            "strength": "40",
            "scale": "9.0",
            "seed": "7",
            "negative_prompt": "blur",
            "original_language": "ru",
        }
    ]
    assert harness.posts("get_result") == [{"do": "get_result", "queueid": "4001"}]


async def test_the_download_carries_no_key(harness: Harness) -> None:
    await harness.make()
    (download,) = harness.sandbox.calls("turbotext", "GET")
    assert (download.path, download.query) == ("/download.php", {"f": ["generate_image2image_id4001_0.png"]})
    assert not {"authorization", "cookie"} & download.headers.keys()
    assert KEY not in str(download.headers)


async def test_a_style_goes_onto_the_photo(harness: Harness) -> None:
    picture = await harness.make(settings=StyleTransfer(style="mood", prompt=PROMPT))
    media = f"{harness.sandbox.url}/media"
    assert harness.posts("create_queue") == [
        {"do": "create_queue", "url_image_target": f"{media}/photo", "url": f"{media}/style", "content": PROMPT}
    ]
    assert colour_at(picture) == pytest.approx((162, 172, 90), abs=12)  # half steelblue, half gold
    assert harness.observer.references == ["mix_images:4001"]


@pytest.mark.parametrize("restored", [True, False])
async def test_a_face_goes_onto_the_person(harness: Harness, restored: bool) -> None:
    picture = await harness.make(settings=IdentityTransfer(face="hero", face_restore=restored))
    media = f"{harness.sandbox.url}/media"
    assert harness.posts("create_queue") == [
        {
            "do": "create_queue",
            "url": f"{media}/photo",
            "url_image_target": f"{media}/face",
            "face_restore": str(restored),
        }
    ]
    assert colour_at(picture, 0.3, 0.3) == approx_colour("crimson")
    assert colour_at(picture, 0.7, 0.7) == approx_colour("steelblue")


async def test_another_worker_polls_the_same_queueid_and_pays_nothing(harness: Harness) -> None:
    async with aclosing(QuickTurbotext(harness.account())) as killed:
        accepted = await killed.submit_job(await killed.prepare_payload(harness.request(EDIT)))
    picture = await harness.make(reference=accepted.reference)
    assert colour_at(picture) == approx_colour("steelblue")
    assert len(harness.posts("create_queue")) == 1


async def test_a_job_that_is_never_done_ends_with_the_deadline(harness: Harness) -> None:
    with pytest.raises(DeadlineReached):
        await harness.make("forever", seconds=LAST_POLL_SECONDS + 0.5)
    assert harness.observer.polls > 3
    assert len(harness.posts("create_queue")) == 1


async def test_usage_is_one_attempt_and_what_is_left_of_them(harness: Harness) -> None:
    usage = (await harness.make()).usage
    assert usage
    assert usage.units == {"photo_attempts": 1, "photo_attempts_left": 999}
    assert (usage.model, usage.cost) == ("generate_image2image", None)


async def test_a_price_in_the_catalogue_is_the_cost(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.load_models("turbotext")["generate_image2image"], "price_usd", 0.03)
    usage = (await harness.make()).usage
    assert usage
    assert usage.cost == Decimal("0.03")


async def test_no_key_prompt_or_link_is_logged(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await harness.make("poll:lost")
        await harness.fail("error:params_error")
    assert caplog.text
    assert not [secret for secret in (KEY, PROMPT, "/media/photo") if secret in caplog.text]


# create_queue: responses that queue nothing


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
        # The attempt may have been spent: never repeated.
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
async def test_a_create_that_ends_the_job(
    harness: Harness, scenario: str, kind: type[ProviderError], reason: Reason
) -> None:
    error = await harness.fail(scenario)
    assert (type(error), error.reason, error.usage) == (kind, reason, None)
    assert len(harness.posts("create_queue")) == 1
    assert harness.posts("get_result") == []


@pytest.mark.parametrize("scenario", ["error:provider_busy", "http:500", "http:502", "http:503", "html_502"])
async def test_a_create_that_queued_nothing_is_sent_again(harness: Harness, scenario: str) -> None:
    await harness.make(scenario)
    assert [type(error) for error in harness.observer.errors] == [TransientError]
    assert harness.observer.errors[0].reason == Reason.OVERLOADED
    assert len(harness.posts("create_queue")) == 2


async def test_a_create_without_an_answer_is_not_sent_again(harness: Harness) -> None:
    with override_settings(PROVIDER_CALL_TIMEOUT_SECONDS=0.3):
        error = await harness.fail("hold")
    assert (type(error), error.reason) == (AmbiguousError, Reason.SLOW)
    assert len(harness.posts("create_queue")) == 1
    harness.sandbox.wait_for(lambda: len(harness.sandbox.hung_up) == 1)  # and the connection was closed


async def test_no_connection_is_no_attempt(harness: Harness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with aclosing(QuickTurbotext(Account(KEY, f"http://127.0.0.1:{port}"))) as provider:
        payload = await provider.prepare_payload(harness.request(EDIT))
        with pytest.raises(TransientError) as caught:
            await provider.submit_job(payload)
    assert caught.value.reason == Reason.OVERLOADED


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_passed_on(harness: Harness, status: int) -> None:
    error = await harness.fail(f"http:{status},7", seconds=5)  # 7 s are more than is left: the error ends the job
    assert error.retry_after == 7
    assert len(harness.posts("create_queue")) == 1


@pytest.mark.parametrize(
    "scenario", ["chunked", "http10", "bom", "wrong_type", "php_warning", "success_text", "queueid_string"]
)
async def test_an_odd_create_is_understood(harness: Harness, scenario: str) -> None:
    await harness.make(scenario)
    assert harness.observer.references == ["generate_image2image:4001"]
    assert harness.observer.errors == []


async def test_a_photo_that_turbotext_cannot_fetch_names_public_base_url(harness: Harness) -> None:
    harness.turbotext.allows_private = False
    error = await harness.fail()
    assert error.reason == Reason.BAD_SETTINGS
    assert "PUBLIC_BASE_URL" in error.message
    assert harness.sandbox.calls("media", "GET") == []


async def test_the_last_photo_attempt_is_the_last(harness: Harness) -> None:
    harness.turbotext.photo_attempts = 1
    usage = (await harness.make()).usage
    assert usage
    assert usage.units["photo_attempts_left"] == 0
    assert (await harness.fail()).reason == Reason.QUOTA


@pytest.mark.parametrize("key", ["another", "", "ключ", "two\nlines"])
async def test_a_wrong_key(harness: Harness, key: str) -> None:
    error = await harness.fail(key=key)
    assert (type(error), error.reason) == (PermanentError, Reason.AUTH)


@pytest.mark.parametrize("field", ["success", "queueid"])
async def test_each_field_of_a_create_is_read_by_its_name(harness: Harness, field: str) -> None:
    assert type(await harness.fail(f"rename:{field}")) is AmbiguousError


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
async def test_a_poll_that_fails_is_repeated(harness: Harness, scenario: str) -> None:
    assert colour_at(await harness.make(scenario)) == approx_colour("steelblue")
    assert len(harness.posts("create_queue")) == 1
    assert harness.observer.polls > 1


@pytest.mark.parametrize("scenario", ["poll:hold", "download:hold"])
async def test_a_poll_without_a_response_is_repeated(harness: Harness, scenario: str) -> None:
    with override_settings(PROVIDER_CALL_TIMEOUT_SECONDS=0.5):
        assert colour_at(await harness.make(scenario)) == approx_colour("steelblue")
    assert len(harness.posts("create_queue")) == 1
    harness.sandbox.wait_for(lambda: len(harness.sandbox.hung_up) == 1)


@pytest.mark.parametrize("scenario", ["says_nothing", "poll_error:provider_busy", "poll_error:"])
async def test_a_response_that_says_nothing_about_the_job_does_not_end_it(harness: Harness, scenario: str) -> None:
    with pytest.raises(DeadlineReached):
        await harness.make(scenario, seconds=LAST_POLL_SECONDS + 0.5)
    assert harness.observer.polls > 3
    assert len(harness.posts("create_queue")) == 1


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
    harness: Harness, scenario: str, reason: Reason
) -> None:
    error = await harness.fail(scenario)
    assert (type(error), error.reason) == (PermanentError, reason)
    assert error.usage
    assert error.usage.units["photo_attempts"] == 1
    assert len(harness.posts("create_queue")) == 1
    assert harness.sandbox.calls("turbotext", "GET") == []


async def test_the_providers_own_words_are_in_the_message(harness: Harness) -> None:
    assert (await harness.fail("poll_error:Сервер устал")).message == "Сервер устал"
    assert len((await harness.fail("poll_error:" + "x" * 900)).message) == responses.MAX_WORDS


async def test_words_that_repeat_key_or_prompt_are_blanked(harness: Harness) -> None:
    assert (await harness.fail(f"error:bad {PROMPT} of {KEY}")).message == "bad … of …"


async def test_a_template_that_is_no_picture_shows_while_polling(harness: Harness) -> None:
    error = await harness.fail("late_fetch", settings=StyleTransfer(style="broken"))
    assert error.reason == Reason.BAD_SETTINGS


@pytest.mark.parametrize("scenario", ["in_data", "relative", "absolute", "malformed", "php_warning", "success_text"])
async def test_every_shape_of_a_result(harness: Harness, scenario: str) -> None:
    picture = await harness.make(scenario)
    assert colour_at(picture) == approx_colour("steelblue")
    assert picture.usage
    assert picture.usage.units == {"photo_attempts": 1, "photo_attempts_left": 999}


@pytest.mark.parametrize("field", ["limits", "foto_limit"])
async def test_what_is_left_of_the_plan_is_read_by_its_name(harness: Harness, field: str) -> None:
    usage = (await harness.make(f"rename:{field}")).usage
    assert usage
    assert usage.units == {"photo_attempts": 1}


@pytest.mark.parametrize("field", ["uploaded_image", "image"])
async def test_either_field_of_the_picture_is_sufficient(harness: Harness, field: str) -> None:
    assert colour_at(await harness.make(f"rename:{field}")) == approx_colour("steelblue")


async def test_an_unknown_queueid_ends(harness: Harness) -> None:
    error = await harness.fail(reference="generate_image2image:1")
    assert (type(error), error.reason) == (PermanentError, Reason.NO_IMAGE)
    assert harness.posts("create_queue") == []


# The account, and checks before anything is sent


async def test_checking_an_account_spends_nothing(harness: Harness) -> None:
    async with aclosing(QuickTurbotext(harness.account())) as provider:
        await provider.check_account()
    (call,) = harness.sandbox.calls("turbotext")
    assert (call.path, call.body) == ("/api_ai/available_api", b"do=create_queue")
    assert harness.turbotext.photo_attempts == 1000


async def test_checking_an_account_with_a_wrong_key(harness: Harness) -> None:
    async with aclosing(QuickTurbotext(harness.account("another"))) as provider:
        with pytest.raises(PermanentError) as caught:
            await provider.check_account()
    assert caught.value.reason == Reason.AUTH


@pytest.mark.parametrize("ending", ["", "/", "/api_ai", "/api_ai/"])
async def test_the_address_may_be_as_the_documentation_has_it(harness: Harness, ending: str) -> None:
    async with aclosing(QuickTurbotext(Account(KEY, f"{harness.sandbox.url}/turbotext{ending}"))) as provider:
        await provider.check_account()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [(StyleTransfer(style="other"), Reason.BAD_TEMPLATE), (IdentityTransfer(face="other"), Reason.BAD_TEMPLATE)],
)
async def test_a_template_without_a_link_is_named(
    harness: Harness, settings: OperationSettings, reason: Reason
) -> None:
    error = await harness.fail(settings=settings)
    assert (error.reason, "other" in error.message) == (reason, True)
    assert harness.sandbox.journal == []


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
