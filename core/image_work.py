"""Bounds the memory that image work takes: a budget for this process, and another process for large pictures.

A picture of 100 megapixels takes 0.7 to 1.6 GB to decode, and what a thread's allocator has freed stays with this
process. So a large picture is worked on in a child process, one at a time; the rest shares `budget`, first come, first
served. Neither waits for the other.
"""

from __future__ import annotations

import ctypes
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from core.images import ImageError

P = ParamSpec("P")
T = TypeVar("T")

LARGE_PIXELS: Final = 25_000_000  # more than this is worked on in a child process; cameras of booths have 24 million
# Bytes for each pixel: Pillow keeps 4; an image and a frame, a scaled copy of each, and what the encoder holds.
BYTES_PER_PIXEL: Final = 16
WEB_BYTES: Final = 200 * 1024 * 1024
WORKER_BYTES: Final = 750 * 1024 * 1024
CHILD_SECONDS: Final = 60  # ten times what 100 megapixels take; no booth waits longer
TRIM_BYTES: Final = 64 * 1024 * 1024  # work on less leaves little behind


class Budget:
    """A weighted semaphore for threads, first come, first served. What is larger than all of it runs alone."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        amount, ticket = min(amount, self._size), object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= amount)
            self._waiting.popleft()
            self._free -= amount
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


budget = Budget(WEB_BYTES)  # of this process; a worker takes WORKER_BYTES
_one_large = threading.Lock()


def set_budget(size: int) -> None:
    """Called at the start of a process that is to have another budget than WEB_BYTES."""
    global budget  # noqa: PLW0603
    budget = Budget(size)


def run(work: Callable[..., T], *args: Any, pixels: int, bytes_per_pixel: int = BYTES_PER_PIXEL) -> T:
    """`work(*args)`, as soon as there is memory for that many pixels. Blocks: call it in a thread.

    `work` is a function of a module, and it takes and returns what can be pickled: of more than LARGE_PIXELS it runs in
    a child process. Raises what `work` raises, and `ImageError` if the child is killed or takes CHILD_SECONDS."""
    if pixels > LARGE_PIXELS:
        with _one_large:
            return _run_in_child(work, args)
    with reserve(pixels * bytes_per_pixel):
        return work(*args)


@contextmanager
def reserve(needed: int) -> Iterator[None]:
    """Waits until the budget has so many bytes, and returns what was freed to the system afterwards."""
    with budget.reserve(needed):
        try:
            yield
        finally:
            if needed >= TRIM_BYTES:
                _trim_memory()


def _run_in_child(work: Callable[..., T], args: tuple[Any, ...]) -> T:
    command = [sys.executable, "-m", "core.image_work"]
    try:
        child = subprocess.run(
            command,
            input=pickle.dumps((work, args)),
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            timeout=CHILD_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"the picture took more than {CHILD_SECONDS} s to decode") from None
    except subprocess.CalledProcessError as error:
        raise ImageError(f"the picture's decoder ended with code {error.returncode}") from None
    is_done, result = pickle.loads(child.stdout)  # noqa: S301 - of our own child
    if not is_done:
        raise result
    value: T = result
    return value


def _trim_memory() -> None:
    """Returns freed memory to the system, where the C library can do that (glibc)."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def main() -> None:
    """The child process: reads a function with its arguments, writes whether it returned, and the result or error."""
    work, args = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    try:
        answer = True, work(*args)
    except Exception as error:  # raised again by the parent  # noqa: BLE001
        answer = False, error
    sys.stdout.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
