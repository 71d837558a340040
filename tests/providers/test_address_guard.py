"""Where the service connects to, and who receives a provider's key."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from django.urls import reverse
from pytest_django import fixtures

from providers.account_validators import check_address
from providers.base import Account, PermanentError, TransientError
from providers.http import Http
from providers.models import ProviderAccount, build_missing_accounts
from tests.admin_client import browser, errors_of, post_versioned, text_of
from tests.api import Api, check_refusal, make_api
from tests.providers.account_factories import KEYS, create_account
from tests.sandbox.wire import WireSandbox

pytest_plugins = "tests.providers.accounts_fixtures"
pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]

PAGE = reverse("admin:providers_provideraccount_change", args=["gemini"])
LIST = reverse("admin:providers_provideraccount_changelist")
OTHER_KEY = "AIza-of-the-other-host"
PROXY = "http://proxy.example:3128"


def gemini() -> ProviderAccount:
    return ProviderAccount.objects.get(pk="gemini")


def put(**changes: Any) -> Any:
    return make_api("settings:read", "settings:write")("put", "/api/settings", {"provider_keys": {"gemini": changes}})


def fill_in(**changes: Any) -> dict[str, Any]:
    """What the browser posts."""
    return {"is_enabled": "on", "base_url": gemini().base_url, "new_key": "", "new_proxy_url": ""} | changes


def make_test_call() -> str:
    """The admin's harmless call with the stored key. Returns what the page says."""
    action = {"action": "test", "_selected_action": ["gemini"]}
    return text_of(browser(superuser=True).post(LIST, action, follow=True))


def list_keys(sandbox: WireSandbox) -> set[str]:
    """The keys that the sandbox has received."""
    return {request.headers.get("x-goog-api-key", "") for request in sandbox.journal}


# A stored key follows its address.


@pytest.mark.parametrize("door", ["api", "admin"])
def test_a_new_host_does_not_receive_the_stored_key(door: str, wires: WireSandbox) -> None:
    create_account()
    listener = f"{wires.url}/gemini"
    if door == "api":
        details = check_refusal(put(base_url=listener), 422, "validation_failed")
        (sentence,) = details["provider_keys.gemini.api_key"]
    else:
        (sentence,) = errors_of(post_versioned(browser(superuser=True), PAGE, fill_in(base_url=listener)))["new_key"]
    assert "Enter the key again" in sentence
    make_test_call()
    assert wires.journal == []
    assert KEYS["gemini"] not in sentence


@pytest.mark.parametrize("door", ["api", "admin"])
def test_a_new_host_receives_the_key_that_is_entered_with_it(door: str, wires: WireSandbox) -> None:
    create_account()
    listener = f"{wires.url}/gemini"
    if door == "api":
        assert put(base_url=listener, api_key=OTHER_KEY).status_code == 200
    else:
        post_versioned(browser(superuser=True), PAGE, fill_in(base_url=listener, new_key=OTHER_KEY))
    make_test_call()
    assert list_keys(wires) == {OTHER_KEY}


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ("https://relay.example/v1", "https://RELAY.example:443/v2", True),
        ("https://relay.example", "https://relay.example:8443", False),
        ("https://relay.example", "https://relay.example.net", False),
        ("https://relay.example", "https://127.0.0.1", False),
        ("http://127.0.0.1:9", "https://127.0.0.1:9", False),
        ("https://relay.example", "", False),
        ("", "https://generativelanguage.googleapis.com/", True),
    ],
)
def test_the_same_host_is_the_same_scheme_name_and_port(before: str, after: str, is_same: bool) -> None:
    create_account(base_url=before)
    assert put(base_url=after).status_code == (200 if is_same else 422)
    assert gemini().base_url == (after if is_same else before)


def test_a_proxy_that_would_read_the_key_asks_for_it_again() -> None:
    """Of https it sees the host's name only."""
    create_account(base_url="https://relay.example")
    assert put(proxy_url=PROXY).status_code == 200
    create_account(base_url="http://127.0.0.1:9")
    check_refusal(put(proxy_url=PROXY), 422, "validation_failed")
    assert put(proxy_url=PROXY, api_key=OTHER_KEY).status_code == 200
    assert put(proxy_url="").status_code == 200


def test_without_a_stored_key_or_with_its_removal_any_host_may_be_set() -> None:
    ProviderAccount.objects.create(provider_id="gemini")
    assert put(base_url="https://relay.example").status_code == 200
    assert put(api_key=OTHER_KEY).status_code == 200
    assert put(base_url="https://other.example", api_key="").status_code == 200
    assert gemini().is_configured is False


# Which addresses are taken.

PLAIN = ["http://relay.example", "http://10.0.0.7:8080"]
PRIVATE = ["https://10.0.0.7", "https://192.168.1.1", "https://100.64.0.1", "https://[fd00::1]", "https://0.1.2.3"]
NEVER = [
    "https://169.254.169.254/latest/meta-data",
    "https://[fe80::1]",
    "https://0.0.0.0",
    "https://[::]",
    "https://224.0.0.1",
    "https://[ff02::1]",
    "https://[::ffff:169.254.169.254]",
    "https://[fd00:ec2::254]",
    "https://100.100.100.200",
]


@pytest.mark.parametrize("address", [*PLAIN, *PRIVATE, *NEVER])
def test_such_an_address_is_refused_at_every_door(address: str) -> None:
    create_account()
    details = check_refusal(put(base_url=address, api_key=OTHER_KEY), 422, "validation_failed")
    assert list(details) == ["provider_keys.gemini.base_url"]
    form = fill_in(base_url=address, new_key=OTHER_KEY)
    assert list(errors_of(post_versioned(browser(superuser=True), PAGE, form))) == ["base_url"]
    ProviderAccount.objects.all().delete()
    with pytest.raises(ImproperlyConfigured, match="GEMINI_BASE_URL"):
        build_missing_accounts(lambda name: address if name == "GEMINI_BASE_URL" else "")


@pytest.mark.parametrize("address", [*PLAIN, *PRIVATE])
def test_the_setting_permits_plain_and_private_addresses(address: str, settings: fixtures.Settings) -> None:
    settings.ALLOW_INSECURE_PROVIDERS = True
    check_address(address)


@pytest.mark.parametrize("address", NEVER)
def test_no_setting_permits_the_addresses_of_a_cloud(address: str, settings: fixtures.Settings) -> None:
    settings.ALLOW_INSECURE_PROVIDERS = True
    check_refusal(put(base_url=address), 422, "validation_failed")
    check_refusal(put(proxy_url=address.removesuffix("/latest/meta-data")), 422, "validation_failed")


# The connection itself.


@contextmanager
def listening() -> Iterator[tuple[int, socket.socket]]:
    """A port, and its socket, which accepts at once or raises."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server.getsockname()[1], server


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name has these addresses; an address stays itself."""
    original = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        is_name = any(letter.isalpha() for letter in str(host)) and ":" not in str(host)
        return [each for a in addresses for each in original(a, port)] if is_name else original(host, port)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


async def fetch(base_url: str, url: str = "/", proxy_url: str | None = None) -> None:
    async with aclosing(Http(Account("", base_url, proxy_url), {})) as http:
        await http.send("GET", url)


@pytest.mark.parametrize("url", ["https://relay.example:{port}/", "http://relay.example:{port}/"])
async def test_a_name_that_leads_to_this_machine_is_not_connected_to(
    url: str, monkeypatch: pytest.MonkeyPatch, settings: fixtures.Settings
) -> None:
    resolve_to(monkeypatch, "127.0.0.1")
    with listening() as (port, server):
        with pytest.raises(PermanentError):
            await fetch(url.format(port=port))
        with pytest.raises(BlockingIOError):
            server.accept()
        settings.ALLOW_INSECURE_PROVIDERS = True  # now it connects, and no answer comes from that socket
        server.close()
        with pytest.raises(TransientError, match="no connection"):
            await fetch(url.format(port=port))


@pytest.mark.parametrize("addresses", [["169.254.169.254"], ["93.184.216.34", "10.0.0.7"], ["::ffff:127.0.0.1"]])
async def test_one_forbidden_address_of_a_name_is_enough(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, *addresses)
    with pytest.raises(PermanentError, match="private network"):
        await fetch("https://relay.example")


async def test_a_link_to_this_machine_is_fetched_from_the_accounts_own_host_only(wires: WireSandbox) -> None:
    await fetch(wires.url, f"{wires.url}/gemini/own")
    assert len(wires.journal) == 1
    with listening() as (port, server):
        for url in (f"http://127.0.0.1:{port}/", f"http://localhost:{port}/", f"https://127.0.0.1:{port}/"):
            with pytest.raises(PermanentError):
                await fetch(wires.url, url)
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_a_proxy_may_be_on_this_machine_and_is_no_way_round(settings: fixtures.Settings) -> None:
    with listening() as (port, server):
        proxy_url = f"http://127.0.0.1:{port}"
        for url in ("http://relay.example", "https://169.254.169.254", "https://10.0.0.7"):
            with pytest.raises(PermanentError):
                await fetch(url, proxy_url=proxy_url)
        with pytest.raises(BlockingIOError):
            server.accept()
    with pytest.raises(TransientError, match="no connection"):
        await fetch("https://relay.example", proxy_url=proxy_url)
    with pytest.raises(PermanentError):
        await fetch("https://relay.example", proxy_url="http://169.254.169.254:80")


async def test_a_redirect_is_not_followed(wires: WireSandbox) -> None:
    wires.speakers["openai"].play("redirect:http://169.254.169.254/")
    async with aclosing(Http(Account("", f"{wires.url}/openai/v1"), {"Authorization": "Bearer sk-x"})) as http:
        response = await http.send("GET", "/models")
    assert response.status in (302, 401)


async def test_the_second_address_of_a_name_is_tried(wires: WireSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(wires.url.rpartition(":")[2])
    resolve_to(monkeypatch, "::1", "127.0.0.1")  # the sandbox listens on the second only
    await fetch(f"http://localhost:{port}", "/gemini/x")
    assert len(wires.journal) == 1


def test_a_stored_address_of_an_earlier_release_is_refused_in_words(client: Client) -> None:
    create_account(base_url="http://relay.example")
    assert "ALLOW_INSECURE_PROVIDERS" in make_test_call()


def test_the_api_still_reads_accounts_with_such_an_address() -> None:
    create_account(base_url="http://relay.example")
    api: Api = make_api("settings:read")
    assert api("get", "/api/settings").json()["provider_keys"]["gemini"]["base_url"] == "http://relay.example"
