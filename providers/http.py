"""HTTP to a provider: one client an account, network errors in the classes of `base`, responses of bounded size.

Redirects are not followed: a key is sent to its own host and nowhere else. No part of a request or response is logged.
"""

from __future__ import annotations

import json
import ssl
import zlib
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from io import BytesIO
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx

from core import image_work
from providers.address_guard import GuardedTransport
from providers.base import Account, AmbiguousError, PermanentError, Reason, TransientError

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_SECONDS = 5.0  # as for control calls; the time-out for the whole response is the caller's
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=32)
# A 4K picture as base64 in JSON is up to 70 MB; nothing larger is valid.
MAX_RESPONSE_BYTES = 96 * 1024 * 1024
JSON_COPIES = 6  # of a response in memory, while the picture is taken out of its JSON: texts, and base64 on its way


class _UnusableBody(Exception):
    """The response is too large, or compressed in a way that was not asked for."""


class _Body:
    """A response's bytes as they arrive. Never holds more than `max_bytes`, whatever they inflate to; httpx itself
    inflates each chunk in full, and in as many layers as the response names. The methods raise `_UnusableBody`, and
    `zlib.error` for what is damaged or cut short."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = BytesIO()
        encoding = encoding.strip().lower()
        self._inflater = None
        if encoding not in ("", "identity"):
            if encoding != "gzip":
                raise _UnusableBody(f"the answer is compressed as {encoding[:100]!r}, not as gzip")
            self._inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)  # with the header of gzip

    def add(self, chunk: bytes) -> None:
        if self._inflater is not None:  # one byte more than fits shows that there are more
            chunk = self._inflater.decompress(chunk, self._max_bytes - self._data.tell() + 1)
        self._data.write(chunk)
        if self._data.tell() > self._max_bytes:
            raise _UnusableBody(f"the answer is larger than {self._max_bytes} bytes")

    def finish(self) -> bytes:
        if self._inflater is not None and not self._inflater.eof and self._data.tell():
            raise zlib.error("cut short")
        return self._data.getvalue()  # without a copy


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response, whatever its status."""

    status: int
    headers: httpx.Headers
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body as JSON, with or without a byte order mark. Raises `ValueError` (also if it is not UTF-8)."""
        return json.loads(self.body.decode("utf-8-sig"))

    def read(self, reader: Callable[Concatenate[Response, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `reader` makes of this, as soon as there is memory for its JSON. Blocks: call it in a thread."""
        with image_work.reserve(len(self.body) * JSON_COPIES):
            return reader(self, *args, **kwargs)


class Http:
    """The client of one account. `headers` are sent with every request."""

    def __init__(self, account: Account, headers: Mapping[str, str]) -> None:
        sent = {"accept-encoding": "gzip", **headers}
        self._client = httpx.AsyncClient(
            base_url=account.base_url,
            transport=GuardedTransport(account.base_url, account.proxy_url, _tls_context(), LIMITS),
            headers={name.encode(): value.encode() for name, value in sent.items()},  # a pasted key may not be ASCII
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none: a session would link jobs to each other
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            follow_redirects=False,
            trust_env=False,  # the account defines the proxy
        )

    async def send(
        self, method: str, url: str, *, is_paid: bool = False, max_bytes: int = MAX_RESPONSE_BYTES, **request: Any
    ) -> Response:
        """Raises `TransientError` if no connection was made, and for calls that are not paid; `AmbiguousError` if a
        paid request was sent and its response was lost or is larger than `max_bytes`; `PermanentError` if the key
        cannot be sent at all, and as `AddressRefused` if the address is forbidden."""
        lost_error = AmbiguousError if is_paid else TransientError
        try:
            async with self._client.stream(method, url, **request) as stream:
                body = _Body(stream.headers.get("content-encoding", ""), max_bytes)
                async for chunk in stream.aiter_raw():
                    body.add(chunk)
                data = body.finish()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.PoolTimeout) as error:
            raise TransientError(Reason.OVERLOADED, f"no connection ({type(error).__name__})") from None
        except httpx.LocalProtocolError:  # its text quotes the header
            raise PermanentError(Reason.AUTH, "the key is empty or has signs that no key has") from None
        except (httpx.TransportError, zlib.error) as error:
            raise lost_error(Reason.SLOW, f"the answer was lost ({type(error).__name__})") from None
        except _UnusableBody as error:
            raise lost_error(Reason.NO_IMAGE, str(error)) from None
        return Response(stream.status_code, stream.headers, data)

    async def aclose(self) -> None:
        await self._client.aclose()


def decode_base64(text: str) -> bytes:
    """In either alphabet, padded or not, also inside a data URL: the picture is paid for, so be lenient. Raises
    `ValueError`."""
    text = text.rpartition(",")[2].translate(str.maketrans("-_", "+/")).rstrip("=")
    return b64decode(text + "=" * (-len(text) % 4), validate=True)


@cache
def _tls_context() -> ssl.SSLContext:
    """Shared by all clients: reading the certificate authorities takes 60 ms."""
    return httpx.create_ssl_context(trust_env=False)
