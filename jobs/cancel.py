"""Staff cancel a job, from code that is not async."""

from __future__ import annotations

from uuid import UUID

from asgiref.sync import async_to_sync

from jobs.queue.verbs import open_queue
from jobs.storage import media


def cancel_job(job_id: UUID, by: str) -> bool:
    """Ends the job; its booth hears at once and its photo goes. False: it had ended already, nothing was changed.
    Raises `QueueUnavailable`."""
    return async_to_sync(_cancel)(job_id, by)


async def _cancel(job_id: UUID, by: str) -> bool:
    async with open_queue(connections=1) as queue:
        closed = await queue.cancel(job_id, by)
    if closed is None:
        return False
    await media.tidy_up(closed)
    return True
