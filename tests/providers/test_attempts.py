"""Attempts, back-off and time-outs, on an event loop whose time jumps to the next timer: exact, and without waiting."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from pytest_django import Settings

from providers.attempts import Deadline, DeadlineReached, cancel_at_provider, make_picture
from providers.base import (
    Accepted,
    AmbiguousError,
    Operation,
    OperationSettings,
    PermanentError,
    Picture,
    Provider,
    ProviderError,
    Reason,
    Request,
    Retry,
    TransientError,
    Usage,
)
from tests.providers.observers import Permissive, keep_picture

pytestmark = pytest.mark.unit

T = TypeVar("T")
PHOTO, PICTURE = Picture(b"photo", "image/jpeg"), Picture(b"picture", "image/png")
BUSY = TransientError(Reason.OVERLOADED, "busy")
LOST = AmbiguousError(Reason.SLOW, "lost")
REFUSED = PermanentError(Reason.REFUSED, "no")
FOREVER = 1e6

Answer = Picture | Accepted | Exception | None


class JumpingLoop(asyncio.SelectorEventLoop):
    """Never waits: when no callback is ready, its time jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen"
        self._loop.now += max(0, timeout)
        return super().select(0)


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


@dataclass
class Script(Provider[str]):
    """Plays scripted (seconds, result) pairs; keeps a journal of (second, method)."""

    submits: list[tuple[float, Answer]] = field(default_factory=list)
    polls: list[tuple[float, Answer]] = field(default_factory=list)
    prepares: list[tuple[float, Answer]] = field(default_factory=list)
    has_queue: bool = False  # type: ignore[misc]
    repeatable: bool = False  # type: ignore[misc]
    journal: list[tuple[float, str]] = field(default_factory=list)

    id = "script"
    name = "Script"
    operations = (Operation("image_edit", "Edit", OperationSettings),)
    poll_seconds = 2.0

    async def act(self, what: str, answers: list[tuple[float, Answer]]) -> Any:
        self.journal.append((round(asyncio.get_running_loop().time(), 3), what))
        seconds, answer = answers.pop(0)
        await asyncio.sleep(seconds)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def prepare_payload(self, request: Request) -> str:
        await self.act("prepare", self.prepares or [(0, None)])
        return "payload"

    async def submit_job(self, payload: str) -> Picture | Accepted:
        assert payload == "payload"
        answer: Picture | Accepted = await self.act("submit", self.submits)
        return answer

    async def poll_status(self, reference: str) -> Picture | None:
        picture: Picture | None = await self.act(f"poll {reference}", self.polls)
        return picture

    async def cancel(self, reference: str) -> None:
        await self.act(f"cancel {reference}", self.polls)

    def times(self, what: str) -> list[float]:
        return [second for second, entry in self.journal if entry == what]


@dataclass
class Recorder(Permissive):
    attempts: list[tuple[int, float, ProviderError | None]] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    polls: int = 0

    async def on_accepted(self, reference: str) -> None:
        self.references.append(reference)

    def on_poll(self) -> None:
        self.polls += 1

    async def on_attempt(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> None:
        self.attempts.append((number, seconds, error))


def make(
    provider: Script,
    seconds: float = 48,
    retry: Retry | None = None,
    recorder: Recorder | None = None,
    reference: str | None = None,
) -> Picture:
    request = Request(uuid4(), "image_edit", OperationSettings(retry=retry), PHOTO, {})

    async def main() -> Picture:
        return await make_picture(
            provider, request, Deadline.after(seconds), recorder or Recorder(), keep_picture, reference
        )

    return run(main())


def script_with_queue(polls: list[tuple[float, Answer]], **more: Any) -> Script:
    return Script([(0.1, Accepted("q-1"))], polls, has_queue=True, **more)


def test_the_first_answer_is_the_picture() -> None:
    provider, recorder = Script([(7, PICTURE)]), Recorder()
    assert make(provider, recorder=recorder) == PICTURE
    assert provider.journal == [(0, "prepare"), (0, "submit")]
    assert recorder.attempts == [(1, 7, None)]


def test_a_transient_fault_is_repeated_after_the_pause() -> None:
    provider, recorder = Script([(1, BUSY), (1, BUSY), (1, PICTURE)]), Recorder()
    assert make(provider, recorder=recorder) == PICTURE
    assert provider.times("submit") == [0, 4, 8]
    assert provider.times("prepare") == [0]
    assert recorder.attempts == [(1, 1, BUSY), (2, 1, BUSY), (3, 1, None)]


def test_five_attempts_at_most() -> None:
    provider = Script([(0, BUSY)] * 9)
    with pytest.raises(TransientError, match="busy"):
        make(provider)
    assert provider.times("submit") == [0, 3, 6, 9, 12]


@pytest.mark.parametrize(
    ("retry", "times"),
    [
        (Retry(attempts=1), [0]),
        (Retry(attempts=3, pause_seconds=1), [0, 1, 2]),
        (Retry(pause_seconds=0), [0, 0, 0, 0, 0]),
        (Retry(attempts=2), [0, 3]),
    ],
)
def test_a_slot_may_set_its_own(retry: Retry, times: list[float]) -> None:
    provider = Script([(0, BUSY)] * 9)
    with pytest.raises(TransientError):
        make(provider, retry=retry)
    assert provider.times("submit") == times


def test_the_service_sets_the_usual(settings: Settings) -> None:
    settings.PROVIDER_ATTEMPTS, settings.PROVIDER_RETRY_PAUSE_SECONDS = 2, 5
    provider = Script([(0, BUSY)] * 9)
    with pytest.raises(TransientError):
        make(provider)
    assert provider.times("submit") == [0, 5]


@pytest.mark.parametrize(("wish", "second"), [(10, 10), (0.5, 3)])
def test_the_providers_wish_may_lengthen_the_pause(wish: float, second: float) -> None:
    provider = Script([(0, TransientError(Reason.QUOTA, "later", retry_after=wish)), (0, PICTURE)])
    assert make(provider) == PICTURE
    assert provider.times("submit") == [0, second]


def test_a_wish_beyond_the_deadline_ends_it_at_once() -> None:
    provider = Script([(1, TransientError(Reason.QUOTA, "later", retry_after=60))])
    recorder = Recorder()
    with pytest.raises(TransientError, match="later"):
        make(provider, recorder=recorder)
    assert recorder.attempts[0][1] == 1


@pytest.mark.parametrize("error", [REFUSED, LOST])
def test_what_may_not_be_repeated_ends_at_once(error: ProviderError) -> None:
    provider = Script([(1, error), (0, PICTURE)])
    with pytest.raises(type(error)):
        make(provider)
    assert provider.times("submit") == [0]


def test_a_call_whose_response_is_lost_is_repeated_where_that_costs_nothing() -> None:
    provider = Script([(1, LOST), (0, PICTURE)], repeatable=True)
    assert make(provider) == PICTURE


def test_preparing_is_repeated_too_and_counts_as_an_attempt() -> None:
    provider, recorder = Script([(0, PICTURE)], prepares=[(0, BUSY), (0, None)]), Recorder()
    assert make(provider, recorder=recorder) == PICTURE
    assert provider.journal == [(0, "prepare"), (3, "prepare"), (3, "submit")]
    assert [number for number, _, _ in recorder.attempts] == [1, 2]


def test_a_generation_may_use_all_the_time_until_the_deadline() -> None:
    assert make(Script([(47.9, PICTURE)])) == PICTURE
    with pytest.raises(DeadlineReached):
        make(Script([(FOREVER, PICTURE)]))


def test_at_the_deadline_the_call_is_torn_down() -> None:
    torn_down = []

    class Hanging(Script):
        async def submit_job(self, payload: str) -> Picture:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                torn_down.append(asyncio.get_running_loop().time())
            raise AssertionError

    with pytest.raises(DeadlineReached):
        make(Hanging(), seconds=12)
    assert torn_down == [12]


@pytest.mark.parametrize("seconds", [0, -1])
def test_after_the_deadline_nothing_is_sent(seconds: float) -> None:
    provider = Script([(0, PICTURE)])
    with pytest.raises(DeadlineReached):
        make(provider, seconds=seconds)
    assert provider.journal == []


def test_preparing_may_leave_no_time_to_submit() -> None:
    provider = Script([(0, PICTURE)], prepares=[(20, None)])
    with pytest.raises(DeadlineReached):
        make(provider, seconds=20)
    assert provider.times("submit") == []


def test_no_attempt_begins_that_is_too_late() -> None:
    provider = Script([(0, BUSY)] * 9)
    with pytest.raises(TransientError):
        make(provider, seconds=7)
    assert provider.times("submit") == [0, 3, 6]


def test_a_queue_is_polled_until_there_is_a_picture() -> None:
    provider, recorder = script_with_queue([(0, None), (0, None), (0.5, PICTURE)]), Recorder()
    assert make(provider, recorder=recorder) == PICTURE
    assert provider.times("poll q-1") == [0.1, 2.1, 4.1]
    assert (recorder.references, recorder.polls) == (["q-1"], 3)
    assert len(recorder.attempts) == 1


@pytest.mark.parametrize("fault", [(0, BUSY), (0, LOST), (FOREVER, None)])
def test_a_poll_that_fails_is_repeated_and_nothing_submitted_twice(fault: tuple[float, Answer]) -> None:
    provider, recorder = script_with_queue([fault, (0, PICTURE)]), Recorder()
    assert make(provider, recorder=recorder) == PICTURE
    assert len(provider.times("submit")) == 1
    assert [error for _, _, error in recorder.attempts] == [None]


def test_a_poll_may_take_five_seconds() -> None:
    provider = script_with_queue([(FOREVER, None), (4.9, PICTURE)])
    assert make(provider) == PICTURE
    assert provider.times("poll q-1") == [0.1, 7.1]


def test_a_poll_may_say_that_the_job_failed_for_good() -> None:
    with pytest.raises(PermanentError):
        make(script_with_queue([(0, None), (0, REFUSED)]))


def test_a_queue_that_never_finishes_ends_at_the_deadline() -> None:
    provider = script_with_queue([(0, None)] * 99)
    with pytest.raises(DeadlineReached):
        make(provider, seconds=10)
    assert max(provider.times("poll q-1")) < 10


def test_a_queue_that_does_not_take_the_job_in_five_seconds_may_have_billed_it() -> None:
    provider, recorder = Script([(FOREVER, None)], has_queue=True), Recorder()
    with pytest.raises(AmbiguousError, match="billed"):
        make(provider, recorder=recorder)
    assert [(number, seconds) for number, seconds, _ in recorder.attempts] == [(1, 5)]


def test_a_job_of_an_earlier_worker_is_polled_first() -> None:
    provider = script_with_queue([(0, None), (0, PICTURE)])
    assert make(provider, reference="q-0") == PICTURE
    assert provider.journal == [(0, "poll q-0"), (2, "poll q-0")]


def test_when_the_earlier_job_failed_another_is_submitted_if_that_may_be_repeated() -> None:
    class Forgetful(Script):
        async def poll_status(self, reference: str) -> Picture | None:
            if reference == "q-0":
                raise ProviderError(Reason.NO_IMAGE, "made nothing")
            return await super().poll_status(reference)

    provider = Forgetful([(0.1, Accepted("q-1"))], [(0, PICTURE)], has_queue=True)
    assert make(provider, reference="q-0") == PICTURE
    assert provider.journal == [(3, "prepare"), (3, "submit"), (3.1, "poll q-1")]


@pytest.mark.parametrize("answer", [(0, None), (0, BUSY), (FOREVER, None)])
def test_cancelling_is_best_effort(answer: tuple[float, Answer]) -> None:
    provider = Script(polls=[answer])

    async def main() -> float:
        await cancel_at_provider(provider, "q-1")
        return asyncio.get_running_loop().time()

    assert run(main()) <= 5
    assert provider.journal == [(0, "cancel q-1")]


def test_a_picture_that_is_not_finished_in_time_has_cost_what_it_has_cost() -> None:
    bill = Usage({"output_tokens": 7}, "script-1", Decimal("0.04"))
    provider = Script([(1, Picture(b"made", "image/png", bill))])
    request = Request(uuid4(), "image_edit", OperationSettings(), PHOTO, {})

    async def forever(picture: Picture) -> Picture:
        await asyncio.sleep(FOREVER)
        return picture

    async def main() -> Picture:
        return await make_picture(provider, request, Deadline.after(5), Recorder(), forever)

    with pytest.raises(DeadlineReached) as caught:
        run(main())
    assert caught.value.usage == bill
