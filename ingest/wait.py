"""Waiting for the end of a job, for a booth that holds its connection."""

from __future__ import annotations

import asyncio

from core.database import DatabaseUnavailable
from jobs import lifecycle
from jobs.queue.notify import Waiters
from jobs.queue.records import JobOutcome, Ticket
from jobs.queue.verbs import Queue

# A database that hangs at the deadline gets this long to return the outcome: the booth is answered within a second.
FINAL_POLL_SECONDS = 0.6


async def wait_for_end(queue: Queue, waiters: Waiters, ticket: Ticket) -> JobOutcome:
    """Returns the job's outcome, at its deadline at the latest: whoever waits expires a job that is still open then.

    Raises `DatabaseUnavailable` when the database is unavailable at the deadline.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + max(0, ticket.seconds_left)  # a joined job may have ended long ago
    with waiters.wait_for(ticket.job_id) as may_have_ended:
        if not ticket.joined:
            await _wait_until(may_have_ended, deadline)
        while True:
            may_have_ended.clear()
            try:
                async with asyncio.timeout_at(deadline + FINAL_POLL_SECONDS):
                    outcome = await _poll_outcome(queue, ticket)
            except (DatabaseUnavailable, TimeoutError) as error:
                if loop.time() >= deadline:
                    raise DatabaseUnavailable("at the deadline") from error
                outcome = None  # it may be back before the deadline, with the picture
            if outcome is not None:
                return outcome
            await _wait_until(may_have_ended, deadline)


async def _poll_outcome(queue: Queue, ticket: Ticket) -> JobOutcome | None:
    """The outcome, if the job has ended. The database's clock decides whether the deadline has passed."""
    outcome = await queue.get_outcome(ticket.job_id)
    if outcome is not None and outcome.is_finalized:
        return outcome
    if not await lifecycle.expire(queue, ticket.job_id):
        return None
    return await queue.get_outcome(ticket.job_id)


async def _wait_until(event: asyncio.Event, deadline: float) -> None:
    """Returns at the event or the deadline; past it, after 2 ms, since this clock may be ahead of the database's."""
    try:
        async with asyncio.timeout(max(deadline - asyncio.get_running_loop().time(), 0.002)):
            await event.wait()
    except TimeoutError:
        pass
