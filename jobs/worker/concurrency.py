"""How many jobs a worker runs at once: a semaphore whose permits a job gives up while it only waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable


class JobSemaphore:
    """A job that backs off releases its permit meanwhile, so that a busy provider never holds up another's jobs.

    Not `asyncio.Semaphore`: the worker must know how many permits are free before it claims that many jobs, and a job
    that comes back from its back-off goes before a new one.
    """

    def __init__(self, count: int, on_free: Callable[[], None]) -> None:
        self.free = count
        self._on_free = on_free
        self._waiting: deque[asyncio.Future[None]] = deque()

    def acquire_all(self) -> list[JobPermit]:
        """All free permits: while jobs are claimed for them, no job that comes back may take one."""
        count, self.free = self.free, 0
        return [JobPermit(self) for _ in range(count)]

    def release(self) -> None:
        if not self._hand_over():
            self._on_free()

    def release_unused(self, permits: Iterable[JobPermit]) -> None:
        """No job was claimed for these. Does not call `on_free`: whoever claims has just looked."""
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
            if waiter.done() and not waiter.cancelled():  # cancelled in the same turn in which it got the permit
                self.release()
            raise


class JobPermit:
    """One job's permit. Releasing it twice is the same as once."""

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
