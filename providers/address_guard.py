"""Where the service may connect to when it calls a provider, or fetches what a provider's answer links to (SSRF).

- `https`; plain `http` only to this machine
- an account's own address: any public one, or this machine's if it is written as such
- a proxy, which staff set for the account: also in a private network
- every other address, such as one from a provider's answer: public ones only

ALLOW_INSECURE_PROVIDERS also permits plain `http` and private networks. Nothing permits the addresses of `_is_never`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import httpcore
import httpx
from django.conf import settings

from providers.base import PermanentError, Reason

# For each address of a name but the last, so that the second is tried in time if the first does not answer.
FIRST_TRY_SECONDS = 1.0
# Of clouds, beside the link-local 169.254.169.254: AWS by IPv6, Alibaba.
METADATA_SERVICES = (ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200"))


class AddressRefused(PermanentError):
    """The service does not connect to this address."""


class GuardedTransport(httpx.AsyncHTTPTransport):
    """Connects for one account. Names are resolved and checked at each connection, and the checked address is the one
    connected to, so that a name cannot change its address in between (DNS rebinding). A proxy resolves names itself."""

    def __init__(self, base_url: str, proxy_url: str | None, verify: ssl.SSLContext, limits: httpx.Limits) -> None:
        super().__init__(verify, trust_env=False, limits=limits, proxy=proxy_url)
        self._own_url = httpx.URL(base_url)
        # httpx has no argument for the network backend, which its pool takes.
        self._pool._network_backend = _GuardedBackend(self._own_url, has_proxy=proxy_url is not None)  # noqa: SLF001

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises `AddressRefused`."""
        url = request.url
        if not is_scheme_allowed(url):
            raise AddressRefused(Reason.BAD_SETTINGS, "plain http is used only with ALLOW_INSECURE_PROVIDERS=1")
        # Here as well as at the connection, which with a proxy is the proxy's.
        _check(url.host, [url.host], may_be_local=_may_be_local(url.host, get_port(url), self._own_url))
        return await super().handle_async_request(request)


class _GuardedBackend(httpcore.AnyIOBackend):
    def __init__(self, own_url: httpx.URL, *, has_proxy: bool) -> None:
        self._own_url = own_url
        self._has_proxy = has_proxy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises `AddressRefused`, and httpcore's errors. `timeout`, in seconds, is for resolving and connecting."""
        may_be_local = self._has_proxy or _may_be_local(host, port, self._own_url)
        try:
            async with asyncio.timeout(timeout):
                addresses = await _resolve(host, port)
                _check(host, addresses, may_be_local=may_be_local)
                for address in addresses[:-1]:
                    try:
                        return await super().connect_tcp(
                            address, port, FIRST_TRY_SECONDS, local_address, socket_options
                        )
                    except (httpcore.ConnectError, httpcore.ConnectTimeout):
                        pass  # the last one's error is raised
                return await super().connect_tcp(addresses[-1], port, timeout, local_address, socket_options)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None


def is_scheme_allowed(url: httpx.URL) -> bool:
    return url.scheme == "https" or (
        url.scheme == "http" and (is_this_machine(url.host) or settings.ALLOW_INSECURE_PROVIDERS)
    )


def is_this_machine(host: str) -> bool:
    """Whether the host is written as this machine: `localhost` or a loopback address."""
    found = _parse(host)
    return host == "localhost" if found is None else found.is_loopback


def is_allowed(host: str, *, may_be_local: bool) -> bool:
    """Whether the IP address may be connected to; names are allowed here and checked once they are resolved."""
    found = _parse(host)
    if found is None:
        return True
    return not _is_never(found) and (found.is_global or may_be_local or settings.ALLOW_INSECURE_PROVIDERS)


def get_port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _is_never(address: IPv4Address | IPv6Address) -> bool:
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in METADATA_SERVICES


def _may_be_local(host: str, port: int, own_url: httpx.URL) -> bool:
    return is_this_machine(host) and (host, port) == (own_url.host, get_port(own_url))


def _check(host: str, addresses: Iterable[str], *, may_be_local: bool) -> None:
    if not all(is_allowed(address, may_be_local=may_be_local) for address in addresses):
        message = f"the address leads into a private network (see ALLOW_INSECURE_PROVIDERS): {host[:100]}"
        raise AddressRefused(Reason.BAD_SETTINGS, message)


def _parse(host: str) -> IPv4Address | IPv6Address | None:
    """None for a name. An IPv4 address that is written as IPv6 is the IPv4 address."""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


async def _resolve(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(type(error).__name__) from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
