"""Admission: the limit is exact, and a repeated post of a photo joins its job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from pytest_django import Settings

from core.database import DatabaseUnavailable
from jobs.queue.records import NewJob, Ticket
from jobs.queue.statements import ADMIT
from jobs.queue.verbs import Queue, QueueFull, _make_admission_values
from tests.conftest import open_queue
from tests.queue_helpers import (
    PICTURE,
    REPORT,
    admit_job,
    claim_job,
    make_overdue,
    new_job,
    open_queue_through,
    row,
    run_proxy,
    sql,
    steps,
    wait_for_blocked,
    wait_until,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

LIMIT = 3
POSTS = 10

Admit = Callable[[Queue, NewJob], Coroutine[Any, Any, object]]


@asynccontextmanager
async def hold_commits(queue: Queue) -> AsyncIterator[None]:
    """Blocks commits that add a job, at the foreign key's check: all admissions that get so far see the same queue."""
    async with queue.database.connection() as connection, connection.transaction():
        await connection.execute("SELECT FROM slots_slot WHERE id = 'slot-001' FOR UPDATE")
        yield


async def admit(queue: Queue, job: NewJob) -> object:
    try:
        return await queue.admit(job, 30)
    except QueueFull:
        return None


async def admit_unguarded(queue: Queue, job: NewJob) -> object:
    async with queue.database.connection() as connection:
        return await (await connection.execute(ADMIT, _make_admission_values(job, 30))).fetchone()


async def admit_all(queue: Queue, admit_one: Admit, jobs: list[NewJob]) -> list[object]:
    """Admits all jobs at once, each on its own connection."""
    async with open_queue(connections=len(jobs)) as admission_queue:
        async with hold_commits(queue):
            posts = [asyncio.create_task(admit_one(admission_queue, job)) for job in jobs]
            await wait_for_blocked(queue, len(jobs))
        return [ticket for ticket in await asyncio.gather(*posts) if ticket]


async def test_without_the_lock_more_than_the_limit_are_admitted(queue: Queue, settings: Settings) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = LIMIT
    assert len(await admit_all(queue, admit_unguarded, [new_job() for _ in range(POSTS)])) == POSTS


async def test_never_one_more_than_the_limit(queue: Queue, settings: Settings) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = LIMIT
    assert len(await admit_all(queue, admit, [new_job() for _ in range(POSTS)])) == LIMIT
    assert len(await sql(queue, "SELECT id FROM jobs_job")) == LIMIT


async def test_two_hundred_posts_through_a_few_connections(queue: Queue, settings: Settings) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = 12
    tickets = await asyncio.gather(*(admit(queue, new_job()) for _ in range(200)))
    assert len([ticket for ticket in tickets if ticket]) == 12


async def test_the_same_photo_posted_by_many_at_once_is_one_job(queue: Queue) -> None:
    tickets = await admit_all(queue, admit, [new_job(payload_digest=b"same") for _ in range(5)])
    assert sorted(ticket.joined for ticket in tickets if isinstance(ticket, Ticket)) == [False, True, True, True, True]
    assert len(await sql(queue, "SELECT id FROM jobs_job")) == 1


async def test_joining_does_not_count_against_the_limit(queue: Queue, settings: Settings) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = 1
    job_id = await admit_job(queue, payload_digest=b"photo")
    ticket = await queue.admit(new_job(payload_digest=b"photo"), 30)
    assert (ticket.job_id, ticket.joined) == (job_id, True)
    assert await steps(queue, job_id) == ["received", "received"]
    with pytest.raises(QueueFull):
        await admit_job(queue)


async def test_a_picture_not_delivered_is_joined(queue: Queue) -> None:
    claim = await claim_job(queue, payload_digest=b"photo")
    await queue.finalize(claim, PICTURE, REPORT)
    assert (await queue.admit(new_job(payload_digest=b"photo"), 30)).joined


async def deliver(queue: Queue) -> None:
    (claim,) = await queue.claim(["instant"], 1)
    await queue.finalize(claim, PICTURE, REPORT)
    await queue.mark_delivered(claim.id)


async def cancel(queue: Queue) -> None:
    (claim,) = await queue.claim(["instant"], 1)
    await queue.cancel(claim.id, "igor")


async def let_the_deadline_pass(queue: Queue) -> None:
    (claim,) = await queue.claim(["instant"], 1)
    await make_overdue(queue, claim.id)


async def let_the_dedupe_time_pass(queue: Queue) -> None:
    await sql(queue, "UPDATE jobs_job SET created_at = created_at - interval '121 s'")


@pytest.mark.parametrize("happen", [deliver, cancel, let_the_deadline_pass, let_the_dedupe_time_pass])
async def test_after_that_the_same_photo_is_another_job(
    queue: Queue, happen: Callable[[Queue], Awaitable[None]]
) -> None:
    await admit_job(queue, payload_digest=b"photo")
    await happen(queue)
    assert not (await queue.admit(new_job(payload_digest=b"photo"), 30)).joined


@pytest.mark.parametrize(
    "difference", [{"slot_id": "slot-002"}, {"booth_id": "other"}, {"payload_digest": b"other"}, {"source": "test"}]
)
async def test_only_the_same_photo_of_the_same_booth_joins(queue: Queue, difference: dict[str, object]) -> None:
    job = new_job(payload_digest=b"photo")
    await queue.admit(job, 30)
    other = new_job(**({"payload_digest": b"photo"} | difference))
    assert not (await queue.admit(other, 30)).joined


async def test_joining_can_be_switched_off(queue: Queue, settings: Settings) -> None:
    settings.INGEST_DEDUPE_SECONDS = 0
    await admit_job(queue, payload_digest=b"photo")
    assert not (await queue.admit(new_job(payload_digest=b"photo"), 30)).joined


async def test_a_job_past_its_deadline_does_not_count_against_the_limit(queue: Queue, settings: Settings) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = 1
    await make_overdue(queue, await admit_job(queue))
    await admit_job(queue)


async def test_the_deadline_is_fixed_at_creation(queue: Queue) -> None:
    ticket = await queue.admit(new_job(), 17)
    job = await row(queue, ticket.job_id)
    assert (job["expires_at"] - job["created_at"]).total_seconds() == 17
    assert ticket.expires_at == job["expires_at"]
    assert 16 < ticket.seconds_left <= 17


@pytest.mark.parametrize("refused", ["full", "no such slot"])
async def test_a_refused_job_leaves_nothing(queue: Queue, settings: Settings, refused: str) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = 0 if refused == "full" else 12
    with pytest.raises((QueueFull, psycopg.errors.ForeignKeyViolation)):
        await queue.admit(replace(new_job(), slot_id="slot-001" if refused == "full" else "slot-999"), 30)
    assert await sql(queue, "SELECT id::text FROM jobs_job UNION ALL SELECT id::text FROM stats_processinglog") == []


async def test_an_admitted_job_stays_admitted_when_its_notification_fails(queue: Queue) -> None:
    """Otherwise ingest would remove the photo of a job that a worker is going to claim."""
    async with run_proxy() as proxy, open_queue_through(proxy) as broken:
        proxy.sever_at = (b"pg_notify",)
        ticket = await broken.admit(new_job(), 30)
        assert not proxy.sever_at  # the connection was severed
    assert [claim.id for claim in await queue.claim(["instant"], 1)] == [ticket.job_id]


async def test_an_unavailable_database_is_reported(queue: Queue) -> None:
    async with run_proxy() as proxy, open_queue_through(proxy) as away:
        await away.list_overdue()
        proxy.cut()
        with pytest.raises(DatabaseUnavailable):
            await away.admit(new_job(), 30)
        proxy.mend()
        assert await wait_until(lambda: is_back(away))
    assert await sql(queue, "SELECT id FROM jobs_job") == []


async def is_back(queue: Queue) -> bool:
    with suppress(DatabaseUnavailable):
        return await queue.list_overdue() == []
    return False
