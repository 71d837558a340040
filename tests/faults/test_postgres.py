"""Postgres goes away while a provider works, and comes back: the picture that is paid for is not lost."""

from __future__ import annotations

import pytest

from jobs.models import Job
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.faults.guards import with_and_without
from tests.ingest.helpers import eventually, refusal
from tests.ingest.test_database_away import close_own_connections, database_away
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.e2e


@with_and_without("waiting for the database")
def test_a_picture_made_meanwhile_reaches_its_booth(
    processes: Processes, sandbox: Sandbox, without: str | None
) -> None:
    use_sandbox("instant", "hold")
    processes.web()
    processes.without = without
    processes.worker()
    booth = Booth(processes.url)
    reply = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1)
    close_own_connections()
    with database_away():
        sandbox.let_go()
        for _ in range(3):  # the worker, too, has noticed by then
            refusal(booth.post(jpeg(colour="tomato")), 503, "queue_unavailable")
    answer = reply()
    assert len(sandbox.journal) == 1
    job = eventually(lambda: Job.objects.filter(is_finalized=True).first())
    if without:
        assert answer.status != 200
        assert "may have been billed" in job.error_message
    else:
        assert answer.body == developed(jpeg())
