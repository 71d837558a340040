"""Passwords that people read off a screen and type into a booth."""

from __future__ import annotations

import secrets

# No 0/O, 1/l/I. 16 of 55 characters are 92 bits.
ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
PASSWORD_LENGTH = 16


def generate_password() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(PASSWORD_LENGTH))
