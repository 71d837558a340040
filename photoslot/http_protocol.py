"""HTTP/1.1 with limits on what a client may keep open. uvicorn itself limits only the idle time between two requests.

A connection costs a descriptor, and whoever opens many and sends nothing would take all of them from the booths.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

CHECK_SECONDS = 2.5  # how often a connection is looked at: each limit may be exceeded by that much
HEADER_SECONDS = 10.0  # from the first wait for a request to the end of its headers, which fit into a packet or two
# A body has this long, and a second more for every BODY_BYTES_PER_SECOND received: 256 kbit/s, a quarter of the slowest
# uplink we know of. 17 MB at 1 Mbit/s take 136 s and would have 570 s.
BODY_SECONDS = 20.0
BODY_BYTES_PER_SECOND = 32 * 1024
SILENT_SECONDS = 20.0  # without a byte of the body, or without one taken of the response: a mobile link may pause
LINGER_SECONDS = 30.0  # for the client to read a refusal that came before the end of its body
LINGER_SILENT_SECONDS = 5.0
PER_ADDRESS = 200  # connections in one process: a party behind one router. Not for this machine and TRUSTED_PROXIES
MOST_DESCRIPTORS = 1 << 20
RESERVED_DESCRIPTORS = 128  # for the database, files and logs
WARN_SECONDS = 60.0


def raise_descriptor_limit() -> int:
    """To what the system allows. Returns the most connections that leave descriptors for an open file each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(1, (limit - RESERVED_DESCRIPTORS) // 2)


@cache
def get_trusted_networks() -> list[IPv4Network | IPv6Network]:
    """This machine and the reverse proxies: what comes from them comes from many."""
    return [ip_network(each, strict=False) for each in ("127.0.0.1", "::1", *settings.TRUSTED_PROXIES)]


class _Transport:
    """A transport whose `close` lets the client read a response that came before the end of its body. Closed at once,
    the bytes that nobody has read would reset the connection, and the response with it."""

    def __init__(self, transport: asyncio.Transport, protocol: LimitedProtocol) -> None:
        self._transport = transport
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._protocol.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        if self._transport.is_closing() or not self._protocol.linger():
            self._transport.close()


class LimitedProtocol(HttpToolsProtocol):
    """Use as uvicorn's `--http photoslot.http_protocol:LimitedProtocol`."""

    max_connections = raise_descriptor_limit()
    counts: Counter[str] = Counter()  # connections by address, in this process
    warned_at = 0.0

    address = ""
    is_lingering = False
    _check: asyncio.TimerHandle | None = None
    _expects_headers = True
    _expects_body = False
    _received = 0  # bytes of this body
    _seen = 0  # progress at the last check: bytes received, or still to be sent
    _waited = 0.0  # seconds for the headers, the body, or while lingering
    _silent = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        self.address = self.client[0] if self.client else ""
        self.counts[self.address] += 1
        if self.counts[self.address] > PER_ADDRESS and not self._is_trusted():
            self._warn("%s has %s connections open and gets no more", self.address, PER_ADDRESS)
            transport.abort()
        elif len(self.connections) > self.max_connections:
            self._make_room()
        self._check = self.loop.call_later(CHECK_SECONDS, self._check_progress)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check:
            self._check.cancel()
        self.counts[self.address] -= 1
        if not self.counts[self.address]:
            del self.counts[self.address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_lingering:
            self._received += len(data)
            return
        if not self._expects_headers and not self._expects_body and self.is_idle:  # the next request begins
            self._expects_headers = True
            self._waited = 0
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._expects_headers = False
        self._expects_body = True
        self._received = self._seen = 0
        self._waited = self._silent = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._expects_body = False
        super().on_message_complete()

    @property
    def is_idle(self) -> bool:
        """No request is under way."""
        cycle: Any = self.cycle  # None before the first request, though it is declared otherwise
        return cycle is None or bool(cycle.response_complete)

    def linger(self) -> bool:
        """Ends the sending side and takes no more than the rest of the body. False: there is nothing to wait for."""
        if not self._expects_body or self.is_lingering:
            return False
        self.is_lingering = True
        self._waited = self._silent = 0
        self.flow.resume_reading()
        self.transport.write_eof()
        return True

    def _check_progress(self) -> None:
        self._check = self.loop.call_later(CHECK_SECONDS, self._check_progress)
        if self._is_too_slow():
            self.transport.abort()

    def _is_too_slow(self) -> bool:
        if self.is_lingering:
            self._count_silence(self._received)
            self._waited += CHECK_SECONDS
            return self._waited >= LINGER_SECONDS or self._silent >= LINGER_SILENT_SECONDS
        if self._expects_headers:
            self._waited += CHECK_SECONDS
            return self._waited >= HEADER_SECONDS
        if unsent := self.transport.get_write_buffer_size():
            self._count_silence(unsent)
            return self._silent >= SILENT_SECONDS
        # While this side does not read, the client cannot send.
        if self._expects_body and not self.flow.read_paused and not self.cycle.waiting_for_100_continue:
            self._count_silence(self._received)
            self._waited += CHECK_SECONDS
            allowed = BODY_SECONDS + self._received / BODY_BYTES_PER_SECOND
            return self._waited >= allowed or self._silent >= SILENT_SECONDS
        return False

    def _count_silence(self, progress: int) -> None:
        self._silent = 0 if progress != self._seen else self._silent + CHECK_SECONDS
        self._seen = progress

    def _is_trusted(self) -> bool:
        try:
            peer = ip_address(self.address)
        except ValueError:  # a Unix socket: a proxy on this machine
            return True
        return any(peer in network for network in get_trusted_networks())

    def _make_room(self) -> None:
        """Near the limit of descriptors, a connection without a request gives way; else the newest one does. The
        system would cut off whichever comes next."""
        self._warn("%s connections are open and there is room for no more", self.max_connections)
        others = (each for each in self.connections if isinstance(each, LimitedProtocol) and each is not self)
        victim = next((each for each in others if each.is_idle), self)
        victim.transport.abort()

    @classmethod
    def _warn(cls, message: str, *values: object) -> None:
        if time.monotonic() - cls.warned_at > WARN_SECONDS:
            LimitedProtocol.warned_at = time.monotonic()
            logger.warning(message, *values)
