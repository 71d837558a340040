"""Result and deadline in the same millisecond, a thousand times: exactly one of them ends the job."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from pytest_django import Settings

from jobs.queue.records import Claim
from jobs.queue.verbs import Queue
from tests.conftest import open_queue
from tests.faults.guards import with_and_without
from tests.faults.unguarded import remove
from tests.queue_helpers import PICTURE, REPORT, new_job, sql

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

JOBS, AT_ONCE, CONNECTIONS = 1000, 50, 8
COUNTED = "SELECT sum(ingest_count) AS photos, sum(success) AS success, sum(timeouts) AS late FROM stats_hourlycounter"
MADE = "SELECT count(*) FILTER (WHERE failure_reason IS NULL) AS success, count(*) AS jobs FROM jobs_job"


async def race(queue: Queue, claim: Claim, offset: float) -> int:
    """The worker's result and two who look at the deadline, all at the same time. Returns how many of them won."""
    until = asyncio.get_running_loop().time() + claim.seconds_left + offset

    async def expire(delay: float) -> bool:
        await asyncio.sleep(until + delay - asyncio.get_running_loop().time())
        return await queue.expire(claim.id) is not None

    async def finalize() -> bool:
        await asyncio.sleep(until - asyncio.get_running_loop().time())
        return await queue.finalize(claim, PICTURE, REPORT) is not None

    return sum(await asyncio.gather(finalize(), expire(0.001), expire(0.3)))


@with_and_without("final once")
async def test_exactly_one_ends_each_job(
    queue: Queue, settings: Settings, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = JOBS
    count = JOBS
    if without:
        remove(without, monkeypatch.setattr)
        count = 2 * AT_ONCE  # enough to see it
    random, winners = Random(1), list[int]()
    async with open_queue(CONNECTIONS) as racing:
        await asyncio.gather(*(sql(racing, "SELECT pg_sleep(0.5)") for _ in range(CONNECTIONS)))  # opens them
        for _ in range(count // AT_ONCE):
            for _ in range(AT_ONCE):
                await queue.admit(new_job(), 1)
            claims = await queue.claim(["instant"], AT_ONCE)
            winners += await asyncio.gather(*(race(racing, claim, random.uniform(-0.06, 0.01)) for claim in claims))
    (counted,) = await sql(queue, COUNTED)
    (made,) = await sql(queue, MADE)
    assert made["jobs"] == len(winners) == count
    if without:
        assert max(winners) > 1
        return
    assert set(winners) == {1}
    assert counted == {"photos": JOBS, "success": made["success"], "late": JOBS - made["success"]}
    assert 0 < made["success"] < JOBS
    ends = await sql(queue, "SELECT id FROM stats_processinglog WHERE status IN ('succeeded', 'timeout')")
    assert len(ends) == JOBS
