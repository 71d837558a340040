"""Waiting for the end of a job, for a booth that holds its connection."""

from __future__ import annotations

import asyncio

from core.database import DatabaseUnavailable
from jobs import lifecycle
from jobs.queue.notify import Waiters
from jobs.queue.records import JobOutcome, Ticket
from jobs.queue.verbs import Queue

# A database that hangs at the deadline is given this long to say how the job ended; the booth is not kept longer.
LAST_LOOK_SECONDS = 1.0


async def wait_for_end(queue: Queue, waiters: Waiters, ticket: Ticket) -> JobOutcome:
    """The job's outcome, at its deadline at the latest: whoever waits ends the job when nobody else has.

    Raises `DatabaseUnavailable` when the database is away at the deadline.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ticket.seconds_left
    with waiters.wait_for(ticket.job_id) as may_have_ended:
        if not ticket.joined:
            await _until(may_have_ended, deadline)
        while True:
            may_have_ended.clear()
            try:
                async with asyncio.timeout_at(deadline + LAST_LOOK_SECONDS):
                    outcome = await _look(queue, ticket)
            except (DatabaseUnavailable, TimeoutError) as error:
                if loop.time() >= deadline:
                    raise DatabaseUnavailable("at the deadline") from error
                outcome = None  # it may be back before the deadline, with the picture
            if outcome is not None:
                return outcome
            await _until(may_have_ended, deadline)


async def _look(queue: Queue, ticket: Ticket) -> JobOutcome | None:
    """The outcome, if there is one by now. The database's clock says whether the deadline has passed."""
    outcome = await queue.get_outcome(ticket.job_id)
    if outcome is not None and outcome.is_finalized:
        return outcome
    if not await lifecycle.expire(queue, ticket.job_id):
        return None
    return await queue.get_outcome(ticket.job_id)


async def _until(event: asyncio.Event, deadline: float) -> None:
    """Until the event or the deadline; just past it, in the small steps by which two clocks may differ."""
    try:
        async with asyncio.timeout(max(deadline - asyncio.get_running_loop().time(), 0.002)):
            await event.wait()
    except TimeoutError:
        pass
