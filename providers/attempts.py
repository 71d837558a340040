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
    payloads: list[Any] = []
    try:
        return await _run_attempts(provider, request, deadline, observer, finish, reference, earlier, payloads)
    finally:
        for payload in payloads:
            provider.release(payload)


async def _run_attempts(
    provider: Provider[Any],
    request: Request,
    deadline: Deadline,
    observer: Observer,
    finish: Finish,
    reference: str | None,
    earlier: int,
    payloads: list[Any],
) -> Picture:
    retry = request.settings.retry
    attempts = max((retry and retry.attempts) or settings.PROVIDER_ATTEMPTS, earlier + 1)
    pause = (
        settings.PROVIDER_RETRY_PAUSE_SECONDS if retry is None or retry.pause_seconds is None else retry.pause_seconds
    )
    payload = None
    for number in range(earlier + 1, attempts + 1):
        started, usage, is_submitted = _now(), None, reference is not None
        try:
            if reference is None:
                if payload is None:
                    payload = await _await_by(deadline, provider.prepare_payload(request))
                    payloads.append(payload)
                await observer.wait_for_permit()
                if deadline.seconds_left() <= 0:  # do not send what cannot be answered in time
                    raise DeadlineReached
                started, is_submitted = _now(), True
            made = await _attempt(provider, payload, deadline, observer, reference)
            seconds, usage = _now() - started, made.usage
            picture = await _await_by(deadline, finish(made))
        except DeadlineReached as error:
            error.usage = usage
            raise
        except ProviderError as error:
            if not is_submitted and isinstance(error, PermanentError):
                raise  # not an attempt: the provider was not called
            error.usage = error.usage or usage
            await observer.on_attempt(number, _now() - started, error, error.usage)
            if number == attempts or not _may_repeat(provider, request, error):
                raise
            reference = None
            await _back_off(deadline, observer, max(pause, error.retry_after or 0), error)
        else:
            await observer.on_attempt(number, seconds, None, usage)
            return picture
    raise AssertionError("attempts is at least 1")


async def _attempt(
    provider: Provider[Any], payload: Any, deadline: Deadline, observer: Observer, reference: str | None
) -> Picture:
    if reference is None:
        submitted = await _submit(provider, payload, deadline)
        if isinstance(submitted, Picture):
            return submitted
        reference = submitted.reference
        await observer.on_accepted(reference)
    return await _poll(provider, reference, deadline, observer)


async def _submit(provider: Provider[Any], payload: Any, deadline: Deadline) -> Picture | Accepted:
    """A synchronous generation may use all the time that is left; submitting to a queue is a short call."""
    if not provider.has_queue:
        return await _await_by(deadline, provider.submit_job(payload))
    try:
        return await _await_by(deadline, provider.submit_job(payload), settings.PROVIDER_CALL_TIMEOUT_SECONDS)
    except TimeoutError:
        raise AmbiguousError(Reason.SLOW, "The provider's queue did not answer; the job may have been billed") from None


async def _poll(provider: Provider[Any], reference: str, deadline: Deadline, observer: Observer) -> Picture:
    """Polls until there is a picture. A poll costs nothing, so one that fails or whose response is lost is repeated."""
    while True:
        observer.on_poll()
        try:
            picture = await _await_by(deadline, provider.poll_status(reference), settings.PROVIDER_CALL_TIMEOUT_SECONDS)
        except (TransientError, AmbiguousError, TimeoutError) as error:
            logger.info("Poll of %s failed (%s); asking again", provider.id, type(error).__name__)
        else:
            if picture is not None:
                return picture
        pause = min(provider.poll_seconds, deadline.seconds_left_with_overtime() - LAST_POLL_SECONDS)
        if pause <= 0:
            await asyncio.sleep(max(0, deadline.seconds_left_with_overtime()))
            raise DeadlineReached
        await asyncio.sleep(pause)


async def cancel_at_provider(provider: Provider[Any], reference: str) -> None:
    """Best effort: the job has already ended here, whatever the provider responds."""
    try:
        async with asyncio.timeout(settings.PROVIDER_CALL_TIMEOUT_SECONDS):
            await provider.cancel(reference)
    except (ProviderError, TimeoutError) as error:
        logger.warning("%s did not take the cancellation: %s", provider.id, type(error).__name__)


async def _await_by(deadline: Deadline, call: Coroutine[Any, Any, T], limit: float | None = None) -> T:
    """The call's result. Raises `TimeoutError` after the call's own `limit` (s), `DeadlineReached` when time is up."""
    left = deadline.seconds_left_with_overtime()
    if left <= 0:
        call.close()  # never started
        raise DeadlineReached
    try:
        async with asyncio.timeout(left if limit is None else min(left, limit)) as bound:
            return await call
    except TimeoutError:
        if bound.expired() and (limit is None or left < limit):
            raise DeadlineReached from None
        raise


def _may_repeat(provider: Provider[Any], request: Request, error: ProviderError) -> bool:
    if isinstance(error, AmbiguousError):
        return may_repeat_ambiguous(provider, request.settings)
    return not isinstance(error, PermanentError)


def may_repeat_ambiguous(provider: Provider[Any], settings: OperationSettings) -> bool:
    """Rule 12: if repeating cannot cost anything, or the slot allows it."""
    return provider.repeatable or bool(settings.retry and settings.retry.repeat_ambiguous)


async def _back_off(deadline: Deadline, observer: Observer, seconds: float, error: ProviderError) -> None:
    """Waits before the next attempt; raises `error` at once if that attempt would start after the deadline."""
    if seconds >= deadline.seconds_left():
        raise error
    await observer.back_off(seconds)
