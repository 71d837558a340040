"""What stands in front of Django: a booth that waits costs next to nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from jobs.models import Job
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox

pytestmark = [pytest.mark.integration]

HELD = 40


def test_a_held_booth_costs_no_thread(processes: Processes) -> None:
    use_sandbox("instant", "hold")
    web = processes.web(QUEUE_MAX_IN_FLIGHT_JOBS=str(HELD), WORKER_GRACE_SECONDS="1")
    booth = Booth(processes.url)
    replies = [in_background(lambda i=i: booth.post(jpeg(), id=str(i))) for i in range(HELD)]  # type: ignore[misc]
    for _ in range(200):
        if Job.objects.count() == HELD:
            break
        threading.Event().wait(0.05)  # until all are in
    assert Job.objects.count() == HELD
    assert len(list(Path(f"/proc/{web.pid}/task").iterdir())) < HELD
    processes.stop()
    assert {reply().status for reply in replies} == {503}
