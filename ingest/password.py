"""The ingest password: checked against a slow hash, without paying for that on each photo.

The right password is remembered as a keyed digest in this process's memory until the hash changes. From then on its
check costs nothing, and neither the limit on wrong passwords nor the slow hash delays it.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import OrderedDict
from hashlib import sha256
from ipaddress import ip_address

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from core.database import Database
from core.passwords import generate_password
from ingest.models import IngestSettings

# Per address: this many wrong passwords in five minutes, then 429 until some of them are older than that.
FAILURES_ALLOWED = 10
FAILURES_WINDOW_MINUTES = 5
PASSWORD_LENGTH = 128  # at most; far below what a form field of a booth may hold
RETRY_AFTER_SECONDS = 60  # failures are counted by the minute
REMEMBERED_WRONG = 1000  # a booth that keeps posting an old password costs one slow hash, not one per photo

COUNT_FAILURES = """
SELECT coalesce(sum(count), 0) FROM ingest_passwordfailure
WHERE address = %s AND minute > now() - make_interval(mins => %s)
"""

RECORD_FAILURE = """
INSERT INTO ingest_passwordfailure AS old (address, minute, count)
VALUES (%s, date_trunc('minute', now()), 1)
ON CONFLICT (address, minute) DO UPDATE SET count = old.count + 1, last_at = now()
"""


class WrongPassword(Exception):
    """This is not the ingest password."""


class TooManyFailures(Exception):
    """The address has posted wrong passwords too often."""


def validate_new_password(value: str) -> None:
    """Raises Django's `ValidationError` for what would be a bad ingest password."""
    validate_password(value)
    if value != value.strip():
        raise ValidationError(_("A password does not begin or end with a space: booths drop it."))


def rotate(value: str = "", by: AbstractBaseUser | None = None) -> str:
    """Sets the ingest password, to a generated one if none is given, and returns it: only its hash is kept.
    Jobs under way are not affected."""
    password = value or generate_password()
    IngestSettings.objects.filter(pk=1).update(
        password_hash=make_password(password), password_updated_at=Now(), password_updated_by=by, updated_at=Now()
    )
    return password


class PasswordChecker:
    """Checks passwords for one process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key = secrets.token_bytes(32)
        self._right_digest: bytes | None = None
        self._right_encoded = ""  # the hash that it matches
        self._wrong_digests: OrderedDict[bytes, None] = OrderedDict()
        self._slow_hash_lock = asyncio.Lock()  # one at a time: guessing never takes more than one core

    async def check(self, password: str, encoded: str, address: str) -> None:
        """Raises `WrongPassword` or `TooManyFailures`. `encoded` is the current hash; empty: none matches."""
        digest = hmac.digest(self._key, f"{encoded}\0{password}".encode(), sha256)
        if digest == self._right_digest:
            return
        address = _normalize_address(address)
        is_blocked = await self._count_failures(address) >= FAILURES_ALLOWED
        # Until this process has seen the right password of this hash, a blocked address may be a booth that has just
        # been given it: its password still gets the slow check, and only a wrong one is refused.
        if is_blocked and self._right_encoded == encoded:
            raise TooManyFailures
        if await self._is_right(digest, password, encoded):
            return
        if is_blocked:
            raise TooManyFailures
        async with self._database.connection() as connection:
            await connection.execute(RECORD_FAILURE, (address,))
        raise WrongPassword

    async def _count_failures(self, address: str) -> int:
        async with self._database.connection() as connection:
            cursor = await connection.execute(COUNT_FAILURES, (address, FAILURES_WINDOW_MINUTES))
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def _is_right(self, digest: bytes, password: str, encoded: str) -> bool:
        async with self._slow_hash_lock:
            if digest == self._right_digest:
                return True
            if digest in self._wrong_digests or not encoded or not password:
                return False
            if await asyncio.to_thread(check_password, password, encoded):
                self._right_digest, self._right_encoded = digest, encoded
                return True
        self._wrong_digests[digest] = None
        if len(self._wrong_digests) > REMEMBERED_WRONG:
            self._wrong_digests.popitem(last=False)
        return False


def _normalize_address(address: str) -> str:
    """One spelling of each address; a peer without one (a Unix socket) counts as the unspecified address."""
    try:
        found = ip_address(address)
    except ValueError:
        return "0.0.0.0"  # noqa: S104 - not bound to, only counted under
    return str(getattr(found, "ipv4_mapped", None) or found)
