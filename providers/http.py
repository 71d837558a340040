"""HTTP to a provider: one client an account, faults in the classes of `base`, answers bounded in size.

Redirects are not followed: a key goes to its own host and nowhere else. Nothing of a request or an answer is logged.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from providers.base import Account, AmbiguousError, PermanentError, Reason, TransientError

CONNECT_SECONDS = 5.0  # as every control call; how long an answer may take is the caller's time-out
# A 4K picture as base64 in JSON is up to 70 MB; what is larger is no answer.
MAX_ANSWER_BYTES = 96 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, whatever its status."""

    status: int
    headers: httpx.Headers
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body as JSON, a byte order mark forgiven. Raises `ValueError` (also for what is not UTF-8)."""
        return json.loads(self.body.decode("utf-8-sig"))


class Http:
    """The client of one account. `headers` go with every request."""

    def __init__(self, account: Account, headers: Mapping[str, str]) -> None:
        self._client = httpx.AsyncClient(
            base_url=account.base_url,
            proxy=account.proxy_url,
            verify=_tls(),
            headers={name.encode(): value.encode() for name, value in headers.items()},  # a pasted key may not be ASCII
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none: a session would join jobs to each other
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            follow_redirects=False,
            trust_env=False,  # the account says which proxy
        )

    async def send(
        self, method: str, url: str, *, is_paid: bool = False, max_bytes: int = MAX_ANSWER_BYTES, **request: Any
    ) -> Answer:
        """The answer. Raises `TransientError` when nothing can have happened, and for calls that cost nothing;
        `AmbiguousError` when a paid request went out and its answer was lost or is too large to be one;
        `PermanentError` when the key cannot be sent at all."""
        lost = AmbiguousError if is_paid else TransientError
        try:
            async with self._client.stream(method, url, **request) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > max_bytes:
                        raise lost(Reason.NO_IMAGE, f"the answer is larger than {max_bytes} bytes")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.PoolTimeout) as error:
            raise TransientError(Reason.OVERLOADED, f"no connection ({type(error).__name__})") from None
        except httpx.LocalProtocolError:  # its text has the header in it
            raise PermanentError(Reason.AUTH, "the key is empty or has signs that no key has") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise lost(Reason.SLOW, f"the answer was lost ({type(error).__name__})") from None
        return Answer(response.status_code, response.headers, bytes(body))

    async def aclose(self) -> None:
        await self._client.aclose()


@cache
def _tls() -> ssl.SSLContext:
    """The one for all clients: reading the authorities takes 60 ms."""
    return httpx.create_ssl_context(trust_env=False)
