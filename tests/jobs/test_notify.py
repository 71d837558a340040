"""Being woken: by LISTEN at once, by polling when notifications are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
from pytest_django import Settings

from jobs.queue.notify import Listener, Waiters
from jobs.queue.verbs import DONE_CHANNEL, Queue
from tests.conftest import Booth as PhotoBooth
from tests.conftest import Processes, jpeg, use_sandbox
from tests.queue_helpers import PATIENCE_SECONDS, PICTURE, REPORT, claimed, ended, posted, row, sql

pytestmark = pytest.mark.integration

MARK = "only_in_this_test"  # a channel by which the test finds its own connection


class Ears:
    """A listener at work, and the waiters it wakes."""

    def __init__(self, queue: Queue) -> None:
        self.waiters = Waiters(queue)
        self.connected = asyncio.Event()
        self.listener = Listener(
            {DONE_CHANNEL: self.waiters.wake, MARK: lambda payload: None},
            self._on_connect,
        )

    def _on_connect(self) -> None:
        self.connected.set()
        self.waiters.wake_all()


@asynccontextmanager
async def at_work(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def listening(queue: Queue) -> AsyncIterator[Ears]:
    """Without polling."""
    ears = Ears(queue)
    async with at_work(asyncio.create_task(ears.listener.run())):
        await soon(ears.connected)
        ears.connected.clear()
        yield ears


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await event.wait()


@pytest.mark.usefixtures("alone")
async def test_whoever_waits_for_a_job_is_woken_by_its_end(queue: Queue) -> None:
    claim, other = await claimed(queue), uuid4()
    async with listening(queue) as ears:
        waiters = ears.waiters
        with waiters.wait_for(claim.id) as one, waiters.wait_for(claim.id) as two, waiters.wait_for(other) as else_:
            await queue.finalize(claim, PICTURE, REPORT)
            await soon(one)
            assert two.is_set()
            assert not else_.is_set()
        assert not waiters._events


@pytest.mark.usefixtures("alone")
async def test_one_of_two_may_leave_before_the_end(queue: Queue) -> None:
    claim = await claimed(queue)
    async with listening(queue) as ears:
        with ears.waiters.wait_for(claim.id) as stays:
            with ears.waiters.wait_for(claim.id):
                pass
            await queue.cancel(claim.id, "igor")
            await soon(stays)


@pytest.mark.usefixtures("alone")
async def test_with_listening_off_polling_wakes(queue: Queue, settings: Settings) -> None:
    settings.DATABASE_LISTEN_URL = "off"
    claim, other, ears = await claimed(queue), uuid4(), Ears(queue)
    await ears.listener.run()  # ends at once
    async with at_work(asyncio.create_task(ears.waiters.poll())):
        with ears.waiters.wait_for(claim.id) as event, ears.waiters.wait_for(other) as else_:
            await queue.finalize(claim, PICTURE, REPORT)
            await soon(event)
            assert not else_.is_set()
    assert not ears.listener.is_connected


@pytest.mark.usefixtures("alone")
async def test_a_broken_connection_is_opened_again_and_the_state_read(queue: Queue) -> None:
    claim = await claimed(queue)
    async with listening(queue) as ears:
        assert ears.listener.is_connected
        with ears.waiters.wait_for(uuid4()) as anybody:
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s"
            assert await sql(queue, kill, f'LISTEN "{MARK}"')
            await soon(ears.connected)
            assert anybody.is_set()  # who waits looks at the state: his notification may have been lost meanwhile
        with ears.waiters.wait_for(claim.id) as event:
            await queue.finalize(claim, PICTURE, REPORT)
            await soon(event)


@pytest.mark.e2e
@pytest.mark.usefixtures("service")
async def test_a_waiting_worker_takes_a_job_up_long_before_it_would_poll(queue: Queue) -> None:
    await ended(queue, await posted(queue))  # the worker is there
    waits = []
    for _ in range(5):
        job_id = await posted(queue)
        await ended(queue, job_id)
        job = await row(queue, job_id)
        waits.append((job["claimed_at"] - job["created_at"]).total_seconds())
    assert sorted(waits)[2] < 0.1, waits  # polling: half a second on average


@pytest.mark.e2e
def test_without_any_notification_the_booth_gets_its_picture(processes: Processes) -> None:
    processes.web(DATABASE_LISTEN_URL="off")
    processes.worker(DATABASE_LISTEN_URL="off")
    use_sandbox("instant")
    assert PhotoBooth(processes.url).post(jpeg()).status == 200
