"""Many posts at once: the same photo is paid once, and the limit of jobs under way holds exactly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from jobs.models import Job
from stats.models import ProcessingLog
from tests.booth_client import Reply
from tests.conftest import Booth, Processes, jpeg, stored_files, use_sandbox
from tests.faults.guards import with_and_without
from tests.ingest.helpers import eventually, refusal
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.e2e

SAME, BOOTHS, LIMIT = 50, 200, 12


def post_at_once(pool: ThreadPoolExecutor, count: int, post: Callable[[int], Reply]) -> list[Future[Reply]]:
    barrier = threading.Barrier(count)

    def start(number: int) -> Reply:
        barrier.wait()
        return post(number)

    return [pool.submit(start, number) for number in range(count)]


@with_and_without("joining")
def test_the_same_photo_fifty_times_is_paid_once(processes: Processes, sandbox: Sandbox, without: str | None) -> None:
    use_sandbox("instant", "hold")
    processes.without = without
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS=str(SAME))
    processes.worker("--concurrency", str(SAME))
    booth = Booth(processes.url)
    with ThreadPoolExecutor(SAME) as pool:
        replies = post_at_once(pool, SAME, lambda number: booth.post(jpeg()))
        eventually(lambda: ProcessingLog.objects.filter(status="received").count() == SAME, seconds=40)
        jobs = Job.objects.count()
        sandbox.wait_for_calls(jobs)
        sandbox.let_go()
    assert {reply.result().body for reply in replies} == {developed(jpeg())}
    assert len(sandbox.wait_for_calls(jobs)) == jobs
    assert (jobs > 1) if without else (jobs == 1)


@with_and_without("admission lock")
def test_of_two_hundred_at_once_exactly_the_limit_is_admitted(
    processes: Processes, sandbox: Sandbox, without: str | None
) -> None:
    use_sandbox("instant", "hold")
    processes.without = without
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS=str(LIMIT))
    processes.worker("--concurrency", str(BOOTHS))
    booth = Booth(processes.url)
    with ThreadPoolExecutor(BOOTHS) as pool:
        replies = post_at_once(pool, BOOTHS, lambda number: booth.post(jpeg(), id=str(number)))
        eventually(lambda: sum(reply.done() for reply in replies) + Job.objects.count() == BOOTHS, seconds=40)
        admitted = Job.objects.count()
        assert stored_files() == sorted(str(job.payload_path) for job in Job.objects.all())
        assert ProcessingLog.objects.filter(status="received").count() == admitted
        sandbox.let_go()
    assert (admitted > LIMIT) if without else (admitted == LIMIT)
    answers = [reply.result() for reply in replies]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(answers) - len(refused) == admitted
    for answer in refused:
        refusal(answer, 429, "queue_busy")
        assert int(answer.headers["retry-after"]) > 0
