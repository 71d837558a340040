"""Passwords that people read off a screen and type into a booth."""

from __future__ import annotations

from django.utils.crypto import get_random_string

# No 0/O, 1/l/I. 16 of 55 characters are 92 bits.
ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def generate_password() -> str:
    return get_random_string(16, ALPHABET)
