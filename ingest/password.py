"""The ingest password: checked against a slow hash, without paying for that on each photo.

The right password is remembered as a keyed digest in this process's memory until the hash changes. From then on its
check costs nothing, and neither the limit on wrong passwords nor the slow hash delays it.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import Counter, OrderedDict
from datetime import datetime
from hashlib import sha256
from ipaddress import ip_address

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from core.database import Database, DatabaseUnavailable
from core.passwords import HashingBusy, generate_password, hash_in_turn, take_place
from ingest.models import IngestSettings

# Per address: this many wrong passwords in five minutes, then 429 until some of them are older than that.
FAILURES_ALLOWED = 10
FAILURES_WINDOW_MINUTES = 5
PASSWORD_LENGTH = 128  # at most; far below what a form field of a booth may hold
RETRY_AFTER_SECONDS = 60  # failures are counted by the minute
EXTRA_TRIES = 5  # of a blocked address, in a process that has not seen the right password yet
REMEMBERED_WRONG = 1000  # a booth that keeps posting an old password costs one slow hash, not one per photo

# Counts a try before its password is hashed, and returns its minute; no row: the address has failed too often. Tries at
# the same time wait for one another at the row of the minute and see its latest count.
RESERVE_TRY = """
WITH earlier AS (
    SELECT coalesce(sum(count), 0) AS failures FROM ingest_passwordfailure
    WHERE address = %(address)s AND minute > now() - make_interval(mins => %(minutes)s)
        AND minute < date_trunc('minute', now())
)
INSERT INTO ingest_passwordfailure AS old (address, minute, count)
SELECT %(address)s, date_trunc('minute', now()), 1 FROM earlier WHERE failures < %(allowed)s
ON CONFLICT (address, minute) DO UPDATE SET count = old.count + 1, last_at = now()
WHERE old.count + (SELECT failures FROM earlier) < %(allowed)s
RETURNING minute
"""

# The try was none: its password was right.
RETURN_TRY = """
UPDATE ingest_passwordfailure SET count = count - 1 WHERE address = %s AND minute = %s AND count > 0
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
        self._under_way: dict[bytes, asyncio.Task[None]] = {}
        self._extra_tries = ExtraTries()

    async def check(self, password: str, encoded: str, address: str) -> None:
        """Raises `WrongPassword`, `TooManyFailures` or `HashingBusy`. `encoded` is the current hash; empty: none
        matches. Those who post the same password at once share one slow hash."""
        digest = hmac.digest(self._key, f"{encoded}\0{password}".encode(), sha256)
        address = _normalize_address(address)
        while digest != self._right_digest:
            if digest in self._wrong_digests or not encoded or not password:
                raise TooManyFailures if await self._reserve_try(address) is None else WrongPassword
            if task := self._under_way.get(digest):
                await asyncio.wait([task])
                if isinstance(error := task.exception(), HashingBusy | DatabaseUnavailable):
                    raise error
                continue  # its verdict on the password holds for all; what it says of its address does not
            task = asyncio.create_task(self._try(digest, password, encoded, address), name="check a password")
            self._under_way[digest] = task
            task.add_done_callback(lambda done: self._forget(digest, done))
            await asyncio.shield(task)  # others may wait for it too

    def _forget(self, digest: bytes, done: asyncio.Task[None]) -> None:
        del self._under_way[digest]
        if not done.cancelled():
            done.exception()  # whoever waited has it; they may all have hung up

    async def _try(self, digest: bytes, password: str, encoded: str, address: str) -> None:
        """The slow check. Its place in the queue comes first: what is refused there costs the database nothing."""
        with take_place(f"booth {address}"):
            minute = await self._reserve_try(address)
            # Until this process has seen the right password of this hash, a blocked address may be a booth that has
            # just been given it: its password still gets a few slow checks, and only a wrong one is refused.
            if minute is None and (self._right_encoded == encoded or not self._extra_tries.take(address)):
                raise TooManyFailures
            if await hash_in_turn(check_password, password, encoded):
                self._right_digest, self._right_encoded = digest, encoded
                if minute is not None:
                    await self._database.execute(RETURN_TRY, (address, minute))
                return
        self._wrong_digests[digest] = None
        if len(self._wrong_digests) > REMEMBERED_WRONG:
            self._wrong_digests.popitem(last=False)
        raise TooManyFailures if minute is None else WrongPassword

    async def _reserve_try(self, address: str) -> datetime | None:
        """The minute in which it counts; None: the address is blocked."""
        values = {"address": address, "minutes": FAILURES_WINDOW_MINUTES, "allowed": FAILURES_ALLOWED}
        minutes = await self._database.fetch_column(RESERVE_TRY, values)
        return minutes[0] if minutes else None


class ExtraTries:
    """Tries of blocked addresses in this process: some for each address and window."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._began = time.monotonic()

    def take(self, address: str) -> bool:
        """False: it has had them all."""
        if time.monotonic() - self._began > FAILURES_WINDOW_MINUTES * 60:
            self._counts.clear()
            self._began = time.monotonic()
        self._counts[address] += 1
        return self._counts[address] <= EXTRA_TRIES


def _normalize_address(address: str) -> str:
    """One spelling of each address; a peer without one (a Unix socket) counts as the unspecified address."""
    try:
        found = ip_address(address)
    except ValueError:
        return "0.0.0.0"  # noqa: S104 - not bound to, only counted under
    return str(getattr(found, "ipv4_mapped", None) or found)
