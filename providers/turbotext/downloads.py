"""Fetching a finished picture: only from Turbotext's own hosts, bounded in size, and never with the key."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import httpx

from core import images
from providers.base import Account, PermanentError, Picture, Reason, TransientError
from providers.http import Answer, Http

MAX_BYTES = 48 * 1024 * 1024  # a lossless picture of 16 megapixels; documented results have one or two
MAX_REDIRECTS = 3


class Downloads:
    """The results of one account. `address` is the account's base URL, which relative links belong to."""

    def __init__(self, account: Account, address: str, pauses: Sequence[float]) -> None:
        self._address = httpx.URL(f"{address}/")
        self._pauses = pauses  # seconds, before each further look for a result that is not there
        self._has_proxy = account.proxy_url is not None
        self._http = Http(account, {})

    async def fetch(self, link: str) -> Picture:
        """The picture behind the link. Raises `TransientError` when asking again may help, else `PermanentError`."""
        url = _located(link, self._address)
        for pause in (0.0, *self._pauses):
            await asyncio.sleep(pause)
            answer = await self._followed(url)
            try:
                mime_type = _mime_type(answer)
            except images.ImageError as error:
                fault = f"the result's link gives no picture: {error}"
            else:
                return Picture(answer.body, mime_type)
        raise PermanentError(Reason.NO_IMAGE, fault)

    async def _followed(self, url: httpx.URL) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            await self._check(url)
            answer = await self._get(url)
            if not 300 <= answer.status < 400:
                return answer
            url = _located(answer.headers.get("Location", ""), url)
        raise PermanentError(Reason.NO_IMAGE, "the result's link redirects in circles")

    async def _get(self, url: httpx.URL) -> Answer:
        try:
            return await self._http.send("GET", str(url), max_bytes=MAX_BYTES)
        except TransientError as error:
            if error.reason == Reason.NO_IMAGE:  # too large; it would be so again, at the same length
                raise PermanentError(error.reason, error.message) from None
            raise

    async def _check(self, url: httpx.URL) -> None:
        """Raises `PermanentError` unless the link leads to Turbotext, and not into the network that we stand in."""
        if _origin(url) == _origin(self._address):
            return
        if url.scheme != "https" or url.port is not None or not _is_turbotext(url.host):
            raise PermanentError(Reason.NO_IMAGE, f"the result's link leads to a foreign host: {url.host[:100]}")
        # Names are resolved by the proxy where there is one. Should a name change between this look and the connection,
        # TLS still asks for Turbotext's certificate.
        if not self._has_proxy and not all(map(is_public, await _addresses(url.host))):
            raise PermanentError(Reason.NO_IMAGE, f"the result's link leads into a private network: {url.host[:100]}")

    async def aclose(self) -> None:
        await self._http.aclose()


def is_public(address: str) -> bool:
    """Whether the IP address is one of the internet's."""
    return ipaddress.ip_address(address).is_global


def _located(link: str, base: httpx.URL) -> httpx.URL:
    try:
        url = base.join(link)
    except httpx.InvalidURL:
        raise PermanentError(Reason.NO_IMAGE, "the result's link is not one") from None
    return url.copy_with(scheme="https") if url.scheme == "http" and _is_turbotext(url.host) else url


def _is_turbotext(host: str) -> bool:
    return host == "turbotext.ru" or host.endswith(".turbotext.ru")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


async def _addresses(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TransientError(Reason.OVERLOADED, f"no address of {host[:100]} ({type(error).__name__})") from None
    return [str(address[0]) for *_, address in found]


def _mime_type(answer: Answer) -> str:
    """What the bytes are, whatever they are called. Raises `ImageError` when they are not there, or no picture."""
    if answer.status in {408, 429} or answer.status >= 500:
        raise TransientError(Reason.OVERLOADED, f"HTTP {answer.status} instead of the picture")
    if answer.status != 200:
        raise images.ImageError(f"HTTP {answer.status}")
    return images.probe(answer.body, mime_types=images.FORMATS, must_end=True).mime_type
