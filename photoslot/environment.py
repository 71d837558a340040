"""One reader for each kind of environment variable: refuses nonsense at start-up, in a sentence."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured


def integer(name: str, default: int, low: int, high: int) -> int:
    """The variable as a whole number from `low` to `high`; unset or empty gives `default`."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ImproperlyConfigured(f"{name}={text!r} must be a whole number from {low} to {high}.")
    return value


def words(name: str, default: str) -> list[str]:
    """The variable as a list of comma-separated words."""
    return [word.strip() for word in os.environ.get(name, default).split(",") if word.strip()]


def check_fernet_keys(keys: list[str]) -> None:
    """Refuses what is none, in words without it."""
    for number, key in enumerate(keys, 1):
        try:
            Fernet(key)
        except ValueError:
            wanted = "32 bytes in URL-safe base64, 44 characters"
            raise ImproperlyConfigured(f"Key {number} of FERNET_KEYS is no Fernet key ({wanted}).") from None


def flag(name: str, default: bool) -> bool:
    text = os.environ.get(name, "").strip().lower()
    if text not in ("", "0", "1", "true", "false", "yes", "no", "on", "off"):
        raise ImproperlyConfigured(f"{name}={text!r} must be 1 or 0.")
    return text in ("1", "true", "yes", "on") if text else default


def generated_secret(path: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(48)) -> str:
    """The secret in `path`, made on first use (mode 0600); two processes that start at once get the same one."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(make())
    try:
        os.link(draft, path)  # fails where another process was first: then its secret counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text().strip()
