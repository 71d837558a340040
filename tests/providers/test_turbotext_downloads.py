"""Downloads of Turbotext's results: allowed and forbidden hosts, and valid pictures."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import aclosing
from io import BytesIO

import pytest
from PIL import Image

from providers.base import Account, PermanentError, Reason, TransientError
from providers.turbotext.downloads import Downloads
from tests.sandbox.pictures import ODD, UNUSABLE
from tests.sandbox.turbotext import KEY
from tests.sandbox.turbotext_helpers import Harness, approx_colour, colour_at, run_sandbox
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


@pytest.mark.parametrize(
    "scenario",
    [
        "download_http:404",
        "download_http:410",
        "download_http:503",
        "download_http:429",
        "download:lost",
        "download:truncated",
        "download:reset",
        "download:html_200",
        "download:empty",
        "download:chunked",
        "download:http10",
        "octet_stream",
    ],
)
async def test_a_download_that_fails_once_is_tried_again(harness: Harness, scenario: str) -> None:
    picture = await harness.make(scenario)
    assert (picture.mime_type, colour_at(picture)) == ("image/png", approx_colour("steelblue"))
    assert len(harness.posts("create_queue")) == 1


@pytest.mark.parametrize(
    "scenario", ["gone:404", "gone:410", "gone:403", "not_found_page", *(f"picture:{name}" for name in UNUSABLE)]
)
async def test_a_result_that_is_no_picture(harness: Harness, scenario: str) -> None:
    error = await harness.fail(scenario)
    assert (type(error), error.reason) == (PermanentError, Reason.NO_IMAGE)
    assert error.usage
    assert error.usage.units["photo_attempts"] == 1
    assert len(harness.sandbox.calls("turbotext", "GET")) == 3


async def test_a_result_that_is_too_large_is_fetched_once(harness: Harness) -> None:
    error = await harness.fail("too_large")
    assert (type(error), error.reason) == (PermanentError, Reason.NO_IMAGE)
    assert len(harness.sandbox.calls("turbotext", "GET")) == 1


@pytest.mark.parametrize("name", sorted(ODD.keys() - set(UNUSABLE)))
async def test_the_bytes_say_what_they_are(harness: Harness, name: str) -> None:
    picture = await harness.make(f"picture:{name}")
    with Image.open(BytesIO(picture.data)) as opened:
        assert Image.MIME[opened.format or ""] == picture.mime_type


@pytest.mark.parametrize(
    "link",
    [
        "http://localhost:{port}/turbotext/download.php?f=x.png",  # the sandbox, by a name that is not the account's
        "https://127.0.0.1:{port}/x.png",
        "http://127.0.0.1:1/x.png",
        "http://169.254.169.254/latest/meta-data",
        "https://[::1]/x.png",
        "https://evil.example/x.png",
        "https://evilturbotext.ru/x.png",
        "https://www.turbotext.ru.evil.example/x.png",
        "https://www.turbotext.ru@evil.example/x.png",
        "https://www.turbotext.ru:8443/x.png",
        "//evil.example/x.png",
        "ftp://www.turbotext.ru/x.png",
        "file:///etc/passwd",
        "http://[",
    ],
)
async def test_a_link_to_anywhere_else_is_not_followed(harness: Harness, link: str) -> None:
    port = harness.sandbox.url.rpartition(":")[2]
    error = await harness.fail("link:" + link.format(port=port))
    assert (type(error), error.reason) == (PermanentError, Reason.NO_IMAGE)
    assert harness.sandbox.calls("turbotext", "GET") == []


async def test_a_redirect_to_anywhere_else_is_not_followed(harness: Harness) -> None:
    error = await harness.fail(f"download:redirect:{harness.sandbox.url.replace('127.0.0.1', 'localhost')}/media/photo")
    assert (type(error), error.reason) == (PermanentError, Reason.NO_IMAGE)
    assert "localhost" in error.message
    assert len(harness.sandbox.calls("media", "GET")) == 1  # the provider's own fetch


async def test_a_redirect_on_the_same_host_is_followed(harness: Harness) -> None:
    picture = await harness.make("download:redirect:image/generate_image2image_id4001_0.png")
    assert colour_at(picture) == approx_colour("steelblue")


async def test_redirects_in_circles_end(harness: Harness) -> None:
    assert (await harness.fail("loop")).reason == Reason.NO_IMAGE
    assert len(harness.sandbox.calls("turbotext", "GET")) == 4


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.7"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["::1"],
        ["fd00::1"],
        ["::ffff:192.168.0.1"],
        ["93.184.216.34", "192.168.0.1"],
    ],
)
async def test_a_turbotext_name_that_leads_into_a_private_network_is_not_called(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    downloads = Downloads(Account(KEY, "https://www.turbotext.ru"), "https://www.turbotext.ru", ())
    with pytest.raises(PermanentError, match="private network"):
        await downloads.fetch("https://files.turbotext.ru/x.png")


async def test_a_name_without_an_address_may_have_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    downloads = Downloads(Account(KEY, "https://www.turbotext.ru"), "https://www.turbotext.ru", ())
    with pytest.raises(TransientError, match="no connection"):
        await downloads.fetch("https://files.turbotext.ru/x.png")


@pytest.mark.parametrize("link", ["https://files.turbotext.ru/x.png", "http://files.turbotext.ru/x.png"])
async def test_subdomains_are_called_by_tls_only_and_through_the_proxy(link: str) -> None:
    heard = asyncio.Queue[bytes]()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        account = Account(KEY, "https://www.turbotext.ru", proxy_url=address)
        async with aclosing(Downloads(account, account.base_url, ())) as downloads:
            with pytest.raises(TransientError):
                await downloads.fetch(link)
    asked = heard.get_nowait()
    assert asked.startswith(b"CONNECT files.turbotext.ru:443 ")
    assert KEY.encode() not in asked
