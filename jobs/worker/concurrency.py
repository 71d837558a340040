"""The places of a worker: how many jobs it works on at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable


class Places:
    """A job that only waits for a time gives its place back, so that a busy provider never holds up another's jobs."""

    def __init__(self, count: int, on_free: Callable[[], None]) -> None:
        self.free = count
        self._on_free = on_free
        self._waiting: deque[asyncio.Future[None]] = deque()

    def reserve(self) -> list[Place]:
        """All that are free: while jobs are claimed for them, none that comes back may take one."""
        count, self.free = self.free, 0
        return [Place(self) for _ in range(count)]

    def give_back(self) -> None:
        if not self._pass_on():
            self._on_free()

    def leave_unused(self, reserved: Iterable[Place]) -> None:
        """No job came for them. Nobody is told: whoever claims has just looked."""
        for _ in reserved:
            self._pass_on()

    def _pass_on(self) -> bool:
        """Whether a job that comes back from waiting got it: those go before new ones."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return True
        self.free += 1
        return False

    async def take_again(self) -> None:
        """Waits for its turn."""
        if self.free > 0:
            self.free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # cancelled in the very turn in which it was given one
                self.give_back()
            raise


class Place:
    """One job's place; leaving it twice is leaving it."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._is_taken = True

    def leave(self) -> None:
        if self._is_taken:
            self._is_taken = False
            self._places.give_back()

    async def take_again(self) -> None:
        await self._places.take_again()
        self._is_taken = True
