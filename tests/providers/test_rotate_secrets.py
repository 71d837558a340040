"""`manage.py rotate_secrets`: the stored secrets are encrypted with another key, and none is lost."""

from __future__ import annotations

from io import StringIO

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from pytest_django import fixtures

from core import crypto
from providers.models import ProviderAccount
from tests.providers.account_factories import KEYS, create_account

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]

OLD, NEW, LOST = (Fernet.generate_key().decode() for _ in range(3))
PROXY = "http://user:word@proxy.example:3128"


def create_account_with(settings: fixtures.Settings, key: str, provider_id: str, proxy_url: str = "") -> None:
    settings.FERNET_KEYS = [key]
    create_account(provider_id=provider_id, encrypted_proxy_url=crypto.encrypt(proxy_url))


def rotate() -> str:
    out = StringIO()
    call_command("rotate_secrets", stdout=out)
    return out.getvalue()


def secrets(provider_id: str) -> tuple[str, str | None]:
    account = ProviderAccount.objects.get(pk=provider_id).decrypt()
    return account.key, account.proxy_url


def test_afterwards_the_old_key_can_be_dropped(settings: fixtures.Settings) -> None:
    create_account_with(settings, OLD, "gemini", PROXY)
    create_account_with(settings, NEW, "openai")
    settings.FERNET_KEYS = [NEW, OLD]
    assert "the others can be dropped" in rotate()
    settings.FERNET_KEYS = [NEW]
    assert secrets("gemini") == (KEYS["gemini"], PROXY)
    assert secrets("openai") == (KEYS["openai"], None)


def test_what_cannot_be_read_is_named_and_kept(settings: fixtures.Settings) -> None:
    create_account_with(settings, OLD, "gemini")
    create_account_with(settings, LOST, "openai", PROXY)
    settings.FERNET_KEYS = [NEW, OLD]
    with pytest.raises(CommandError, match="the key of openai, the proxy address of openai: left as before") as raised:
        rotate()
    assert not any(secret in str(raised.value) for secret in (*KEYS.values(), PROXY, OLD, NEW, LOST))
    settings.FERNET_KEYS = [NEW]
    assert secrets("gemini") == (KEYS["gemini"], None)
    settings.FERNET_KEYS = [NEW, LOST]
    rotate()
    settings.FERNET_KEYS = [NEW]
    assert secrets("openai") == (KEYS["openai"], PROXY)


def test_it_touches_nothing_else(settings: fixtures.Settings) -> None:
    create_account_with(settings, OLD, "gemini")
    ProviderAccount.objects.update(failures=3, per_minute=7)
    settings.FERNET_KEYS = [NEW, OLD]
    rotate()
    found = ProviderAccount.objects.get()
    assert (found.failures, found.per_minute, found.key_updated_at) == (3, 7, None)
