"""`release_expired`, as cron calls it."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from jobs.queue.verbs import Queue
from tests.conftest import Processes, stored_files
from tests.queue_helpers import claim_job, make_overdue, post_job, row, run_proxy, sql

pytestmark = pytest.mark.e2e


async def wait_for_code(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, 30)


async def test_it_ends_what_is_overdue_and_nothing_else(queue: Queue, processes: Processes) -> None:
    jobs = [await post_job(queue) for _ in range(4)]
    await queue.claim(["instant"], 1)
    for job_id in jobs[:3]:
        await make_overdue(queue, job_id)
    assert await wait_for_code(processes.start("manage.py", "release_expired")) == 0
    reasons = [(await row(queue, job_id))["failure_reason"] for job_id in jobs]
    assert reasons == ["timeout", "timeout", "timeout", None]
    assert stored_files() == [f"payloads/{jobs[3]}.jpg"]


async def test_two_at_once_end_each_job_once(queue: Queue, processes: Processes) -> None:
    for _ in range(10):
        await make_overdue(queue, await post_job(queue))
    both = [processes.start("manage.py", "release_expired") for _ in range(2)]
    assert [await wait_for_code(process) for process in both] == [0, 0]
    (counted,) = await sql(queue, "SELECT sum(timeouts) AS timeouts FROM stats_hourlycounter")
    assert counted["timeouts"] == 10
    assert stored_files() == []


async def test_a_photo_that_is_removed_already_is_no_failure(queue: Queue, processes: Processes) -> None:
    claim = await claim_job(queue)
    await make_overdue(queue, claim.id)
    assert await wait_for_code(processes.start("manage.py", "release_expired")) == 0


async def test_without_a_database_it_fails(processes: Processes) -> None:
    async with run_proxy() as proxy:
        proxy.cut()
        assert await wait_for_code(processes.start("manage.py", "release_expired", **proxy.environment)) == 1
