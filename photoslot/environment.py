"""The one reader of environment variables: django-environ's, which here also refuses nonsense at start-up, by the
variable's name, and takes an empty variable for one that is not set."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryFile

import environ
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

# 32 random characters are 128 bits even of hexadecimal digits; the other bound is that of Django's own check.
SECRET_KEY_LENGTH = 32
SECRET_KEY_DIFFERENT = 5


class Environment(environ.Env):  # type: ignore[misc]  # it has no types
    def text(self, name: str, default: str = "") -> str:
        """Not django-environ's `str`, which takes a value that begins with $ for the name of another variable."""
        return os.environ.get(name, "").strip() or default

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`. Raises `ImproperlyConfigured`."""
        text = self.text(name, str(default))
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ImproperlyConfigured(f"{name}={text!r} must be a whole number from {low} to {high}.")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Raises `ImproperlyConfigured` for what is neither of the words that django-environ knows."""
        text = self.text(name, str(default)).lower()
        if text not in (*self.BOOLEAN_TRUE_STRINGS, "0", "false", "no", "off"):
            raise ImproperlyConfigured(f"{name}={text!r} must be 1 or 0.")
        return text in self.BOOLEAN_TRUE_STRINGS

    def words(self, name: str, default: str) -> list[str]:
        """Words, separated by commas. An empty variable means none."""
        return [word.strip() for word in os.environ.get(name, default).split(",") if word.strip()]

    def networks(self, name: str) -> list[str]:
        """IP addresses or networks, separated by commas. Raises `ImproperlyConfigured`."""
        words = self.words(name, "")
        for word in words:
            try:
                ip_network(word)
            except ValueError as error:
                message = f"{name}: {error}. Give addresses such as 10.0.0.5, or networks such as 10.0.0.0/24."
                raise ImproperlyConfigured(message) from None
        return words

    def folder(self, name: str, default: Path) -> Path:
        return Path(self.text(name, str(default)))


def check_secret_key(key: str) -> None:
    """Refuses a key that could be guessed, in words without it. Raises `ImproperlyConfigured`."""
    if len(key) < SECRET_KEY_LENGTH or len(set(key)) < SECRET_KEY_DIFFERENT:
        raise ImproperlyConfigured(
            f"SECRET_KEY needs at least {SECRET_KEY_LENGTH} characters, {SECRET_KEY_DIFFERENT} of them different. "
            f"Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        )


def check_media_root(folder: Path) -> None:
    """Makes the folder for uploads in MEDIA_ROOT. Raises `ImproperlyConfigured` if nothing can be written there."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"writable")
            probe.flush()  # a full disk says so only now
    except OSError as error:
        raise ImproperlyConfigured(
            f"MEDIA_ROOT={str(folder.parent)!r} cannot be written: {error.strerror}. Make it writable for the user who "
            "starts this, or set MEDIA_ROOT to another folder."
        ) from None


def check_fernet_keys(keys: list[str]) -> None:
    """Refuses what is no key, in words without it. Raises `ImproperlyConfigured`."""
    for number, key in enumerate(keys, 1):
        try:
            Fernet(key)
        except ValueError:
            wanted = "32 bytes in URL-safe base64, 44 characters"
            raise ImproperlyConfigured(f"Key {number} of FERNET_KEYS is no Fernet key ({wanted}).") from None


def generate_secret(path: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(48)) -> str:
    """The secret in `path`, made on first use (mode 0600); two processes that start at once get the same one."""
    with suppress(FileNotFoundError):
        return path.read_text().strip()
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
