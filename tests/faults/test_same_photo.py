"""The same photo posted fifty times at once is paid once."""

from __future__ import annotations

import threading

import pytest

from jobs.models import Job
from stats.models import ProcessingLog
from tests.booth_client import Reply
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.faults.guards import with_and_without
from tests.ingest.helpers import eventually
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.e2e

POSTS = 50


@with_and_without("joining")
def test_it_is_paid_once(processes: Processes, sandbox: Sandbox, without: str | None) -> None:
    use_sandbox("instant", "hold")
    processes.without = without
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS=str(POSTS))
    processes.worker("--concurrency", str(POSTS))
    barrier = threading.Barrier(POSTS)

    def post() -> Reply:
        barrier.wait()
        return Booth(processes.url).post(jpeg())

    replies = [in_background(post) for _ in range(POSTS)]
    eventually(lambda: ProcessingLog.objects.filter(status="received").count() == POSTS, seconds=40)
    jobs = Job.objects.count()
    sandbox.wait_for_calls(jobs)
    sandbox.let_go()
    assert {reply().body for reply in replies} == {developed(jpeg())}
    assert len(sandbox.wait_for_calls(jobs)) == jobs == (POSTS if without else 1)
