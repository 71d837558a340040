"""One photo through one provider: attempts, back-off, time-outs and error classes, the same for every adapter.

The design's rules of the queue 3, 4, 6 and 12: every call is bounded by its own time-out and by the time left until the
deadline; after a transient error the call is repeated while attempts and time are left; a permanent error ends the job;
after an ambiguous error the call is repeated only where that cannot cost anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from django.conf import settings

from providers.base import (
    Accepted,
    AmbiguousError,
    OperationSettings,
    PermanentError,
    Picture,
    Provider,
    ProviderError,
    Reason,
    Request,
    TransientError,
    Usage,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

LAST_POLL_SECONDS = 1.0  # before the deadline: the time it takes to fetch and store a picture


class DeadlineReached(Exception):
    """No time is left for this photo. `usage` is that of a picture that was made but not finished in time."""

    usage: Usage | None = None


class Observer(Protocol):
    """Follows one provider's attempts at one photo."""

    async def on_accepted(self, reference: str) -> None:
        """The provider's queue accepted the job. Called before the first poll, so that polling can be resumed."""

    def on_poll(self) -> None: ...

    async def wait_for_permit(self) -> None:
        """Called before each `submit_job`; returns when it may be called, raises `ProviderError` when it may not."""

    async def back_off(self, seconds: float) -> None:
        """Sleeps between attempts."""

    async def on_attempt(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> None:
        """An attempt ended with a picture (`error` is None) or an error, after `seconds`."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the time for one photo ends, on the event loop's clock, which the time-outs use too."""

    at: float
    overtime: float = 0  # seconds after the deadline in which a call that was started may still finish

    @classmethod
    def after(cls, seconds: float, overtime: float = 0) -> Deadline:
        return cls(_now() + seconds, overtime)

    def seconds_left(self) -> float:
        """Until the deadline, after which no call is started."""
        return self.at - _now()

    def seconds_left_with_overtime(self) -> float:
        """Until every call must have ended."""
        return self.seconds_left() + self.overtime

    async def bound(self, call: Coroutine[Any, Any, T], limit: float | None = None) -> T:
        """The call's result. Raises `TimeoutError` after the call's own `limit` (s), `DeadlineReached` when time is
        up."""
        left = self.seconds_left_with_overtime()
        if left <= 0:
            call.close()  # never started
            raise DeadlineReached
        try:
            async with asyncio.timeout(left if limit is None else min(left, limit)) as timeout:
                return await call
        except TimeoutError:
            if timeout.expired() and (limit is None or left < limit):
                raise DeadlineReached from None
            raise


def _now() -> float:
    return asyncio.get_running_loop().time()


Finish = Callable[[Picture], Coroutine[Any, Any, Picture]]


async def make_picture(
    provider: Provider[Any],
    request: Request,
    deadline: Deadline,
    observer: Observer,
    finish: Finish,
    reference: str | None = None,
    earlier: int = 0,
) -> Picture:
    """The provider's picture after `finish`; one that `finish` rejects counts as a failed attempt. With a `reference`,
    an earlier worker's job is polled first, and nothing is submitted unless that fails; `earlier` attempts came before.
    Raises `ProviderError` if no picture can be made, `DeadlineReached` when time is up."""
    run = _Attempts(provider, request, deadline, observer, finish)
    try:
        return await run.make_picture(reference, earlier)
    finally:
        if run.payload is not None:
            provider.release(run.payload)


@dataclass(slots=True)
class _Attempts:
    provider: Provider[Any]
    request: Request
    deadline: Deadline
    observer: Observer
    finish: Finish
    payload: Any = None  # made once, for all attempts

    async def make_picture(self, reference: str | None, earlier: int) -> Picture:
        retry = self.request.settings.retry
        attempts = max((retry and retry.attempts) or settings.PROVIDER_ATTEMPTS, earlier + 1)
        for number in range(earlier + 1, attempts + 1):
            started, usage, is_submitted = _now(), None, reference is not None
            try:
                if reference is None:
                    await self._prepare()
                    started, is_submitted = _now(), True
                made = await self._attempt(reference)
                seconds, usage = _now() - started, made.usage
                picture = await self.deadline.bound(self.finish(made))
            except DeadlineReached as error:
                error.usage = usage
                raise
            except ProviderError as error:
                if not is_submitted and isinstance(error, PermanentError):
                    raise  # not an attempt: the provider was not called
                error.usage = error.usage or usage
                await self.observer.on_attempt(number, _now() - started, error, error.usage)
                if number == attempts or not self._may_repeat(error):
                    raise
                reference = None
                await self._back_off(error)
            else:
                await self.observer.on_attempt(number, seconds, None, usage)
                return picture
        raise AssertionError("attempts is at least 1")

    async def _prepare(self) -> None:
        if self.payload is None:
            self.payload = await self.deadline.bound(self.provider.prepare_payload(self.request))
        await self.observer.wait_for_permit()
        if self.deadline.seconds_left() <= 0:  # do not send what cannot be answered in time
            raise DeadlineReached

    async def _attempt(self, reference: str | None) -> Picture:
        if reference is None:
            submitted = await self._submit()
            if isinstance(submitted, Picture):
                return submitted
            reference = submitted.reference
            await self.observer.on_accepted(reference)
        return await self._poll(reference)

    async def _submit(self) -> Picture | Accepted:
        """A synchronous generation may use all the time that is left; submitting to a queue is a short call."""
        call = self.provider.submit_job(self.payload)
        if not self.provider.has_queue:
            return await self.deadline.bound(call)
        try:
            return await self.deadline.bound(call, settings.PROVIDER_CALL_TIMEOUT_SECONDS)
        except TimeoutError:
            text = "The provider's queue did not answer; the job may have been billed"
            raise AmbiguousError(Reason.SLOW, text) from None

    async def _poll(self, reference: str) -> Picture:
        """Polls until there is a picture. A poll costs nothing, so one that fails or whose response is lost is
        repeated."""
        limit = settings.PROVIDER_CALL_TIMEOUT_SECONDS
        while True:
            self.observer.on_poll()
            try:
                if picture := await self.deadline.bound(self.provider.poll_status(reference), limit):
                    return picture
            except (TransientError, AmbiguousError, TimeoutError) as error:
                logger.info("Poll of %s failed (%s); asking again", self.provider.id, type(error).__name__)
            left = self.deadline.seconds_left_with_overtime()
            pause = min(self.provider.poll_seconds, left - LAST_POLL_SECONDS)
            if pause <= 0:
                await asyncio.sleep(max(0, left))
                raise DeadlineReached
            await asyncio.sleep(pause)

    def _may_repeat(self, error: ProviderError) -> bool:
        if isinstance(error, AmbiguousError):
            return may_repeat_ambiguous(self.provider, self.request.settings)
        return not isinstance(error, PermanentError)

    async def _back_off(self, error: ProviderError) -> None:
        """Waits before the next attempt; raises `error` at once if that attempt would start after the deadline."""
        retry = self.request.settings.retry
        pause = retry.pause_seconds if retry else None
        seconds = max(settings.PROVIDER_RETRY_PAUSE_SECONDS if pause is None else pause, error.retry_after or 0)
        if seconds >= self.deadline.seconds_left():
            raise error
        await self.observer.back_off(seconds)


async def cancel_at_provider(provider: Provider[Any], reference: str) -> None:
    """Best effort: the job has already ended here, whatever the provider responds."""
    try:
        async with asyncio.timeout(settings.PROVIDER_CALL_TIMEOUT_SECONDS):
            await provider.cancel(reference)
    except (ProviderError, TimeoutError) as error:
        logger.warning("%s did not take the cancellation: %s", provider.id, type(error).__name__)


def may_repeat_ambiguous(provider: Provider[Any], settings: OperationSettings) -> bool:
    """Rule 12: if repeating cannot cost anything, or the slot allows it."""
    return provider.repeatable or bool(settings.retry and settings.retry.repeat_ambiguous)
