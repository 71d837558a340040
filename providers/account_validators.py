"""What staff type in for an account, and the environment has for its first run: addresses and keys. What is wrong is
said without the value, which is a secret or may have one in it."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

import httpx
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

KEY = re.compile(r"[!-~]+")  # what a header may carry, without spaces


def check_address(value: str) -> None:
    """Of a provider. The page shows it, so it must hold no login."""
    parts = _parts(value)
    if parts is None or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValidationError(_("An address looks like https://host or https://host:port/path, without a login."))


def check_proxy_address(value: str) -> None:
    parts = _parts(value)
    if parts is None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValidationError(
            _(
                "A proxy address looks like http://host:port or http://user:password@host:port. "
                "In a password, write / as %2F, ? as %3F, # as %23 and @ as %40."
            )
        )


def check_key(value: str) -> None:
    if not KEY.fullmatch(value):
        raise ValidationError(_("A key has no spaces and only letters, digits and signs of ASCII. Copy it again."))


def _parts(value: str) -> SplitResult | None:
    """None for what is no http address with a host."""
    try:
        parts = urlsplit(value)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(value)  # as strict as the client that will be given it
    except (ValueError, httpx.InvalidURL):
        return None
    return parts if is_one and not re.search(r"\s", value) else None
