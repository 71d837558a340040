"""Staff's pages for provider accounts: secrets are write-only, states and errors are described in plain words."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import fixtures

from providers.base import Reason
from providers.models import ProviderAccount
from tests.admin_client import browser, errors_of, log_in, make_staff_user, post, post_versioned, read_version, text_of
from tests.providers.account_factories import KEYS, create_account
from tests.sandbox.wire import WireSandbox

pytest_plugins = "tests.providers.accounts_fixtures"
pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]

LIST = reverse("admin:providers_provideraccount_changelist")
PAGE = reverse("admin:providers_provideraccount_change", args=["gemini"])
KEY, PROXY = "AIza-new-and-secret", "http://user:hush-hush@proxy.example:3128"


@pytest.fixture
def admin() -> Client:
    return browser(superuser=True)


def form(**changes: Any) -> dict[str, Any]:
    """What the browser posts."""
    return {"is_enabled": "on", "base_url": "http://127.0.0.1:9/gemini", "new_key": "", "new_proxy_url": ""} | changes


def gemini() -> ProviderAccount:
    return ProviderAccount.objects.get(pk="gemini")


def act(client: Client, action: str, *provider_ids: str) -> Any:
    return client.post(LIST, {"action": action, "_selected_action": provider_ids}, follow=True)


def test_of_two_open_pages_the_second_to_be_saved_is_told(admin: Client) -> None:
    create_account()
    first, second = (form(per_day="5") | read_version(admin.get(PAGE)) for _ in range(2))
    assert admin.post(PAGE, first).status_code == 302
    ProviderAccount.objects.update(failures=3)  # by a worker: no edit
    third = form(per_minute="7") | read_version(admin.get(PAGE))
    answer = admin.post(PAGE, second | {"per_day": "9"})
    assert "Nothing is saved yet" in text_of(answer)
    assert gemini().per_day == 5
    ProviderAccount.objects.update(failures=0)
    assert admin.post(PAGE, third).status_code == 302


# Secrets.


def test_a_secret_is_used_and_displayed_nowhere(admin: Client) -> None:
    create_account()
    saved = post_versioned(admin, PAGE, form(new_key=f" {KEY} ", new_proxy_url=PROXY), follow=True)
    assert (gemini().decrypt().key, gemini().decrypt().proxy_url) == (KEY, PROXY)
    pages = [saved, *(admin.get(page) for page in (PAGE, LIST, f"{PAGE}history/", reverse("admin:index")))]
    stored = gemini()
    everything = "".join(page.content.decode() for page in pages) + repr(stored) + str(stored) + repr(stored.decrypt())
    everything += "".join(LogEntry.objects.values_list("change_message", flat=True))
    for secret in (KEY, "hush-hush", stored.encrypted_key, stored.encrypted_proxy_url):
        assert secret not in everything
    assert "New key" in everything


def test_a_form_with_an_error_does_not_send_the_key_back(admin: Client) -> None:
    create_account()
    answer = post_versioned(admin, PAGE, form(new_key=KEY, per_minute="0"))
    assert list(errors_of(answer)) == ["per_minute"]
    assert KEY not in answer.content.decode()


def test_an_empty_field_keeps_the_secret_and_a_hyphen_removes_it(admin: Client) -> None:
    create_account().set_proxy_url(PROXY)
    post_versioned(admin, PAGE, form(new_key=KEY, new_proxy_url=PROXY))
    post_versioned(admin, PAGE, form(per_day="5"))
    assert (gemini().decrypt().key, gemini().decrypt().proxy_url, gemini().per_day) == (KEY, PROXY, 5)
    post_versioned(admin, PAGE, form(new_key="-", new_proxy_url="-"))
    assert (gemini().is_configured, gemini().decrypt().proxy_url) == (False, None)


def test_who_changed_the_key_and_when_is_kept() -> None:
    create_account()
    admin = browser(superuser=True)
    post_versioned(admin, PAGE, form(per_minute="7"))
    assert (gemini().key_updated_at, gemini().key_updated_by) == (None, None)
    before = timezone.now()
    post_versioned(admin, PAGE, form(per_minute="7", new_key=KEY))
    changed = gemini()
    assert changed.key_updated_at is not None
    assert before <= changed.key_updated_at <= timezone.now()
    assert changed.key_updated_by is not None
    assert changed.key_updated_by.username in text_of(admin.get(PAGE))
    assert [entry.get_change_message() for entry in LogEntry.objects.order_by("id")] == [
        "Changed Calls a minute.",
        "Changed New key.",
    ]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("base_url", "generativelanguage", "An address looks like"),
        ("base_url", "https://user:word@host", "without a login"),
        ("new_proxy_url", "proxy.example:3128", "A proxy address looks like"),
        ("new_proxy_url", "http://user:pass#word@proxy:1", "write / as %2F"),
        ("new_key", "two words", "Copy it again"),
        ("max_concurrent", "0", "greater than or equal to 1"),
        ("per_minute", "-1", "greater than or equal to"),
        ("per_day", "many", "whole number"),
        ("per_day", "99999999999", "less than or equal to"),
    ],
)
def test_an_invalid_value_is_reported_at_its_field(admin: Client, field: str, value: str, words: str) -> None:
    create_account()
    before = ProviderAccount.objects.values().get()
    (sentence,) = errors_of(post_versioned(admin, PAGE, form(**{field: value})))[field]
    assert words in sentence
    assert ProviderAccount.objects.values().get() == before


# The breaker, which workers move at the same time.


def test_saving_a_limit_leaves_the_breaker_as_it_is(admin: Client) -> None:
    until = timezone.now() + timedelta(seconds=30)
    create_account(failures=5, open_until=until, open_reason=Reason.OVERLOADED)
    post_versioned(admin, PAGE, form(per_minute="7"))
    assert (gemini().open_until, gemini().failures, gemini().per_minute) == (until, 5, 7)


@pytest.mark.parametrize(
    ("field", "value"), [("new_key", KEY), ("new_proxy_url", "-"), ("base_url", "http://127.0.0.1:9/relay")]
)
def test_a_change_of_the_connection_closes_the_breaker(admin: Client, field: str, value: str) -> None:
    create_account(failures=2, open_until=timezone.now(), open_reason=Reason.AUTH)
    post_versioned(admin, PAGE, form(**{field: value}))
    assert (gemini().open_until, gemini().failures) == (None, 0)


def test_closing_the_breaker_is_logged(admin: Client) -> None:
    create_account(failures=2, open_until=timezone.now(), open_reason=Reason.AUTH, probe_call_id=1)
    assert "1 account is asked again." in text_of(act(admin, "close_breaker", "gemini"))
    assert (gemini().open_until, gemini().failures, gemini().probe_call_id) == (None, 0, None)
    assert LogEntry.objects.get().change_message == "Breaker closed by hand"


SOON, JUST = timedelta(seconds=30), -timedelta(seconds=1)


@pytest.mark.parametrize(
    ("wait", "changes", "words"),
    [
        (None, {}, "is asked"),
        (None, {"is_enabled": False}, "off: its photos are refused"),
        (None, {"failures": 1}, "is asked; 1 failure in a row"),
        (SOON, {}, "open: not asked until"),
        (SOON, {"probe_call_id": 1}, "half-open: one photo tries it now (the provider did not accept the key)"),
        (JUST, {}, "half-open: the next photo tries it (the provider did not accept the key)"),
    ],
)
def test_the_breakers_state_in_words(
    admin: Client, wait: timedelta | None, changes: dict[str, int], words: str
) -> None:
    opened: dict[str, Any] = {"failures": 2, "open_reason": Reason.AUTH}
    create_account(**(opened | {"open_until": timezone.now() + wait} if wait else {}) | changes)
    assert words in text_of(admin.get(LIST))
    assert words in text_of(admin.get(PAGE))


def test_a_key_that_cannot_be_decrypted_is_reported(admin: Client, settings: fixtures.Settings) -> None:
    create_account()
    settings.FERNET_KEYS = [Fernet.generate_key().decode()]
    for page in (admin.get(LIST), admin.get(PAGE), act(admin, "test", "gemini")):
        assert "cannot be read (FERNET_KEYS has changed): enter them anew" in text_of(page)


# The test action.


def scenarios() -> Any:
    gemini = [("", "the account works."), ("no key", "there is no key yet."), ("bad key", "did not accept the key")]
    return [(provider, *case) for provider in ("gemini", "openai", "turbotext") for case in gemini]


@pytest.mark.parametrize(("provider_id", "fault", "words"), scenarios())
def test_the_test_action_reports_the_result_in_plain_words(
    admin: Client, wires: WireSandbox, provider_id: str, fault: str, words: str
) -> None:
    created = create_account(wires.url, provider_id)
    if fault:
        created.set_key("" if fault == "no key" else f"sk-bad-{KEY}")
        created.save()
    page = text_of(act(admin, "test", provider_id))
    assert words in page
    assert not any(secret in page for secret in (KEY, KEYS[provider_id]))
    assert words in LogEntry.objects.get().change_message


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("server:503", "the provider is overloaded or unavailable"),
        ("server:504", "the provider did not answer in time"),
        ("insufficient_quota", "the provider's quota or balance is used up"),
        ("lost", "the provider did not answer in time"),
        ("html_502", "the provider is overloaded or unavailable"),
    ],
)
def test_each_error_of_a_provider_is_described(admin: Client, wires: WireSandbox, scenario: str, words: str) -> None:
    create_account(wires.url, "openai")
    wires.speakers["openai"].play(scenario)
    assert f"OpenAI: {words}" in text_of(act(admin, "test", "openai"))


@pytest.mark.parametrize("provider_id", ["gemini", "openai", "turbotext"])
def test_an_unreachable_provider_is_reported(admin: Client, provider_id: str) -> None:
    create_account(provider_id=provider_id)
    assert "the provider is overloaded or unavailable (no connection" in text_of(act(admin, "test", provider_id))


def test_all_accounts_are_tested_at_once_and_a_silent_one_does_not_delay_the_page(
    admin: Client, wires: WireSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.admin.TEST_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for provider_id in ("openai", "gemini"):
            create_account(f"http://127.0.0.1:{silent.getsockname()[1]}", provider_id)
        create_account(wires.url, "turbotext")
        started = timezone.now()
        page = text_of(act(admin, "test", "openai", "gemini", "turbotext"))
    assert (timezone.now() - started).total_seconds() < 3
    assert page.count("no answer within") == 2
    assert "Turbotext: the account works." in page


def test_in_the_running_service_it_works_too(web: httpx.Client, wires: WireSandbox) -> None:
    create_account(wires.url)
    log_in(web, make_staff_user(superuser=True))
    post(web, LIST, {"action": "test", "_selected_action": "gemini"})
    assert "Google Gemini: the account works." in text_of(web.get(LIST))


# Permissions.


def test_staff_who_may_only_look_change_and_test_nothing(wires: WireSandbox) -> None:
    create_account(wires.url)
    viewer = browser("providers.view_provideraccount")
    assert viewer.get(LIST).status_code == viewer.get(PAGE).status_code == 200
    assert viewer.post(PAGE, form(new_key=KEY)).status_code == 403
    for action in ("test", "close_breaker"):
        act(viewer, action, "gemini")
    assert wires.journal == []
    assert gemini().decrypt().key == KEYS["gemini"]
    assert browser().get(LIST).status_code == 403


def test_accounts_are_neither_added_nor_deleted_by_hand(admin: Client) -> None:
    create_account()
    assert admin.get(f"{LIST}add/").status_code == 403
    assert admin.post(f"{PAGE}delete/", {"post": "yes"}).status_code == 403
    assert ProviderAccount.objects.exists()


def test_providers_that_need_no_key_are_called_without_one(admin: Client) -> None:
    ProviderAccount.objects.create(provider_id="studio")
    assert "Studio (built in) is asked" in text_of(admin.get(LIST))
    assert "the account works." in text_of(act(admin, "test", "studio"))
