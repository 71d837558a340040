"""Passwords that people read off a screen and type into a booth, and a bound on hashing them.

Checking a password takes half a second of a core on purpose. Whoever guesses in parallel must not take the machine:
two are hashed at once, a few more wait, and the others are refused at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from django.utils.crypto import get_random_string

T = TypeVar("T")

# No 0/O, 1/l/I. 16 of 55 characters are 92 bits.
ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"

HASHED_AT_ONCE = 2
PLACES = 12  # hashed and waiting together: the last one waits some 3 seconds
PLACES_PER_CLIENT = 2  # one hashed, one waiting: nobody fills the queue alone
RETRY_SECONDS = 3

_turns = threading.BoundedSemaphore(HASHED_AT_ONCE)
_threads = ThreadPoolExecutor(PLACES, thread_name_prefix="hash")  # not asyncio's own: these may wait
_places_lock = threading.Lock()
_places: Counter[str] = Counter()


class HashingBusy(Exception):
    """Too many passwords are being checked, in all or for this client."""


def generate_password() -> str:
    return get_random_string(16, ALPHABET)


@contextmanager
def take_place(client: str) -> Iterator[None]:
    """A place in the queue for hashing, until the end of the block. Does not block; raises `HashingBusy`."""
    with _places_lock:
        if _places.total() >= PLACES or _places[client] >= PLACES_PER_CLIENT:
            raise HashingBusy
        _places[client] += 1
    try:
        yield
    finally:
        with _places_lock:
            _places[client] -= 1
            if not _places[client]:
                del _places[client]


@contextmanager
def hashing_turn(client: str) -> Iterator[None]:
    """A place, and in the block the turn to hash. Blocks until then: for threads only. Raises `HashingBusy`."""
    with take_place(client), _turns:
        yield


async def hash_in_turn(work: Callable[..., T], *args: object) -> T:
    """Runs the work, which hashes a password, in a thread when it is its turn. The caller has a place."""

    def run() -> T:
        with _turns:
            return work(*args)

    return await asyncio.get_running_loop().run_in_executor(_threads, run)
