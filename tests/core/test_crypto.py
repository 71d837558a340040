"""Secrets at rest."""

from __future__ import annotations

import traceback

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from pytest_django import fixtures

from core import crypto
from photoslot.environment import check_fernet_keys

pytestmark = pytest.mark.unit

SECRET = "AIza-tres-secret-ключ"
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


def encrypt_with(settings: fixtures.Settings, *keys: str) -> str:
    settings.FERNET_KEYS = list(keys)
    return crypto.encrypt(SECRET)


def test_what_is_stored_does_not_show_the_secret(settings: fixtures.Settings) -> None:
    first, second = encrypt_with(settings, OLD), encrypt_with(settings, OLD)
    assert SECRET not in first
    assert first != second
    assert crypto.decrypt(first) == crypto.decrypt(second) == SECRET


def test_nothing_stays_nothing() -> None:
    assert crypto.encrypt("") == crypto.decrypt("") == crypto.rotate("") == ""


def test_an_older_key_still_reads_and_the_first_one_writes(settings: fixtures.Settings) -> None:
    token = encrypt_with(settings, OLD)
    settings.FERNET_KEYS = [NEW, OLD]
    assert crypto.decrypt(token) == SECRET
    rotated = crypto.rotate(token)
    settings.FERNET_KEYS = [NEW]
    assert crypto.decrypt(rotated) == SECRET


@pytest.mark.parametrize("token", ["", "x", "not a token", "ключ"])
def test_what_no_key_decrypts_is_reported_without_a_trace_of_it(settings: fixtures.Settings, token: str) -> None:
    token = token or encrypt_with(settings, OLD)
    settings.FERNET_KEYS = [NEW]
    with pytest.raises(crypto.UnreadableSecretError) as raised:
        crypto.decrypt(token)
    text = "".join(traceback.format_exception(raised.value))
    assert all(secret not in text for secret in (SECRET, OLD, NEW))
    assert str(raised.value) == ""


@pytest.mark.parametrize("key", ["x", "ключ", OLD[:-2]], ids=["short", "not ASCII", "cut"])
def test_what_is_no_key_is_refused_at_the_start_without_showing_it(key: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        check_fernet_keys([OLD, key])
    text = "".join(traceback.format_exception(raised.value))
    assert "Key 2 of FERNET_KEYS is no Fernet key (32 bytes in URL-safe base64, 44 characters)." in text
    assert f"{key!r}" not in text
    assert OLD not in text
