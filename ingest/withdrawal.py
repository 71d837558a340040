"""Withdrawing a photo whose admission is unknown: the database did not answer, and may commit it later.

Its booth has been told to post again. If it has, its next post has joined the job; otherwise nobody waits for the
picture, and it must not be made and paid for.
"""

from __future__ import annotations

import asyncio
import logging

from core.database import DatabaseUnavailable
from jobs import lifecycle
from jobs.queue.records import NewJob
from jobs.queue.verbs import Queue
from jobs.storage import files

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0

_withdrawals: set[asyncio.Task[None]] = set()  # the event loop itself keeps no reference


def withdraw_later(queue: Queue, job: NewJob, wait_seconds: int) -> None:
    """Withdraws the job as soon as the database answers, unless that is after its deadline, which ends it anyhow."""
    task = asyncio.create_task(_withdraw(queue, job, wait_seconds), name=f"withdraw {job.id}")
    _withdrawals.add(task)
    task.add_done_callback(_withdrawals.discard)


async def _withdraw(queue: Queue, job: NewJob, wait_seconds: int) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    while loop.time() < deadline:
        try:
            posts = await queue.count_posts(job.id)
            if posts == 1:
                await lifecycle.cancel(queue, job.id, None)
                logger.warning("Job %s is withdrawn: its booth was told that the queue is unavailable", job.id)
            if posts <= 1:
                await asyncio.to_thread(files.delete, job.payload_path)
            return
        except DatabaseUnavailable:
            await asyncio.sleep(RETRY_SECONDS)
    logger.warning("Job %s may have been admitted; the photo is left to its deadline and to the purge", job.id)
