"""How many jobs a worker runs at once: a semaphore whose permits a job releases while it backs off."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable


class JobSemaphore:
    """A job releases its permit while it backs off, so that a busy provider never holds up another's jobs.

    Not `asyncio.Semaphore`: the worker must know how many permits are free before it claims that many jobs, and a job
    that returns from its back-off goes before a new one.
    """

    def __init__(self, count: int, on_free: Callable[[], None]) -> None:
        self.free = count
        self._on_free = on_free
        self._waiting: deque[asyncio.Future[None]] = deque()

    def acquire_all(self) -> list[JobPermit]:
        """Takes all free permits: while jobs are claimed for them, no returning job may take one."""
        count, self.free = self.free, 0
        return [JobPermit(self) for _ in range(count)]

    def release(self) -> None:
        if not self._hand_over():
            self._on_free()

    def release_unused(self, permits: Iterable[JobPermit]) -> None:
        """Returns permits that no job was claimed for. Does not call `on_free`: the worker has just tried to claim."""
        for _ in permits:
            self._hand_over()

    def _hand_over(self) -> bool:
        """Gives the permit to the job that has waited longest for one. False: none waits, the permit is free."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return True
        self.free += 1
        return False

    async def reacquire(self) -> None:
        if self.free > 0:
            self.free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # cancelled just after it got the permit
                self.release()
            raise


class JobPermit:
    """One job's permit. A second release does nothing."""

    def __init__(self, semaphore: JobSemaphore) -> None:
        self._semaphore = semaphore
        self._is_held = True

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._semaphore.release()

    async def reacquire(self) -> None:
        await self._semaphore.reacquire()
        self._is_held = True
