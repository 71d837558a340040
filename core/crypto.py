"""Secrets at rest: Fernet, with the keys of FERNET_KEYS. The first encrypts; the others still decrypt until
`manage.py rotate_secrets` has re-encrypted everything."""

from __future__ import annotations

from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class UnreadableSecretError(Exception):
    """None of FERNET_KEYS decrypts the value: it was written with a key that is no longer there."""


@cache
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def encrypt(text: str) -> str:
    """Empty stays empty."""
    return _fernet(tuple(settings.FERNET_KEYS)).encrypt(text.encode()).decode() if text else ""


def decrypt(token: str) -> str:
    """Raises `UnreadableSecretError`."""
    try:
        return _fernet(tuple(settings.FERNET_KEYS)).decrypt(token.encode()).decode() if token else ""
    except InvalidToken:
        raise UnreadableSecretError from None


def rotate(token: str) -> str:
    """The same secret, encrypted with the first key. Raises `UnreadableSecretError`."""
    return encrypt(decrypt(token))
