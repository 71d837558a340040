"""Downloads finished pictures: only from Turbotext's own hosts, of bounded size, and never with the key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from core import images
from providers.address_guard import AddressRefused
from providers.base import Account, PermanentError, Picture, Reason, TransientError
from providers.http import Http, Response

MAX_BYTES = 48 * 1024 * 1024  # a lossless picture of 16 megapixels; documented results have one or two
MAX_REDIRECTS = 3


class Downloads:
    """Downloads the results of one account. `address` is the account's base URL, against which links are resolved."""

    def __init__(self, account: Account, address: str, pauses: Sequence[float]) -> None:
        self._address = httpx.URL(f"{address}/")
        self._pauses = pauses  # seconds, before each retry of a result that is not there yet
        self._http = Http(account, {})

    async def fetch(self, link: str) -> Picture:
        """The picture behind the link. Raises `TransientError` if another poll may help, else `PermanentError`."""
        url = _resolve_link(link, self._address)
        for pause in (0.0, *self._pauses):
            await asyncio.sleep(pause)
            response = await self._follow_redirects(url)
            try:
                mime_type = _read_mime_type(response)
            except images.ImageError as error:
                message = f"the result's link gives no picture: {error}"
            else:
                return Picture(response.body, mime_type)
        raise PermanentError(Reason.NO_IMAGE, message)

    async def _follow_redirects(self, url: httpx.URL) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            self._check_host(url)
            response = await self._get(url)
            if not 300 <= response.status < 400:
                return response
            url = _resolve_link(response.headers.get("Location", ""), url)
        raise PermanentError(Reason.NO_IMAGE, "the result's link redirects in circles")

    async def _get(self, url: httpx.URL) -> Response:
        try:
            return await self._http.send("GET", str(url), max_bytes=MAX_BYTES)
        except AddressRefused:
            raise PermanentError(
                Reason.NO_IMAGE, f"the result's link leads into a private network: {url.host[:100]}"
            ) from None
        except TransientError as error:
            if error.reason == Reason.NO_IMAGE:  # too large, which a retry would not change
                raise PermanentError(error.reason, error.message) from None
            raise

    def _check_host(self, url: httpx.URL) -> None:
        """Raises `PermanentError` unless the URL leads to Turbotext; the HTTP client checks where the name leads."""
        if _origin(url) == _origin(self._address):
            return
        if url.scheme != "https" or url.port is not None or not _is_turbotext(url.host):
            raise PermanentError(Reason.NO_IMAGE, f"the result's link leads to a foreign host: {url.host[:100]}")

    async def aclose(self) -> None:
        await self._http.aclose()


def _resolve_link(link: str, base: httpx.URL) -> httpx.URL:
    try:
        url = base.join(link)
    except httpx.InvalidURL:
        raise PermanentError(Reason.NO_IMAGE, "the result's link is not one") from None
    return url.copy_with(scheme="https") if url.scheme == "http" and _is_turbotext(url.host) else url


def _is_turbotext(host: str) -> bool:
    return host == "turbotext.ru" or host.endswith(".turbotext.ru")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _read_mime_type(response: Response) -> str:
    """The type, read from the bytes. Raises `ImageError` if it is no picture, `TransientError` if a retry may help."""
    if response.status in {408, 429} or response.status >= 500:
        raise TransientError(Reason.OVERLOADED, f"HTTP {response.status} instead of the picture")
    if response.status != 200:
        raise images.ImageError(f"HTTP {response.status}")
    return images.probe(response.body, mime_types=images.FORMATS, must_end=True).mime_type
