"""Validators of an account's addresses and keys, as staff enter them or the environment sets them for the first run.
The error messages never quote the value, which is or may contain a secret."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

import httpx
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from providers import address_guard

KEY = re.compile(r"[!-~]+")  # the printable ASCII that a header may contain, without spaces


def check_address(value: str) -> None:
    """A provider's address. It is displayed, so it must contain no login. Raises `ValidationError`."""
    parts = _split(value)
    if parts is None or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValidationError(_("An address looks like https://host or https://host:port/path, without a login."))
    url = httpx.URL(value)
    if not address_guard.is_scheme_allowed(url):
        raise ValidationError(
            _("By http anyone on the way reads the key: use https, or set ALLOW_INSECURE_PROVIDERS=1.")
        )
    _check_host(url.host, may_be_local=address_guard.is_this_machine(url.host))


def check_proxy_address(value: str) -> None:
    parts = _split(value)
    if parts is None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValidationError(
            _(
                "A proxy address looks like http://host:port or http://user:password@host:port. "
                "In a password, write / as %2F, ? as %3F, # as %23 and @ as %40."
            )
        )
    _check_host(httpx.URL(value).host, may_be_local=True)


def check_key(value: str) -> None:
    if not KEY.fullmatch(value):
        raise ValidationError(_("A key has no spaces and only letters, digits and signs of ASCII. Copy it again."))


def _check_host(host: str, *, may_be_local: bool) -> None:
    if not address_guard.is_allowed(host, may_be_local=may_be_local):
        raise ValidationError(
            _("The service does not connect to this address. A private network needs ALLOW_INSECURE_PROVIDERS=1.")
        )


def _split(value: str) -> SplitResult | None:
    """None unless the value is an HTTP(S) address with a host."""
    try:
        parts = urlsplit(value)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(value)  # as strict as the client that will use it
    except (ValueError, httpx.InvalidURL):
        return None
    return parts if is_http and not re.search(r"\s", value) else None
