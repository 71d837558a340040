"""The limit of jobs under way holds exactly, however many post at once."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from jobs.models import Job
from stats.models import ProcessingLog
from tests.booth_client import Reply
from tests.conftest import Booth, Processes, jpeg, stored_files, use_sandbox
from tests.ingest.helpers import eventually, refusal
from tests.sandbox.server import Sandbox

pytestmark = pytest.mark.contract

BOOTHS = 200
LIMIT = 7


def post_all_at_once(booth: Booth, pool: ThreadPoolExecutor) -> list[Future[Reply]]:
    barrier = threading.Barrier(BOOTHS)

    def post(number: int) -> Reply:
        barrier.wait()
        return booth.post(jpeg(), id=str(number))

    return [pool.submit(post, number) for number in range(BOOTHS)]


def test_of_two_hundred_at_once_exactly_the_limit_is_admitted(processes: Processes, sandbox: Sandbox) -> None:
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS=str(LIMIT))
    processes.worker()
    use_sandbox("instant", "hold")
    with ThreadPoolExecutor(BOOTHS) as pool:
        replies = post_all_at_once(Booth(processes.url), pool)
        eventually(lambda: sum(reply.done() for reply in replies) + Job.objects.count() == BOOTHS, seconds=40)
        assert Job.objects.count() == LIMIT
        assert stored_files() == sorted(str(job.payload_path) for job in Job.objects.all())
        assert ProcessingLog.objects.filter(status="received").count() == LIMIT
        sandbox.let_go()
    answers = [reply.result() for reply in replies]
    refused = [answer for answer in answers if answer.status != 200]
    assert len(answers) - len(refused) == LIMIT
    for answer in refused:
        refusal(answer, 429, "queue_busy")
        assert int(answer.headers["retry-after"]) > 0


def test_a_job_that_has_ended_does_not_count(processes: Processes, sandbox: Sandbox) -> None:
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS="1")
    processes.worker()
    use_sandbox("instant", "ok")
    booth = Booth(processes.url)
    assert [booth.post(jpeg(), id=str(number)).status for number in range(3)] == [200, 200, 200]
