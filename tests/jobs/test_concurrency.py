"""The semaphore of a worker: returning jobs go before new ones, and no permit is lost."""

from __future__ import annotations

import asyncio

import pytest

from jobs.worker.concurrency import JobSemaphore

pytestmark = pytest.mark.unit


class Worker:
    def __init__(self, permits: int) -> None:
        self.wakes = 0
        self.semaphore = JobSemaphore(permits, self.wake)

    def wake(self) -> None:
        self.wakes += 1


def start_reacquiring(worker: Worker) -> asyncio.Task[None]:
    return asyncio.create_task(worker.semaphore.reacquire())


async def run_ready_tasks() -> None:
    """Runs all tasks that can run now."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_released_permit_is_free_and_wakes_the_worker() -> None:
    worker = Worker(1)
    worker.semaphore.acquire_all()
    assert worker.semaphore.free == 0
    worker.semaphore.release()
    assert (worker.semaphore.free, worker.wakes) == (1, 1)


async def test_a_returning_job_takes_a_free_permit_at_once() -> None:
    worker = Worker(1)
    await worker.semaphore.reacquire()
    assert worker.semaphore.free == 0


async def test_returning_jobs_go_before_new_ones_in_their_order() -> None:
    worker = Worker(1)
    worker.semaphore.acquire_all()
    first, second = start_reacquiring(worker), start_reacquiring(worker)
    await run_ready_tasks()
    worker.semaphore.release()
    await run_ready_tasks()
    assert (first.done(), second.done(), worker.semaphore.free, worker.wakes) == (True, False, 0, 0)
    worker.semaphore.release()
    await second
    worker.semaphore.release()
    assert (worker.semaphore.free, worker.wakes) == (1, 1)


async def test_a_waiter_that_was_cancelled_is_passed_over() -> None:
    worker = Worker(1)
    worker.semaphore.acquire_all()
    cancelled, next_waiter = start_reacquiring(worker), start_reacquiring(worker)
    await run_ready_tasks()
    cancelled.cancel()
    await run_ready_tasks()
    worker.semaphore.release()
    await next_waiter
    assert worker.semaphore.free == 0


async def test_a_waiter_cancelled_just_as_it_gets_a_permit_releases_it() -> None:
    worker = Worker(1)
    worker.semaphore.acquire_all()
    waiting = start_reacquiring(worker)
    await run_ready_tasks()
    worker.semaphore.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (worker.semaphore.free, worker.wakes) == (1, 1)


async def test_permits_reserved_for_claims_are_not_given_to_returning_jobs() -> None:
    """Otherwise a job returning just then would exceed the number of permits."""
    worker = Worker(2)
    reserved = worker.semaphore.acquire_all()
    returning = start_reacquiring(worker)
    await run_ready_tasks()
    assert (len(reserved), returning.done()) == (2, False)
    worker.semaphore.release_unused(reserved[1:])
    await returning
    assert (worker.semaphore.free, worker.wakes) == (0, 0)


def test_permits_without_a_job_are_free_and_wake_nobody() -> None:
    worker = Worker(2)
    worker.semaphore.release_unused(worker.semaphore.acquire_all())
    assert (worker.semaphore.free, worker.wakes) == (2, 0)
