"""Addresses and keys as people type them: an invalid one is refused, with a message that does not quote it."""

from __future__ import annotations

import traceback

import httpx
import pytest
from django.core.exceptions import ValidationError

from providers.account_validators import check_address, check_key, check_proxy_address

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "address",
    ["https://api.example", "https://relay:8080/v1/", "http://127.0.0.1:1", "http://[::1]:80", "https://пример.рф"],
)
def test_an_address(address: str) -> None:
    check_address(address)
    check_proxy_address(address.removesuffix("/v1/"))


@pytest.mark.parametrize(
    "proxy", ["http://user:word@proxy:3128", "https://proxy.example:3128/", "HTTP://u:%23%2F@proxy:1", "http://u@p:1"]
)
def test_a_proxy_address_is_one_that_the_client_takes(proxy: str) -> None:
    check_proxy_address(proxy)
    httpx.AsyncClient(proxy=proxy)


NONE = [
    "proxy.example:3128",
    "ftp://proxy:1",
    "socks5://secret@proxy:1",
    "http://",
    "http:///secret",
    "http://host:port",
    "http://host:99999",
    "http://host:0",
    "http://[::1",
    "http://host/?key=secret",
    "http://ho st",
    "http://host\nsecret",
]


@pytest.mark.parametrize("address", [*NONE, "http://user:secret@host", "https://host/#x"])
def test_no_address(address: str) -> None:
    with pytest.raises(ValidationError) as raised:
        check_address(address)
    assert "secret" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("proxy", [*NONE, "http://user:pass#secret@host:1", "http://u:pass/secret@host:1"])
def test_no_proxy_address(proxy: str) -> None:
    with pytest.raises(ValidationError) as raised:
        check_proxy_address(proxy)
    assert "secret" not in "".join(traceback.format_exception(raised.value))


def test_a_key() -> None:
    check_key("AIza-_key.0~!")


@pytest.mark.parametrize("key", ["two words", "ключ", "line\nend", "\x7f"])
def test_no_key(key: str) -> None:
    with pytest.raises(ValidationError):
        check_key(key)
