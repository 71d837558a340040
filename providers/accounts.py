"""Saves staff's changes to a provider account, for the admin and the API alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import httpx
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext as _

from core import crypto
from providers import address_guard
from providers.models import ProviderAccount

CONNECTION_COLUMNS = {"encrypted_key", "encrypted_proxy_url", "base_url"}


def require_key(stored: ProviderAccount, changes: Mapping[str, Any]) -> None:
    """Raises `ValidationError` if the changes would send the stored key to a host for which it was not entered: who
    may change the settings may not read the key. `stored` is the row, locked; `changes` are valid, as for `apply`."""
    if not stored.encrypted_key or "api_key" in changes or changes.keys().isdisjoint(("base_url", "proxy_url")):
        return
    try:
        before = stored.decrypt()
    except crypto.UnreadableSecretError:
        raise ValidationError(_("The stored key cannot be read (FERNET_KEYS has changed): enter it anew.")) from None
    base_url = changes.get("base_url", before.base_url) or stored.default_base_url
    proxy_url = changes.get("proxy_url", before.proxy_url)
    if _list_key_readers(base_url, proxy_url) - _list_key_readers(before.base_url, before.proxy_url):
        raise ValidationError(_("Enter the key again: it is sent only to the host for which it was entered."))


def _list_key_readers(base_url: str, proxy_url: str | None) -> set[tuple[str, str, int]]:
    """Who reads the key: the provider's host, and the proxy if the connection is not encrypted through it."""
    urls = [httpx.URL(base_url)]
    if proxy_url and urls[0].scheme == "http":
        urls.append(httpx.URL(proxy_url))
    return {(url.scheme, url.host, address_guard.get_port(url)) for url in urls}


def apply(account: ProviderAccount, changes: Mapping[str, Any]) -> list[str]:
    """Sets the attributes, secrets by their plain names, and returns the columns that `save` is to write."""
    columns = []
    for name, value in changes.items():
        match name:
            case "api_key":
                account.set_key(value)
                columns.append("encrypted_key")
            case "proxy_url":
                account.set_proxy_url(value)
                columns.append("encrypted_proxy_url")
            case _:
                setattr(account, name, value)
                columns.append(name)
    return columns


def save(account: ProviderAccount, columns: Collection[str], by: AbstractBaseUser) -> None:
    """Writes these columns only: workers move the breaker at the same time. A change of key, address or proxy closes
    the breaker, so that staff who repaired the connection need not wait for it."""
    if "encrypted_key" in columns:
        account.key_updated_at = timezone.now()
        account.key_updated_by = by  # type: ignore[assignment]
        columns = [*columns, "key_updated_at", "key_updated_by"]
    account.save(update_fields=columns)
    if not CONNECTION_COLUMNS.isdisjoint(columns):
        ProviderAccount.objects.filter(pk=account.pk).close_breaker()
