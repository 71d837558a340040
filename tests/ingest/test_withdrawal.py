"""A photo whose admission was unknown: withdrawn, unless its booth has posted it again."""

from __future__ import annotations

import asyncio

import pytest

from ingest import withdrawal
from jobs.queue.records import NewJob
from jobs.queue.verbs import Queue
from jobs.storage import files
from tests.conftest import jpeg, stored_files
from tests.queue_helpers import new_job, row

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]


async def withdraw(queue: Queue, job: NewJob) -> None:
    withdrawal.withdraw_later(queue, job, 30)
    await asyncio.gather(*withdrawal._withdrawals)


@pytest.mark.parametrize(("posts", "failure_reason"), [(1, "cancelled"), (2, None)])
async def test_a_job_is_withdrawn_unless_it_was_joined(queue: Queue, posts: int, failure_reason: str | None) -> None:
    job = new_job(booth_id="one")
    files.save(job.payload_path, jpeg())
    await queue.admit(job, 30)
    for _ in range(1, posts):
        await queue.admit(new_job(booth_id="one", payload_digest=job.payload_digest), 30)
    await withdraw(queue, job)
    assert (await row(queue, job.id))["failure_reason"] == failure_reason
    assert stored_files() == ([] if failure_reason else [job.payload_path])


async def test_the_photo_of_a_job_that_was_not_admitted_is_deleted(queue: Queue) -> None:
    job = new_job()
    files.save(job.payload_path, jpeg())
    await withdraw(queue, job)
    assert stored_files() == []
