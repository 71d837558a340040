"""The limit of jobs under way. `tests/faults/test_posts_at_once.py`: it holds exactly, however many post at once."""

from __future__ import annotations

import pytest

from tests.conftest import Booth, Processes, jpeg, use_sandbox
from tests.sandbox.server import Sandbox

pytestmark = pytest.mark.contract


def test_a_job_that_has_ended_does_not_count(processes: Processes, sandbox: Sandbox) -> None:
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS="1")
    processes.worker()
    use_sandbox("instant", "ok")
    booth = Booth(processes.url)
    assert [booth.post(jpeg(), id=str(number)).status for number in range(3)] == [200, 200, 200]
