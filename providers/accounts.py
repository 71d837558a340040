"""Saves staff's changes to a provider account, for the admin and the API alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.utils import timezone

from providers.models import ProviderAccount

CONNECTION_COLUMNS = {"encrypted_key", "encrypted_proxy_url", "base_url"}


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
