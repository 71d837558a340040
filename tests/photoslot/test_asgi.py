"""What stands in front of Django: a booth that waits costs next to nothing."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from jobs.models import Job
from tests.api import may
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.photoslot.until import until

pytestmark = [pytest.mark.integration]

HELD = 40


def test_a_held_booth_costs_no_thread_and_all_hear_when_the_process_leaves(processes: Processes) -> None:
    use_sandbox("instant", "hold")
    web = processes.web(QUEUE_MAX_IN_FLIGHT_JOBS=str(2 * HELD + 1), WORKER_GRACE_SECONDS="1")
    booth = Booth(processes.url)
    replies = [in_background(lambda i=i: booth.post(jpeg(), id=str(i))) for i in range(HELD)]  # type: ignore[misc]
    test_run, headers = f"{processes.url}/api/slots/slot-001/test-run", may("slots:write").headers
    staff = in_background(lambda: httpx.post(test_run, files={"file": jpeg()}, headers=headers, timeout=60))
    until(lambda: Job.objects.count() == HELD + 1)
    assert len(list(Path(f"/proc/{web.pid}/task").iterdir())) < HELD
    processes.stop()
    assert {reply().status for reply in replies} == {staff().status_code} == {503}
    # Booths post again and join; a test run nobody can come back for.
    assert [job.failure_reason for job in Job.objects.order_by("source")] == [None] * HELD + ["cancelled"]
