"""The places of a worker: who waits goes before who is new, and none is lost."""

from __future__ import annotations

import asyncio

import pytest

from jobs.worker.concurrency import JobSemaphore

pytestmark = pytest.mark.unit


class Worker:
    def __init__(self, places: int) -> None:
        self.heard = 0
        self.places = JobSemaphore(places, self.hear)

    def hear(self) -> None:
        self.heard += 1


def resting(worker: Worker) -> asyncio.Task[None]:
    return asyncio.create_task(worker.places.reacquire())


async def settle() -> None:
    """Lets what can run now run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_place_given_back_is_free_and_the_worker_hears_of_it() -> None:
    worker = Worker(1)
    worker.places.acquire_all()
    assert worker.places.free == 0
    worker.places.release()
    assert (worker.places.free, worker.heard) == (1, 1)


async def test_whoever_comes_back_takes_a_free_place_at_once() -> None:
    worker = Worker(1)
    await worker.places.reacquire()
    assert worker.places.free == 0


async def test_jobs_that_come_back_go_before_new_ones_the_first_first() -> None:
    worker = Worker(1)
    worker.places.acquire_all()
    first, second = resting(worker), resting(worker)
    await settle()
    worker.places.release()
    await settle()
    assert (first.done(), second.done(), worker.places.free, worker.heard) == (True, False, 0, 0)
    worker.places.release()
    await second
    worker.places.release()
    assert (worker.places.free, worker.heard) == (1, 1)


async def test_one_that_is_cancelled_while_it_waits_is_passed_over() -> None:
    worker = Worker(1)
    worker.places.acquire_all()
    gone, next_one = resting(worker), resting(worker)
    await settle()
    gone.cancel()
    await settle()
    worker.places.release()
    await next_one
    assert worker.places.free == 0


async def test_one_that_is_cancelled_just_as_it_is_given_a_place_gives_it_back() -> None:
    worker = Worker(1)
    worker.places.acquire_all()
    waiting = resting(worker)
    await settle()
    worker.places.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (worker.places.free, worker.heard) == (1, 1)


async def test_while_jobs_are_claimed_for_them_free_places_are_nobody_elses() -> None:
    """Else a job that comes back just then would make one more at once than there are places."""
    worker = Worker(2)
    reserved = worker.places.acquire_all()
    back = resting(worker)
    await settle()
    assert (len(reserved), back.done()) == (2, False)
    worker.places.release_unused(reserved[1:])
    await back
    assert (worker.places.free, worker.heard) == (0, 0)


def test_places_that_no_job_came_for_are_free_without_another_look() -> None:
    worker = Worker(2)
    worker.places.release_unused(worker.places.acquire_all())
    assert (worker.places.free, worker.heard) == (2, 0)
