"""Claiming: oldest first, each job once, never more than the limit; and the fencing of a worker's claim."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain

import pytest
from django.conf import settings

from jobs.queue.records import Claim, Failure
from jobs.queue.statements import CLAIM
from jobs.queue.verbs import Queue
from providers.base import Reason
from tests.conftest import open_queue
from tests.queue_helpers import (
    PICTURE,
    REPORT,
    admit_job,
    claim_job,
    end_lease,
    make_overdue,
    row,
    sql,
    steps,
    wait_for_blocked,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

WORKERS = 8
VALUES = {"providers": ["instant"], "limit": 1, "lease": "8 s", "window": 61}


async def test_oldest_first(queue: Queue) -> None:
    ids = [await admit_job(queue) for _ in range(5)]
    await sql(queue, "UPDATE jobs_job SET created_at = created_at - interval '1 s' WHERE id = %s", ids[3])
    first = await queue.claim(["instant"], 2)
    rest = await queue.claim(["instant"], 9)
    assert [claim.id for claim in first + rest] == [ids[3], ids[0], ids[1], ids[2], ids[4]]


async def test_only_the_given_providers(queue: Queue) -> None:
    await admit_job(queue, provider_id="studio")
    wanted = {await admit_job(queue, provider_id="queued"), await admit_job(queue)}
    assert {claim.id for claim in await queue.claim(["queued", "instant"], 9)} == wanted
    assert await queue.claim([], 9) == []


async def test_without_the_lock_two_workers_get_the_same_job(queue: Queue) -> None:
    await admit_job(queue)
    unguarded = CLAIM.replace("FOR UPDATE OF job SKIP LOCKED", "")
    assert unguarded != CLAIM
    async with queue.database.connection() as one, queue.database.connection() as two:
        async with one.transaction():
            mine = await (await one.execute(unguarded, VALUES)).fetchall()
            same = asyncio.create_task(two.execute(unguarded, VALUES))
            await wait_for_blocked(queue, 1)
        assert [job[0] for job in mine] == [job[0] for job in await (await same).fetchall()]


async def test_a_job_that_is_being_claimed_is_passed_over(queue: Queue) -> None:
    first, second = await admit_job(queue), await admit_job(queue)
    async with queue.database.connection() as connection, connection.transaction():
        mine = await (await connection.execute(CLAIM, VALUES)).fetchall()
        assert [job[0] for job in mine] == [first]
        assert [claim.id for claim in await queue.claim(["instant"], 9)] == [second]


async def test_many_at_once_get_each_job_once_and_never_more_than_their_limit(queue: Queue) -> None:
    waiting = {await admit_job(queue) for _ in range(12)}
    start = asyncio.Barrier(WORKERS)

    async def claim_all() -> list[list[Claim]]:
        got = []
        async with open_queue(connections=1) as own:
            await own.list_overdue()  # connects
            await start.wait()
            while claims := await own.claim(["instant"], 2):
                got.append(claims)
        return got

    batches = list(chain(*await asyncio.gather(*(claim_all() for _ in range(WORKERS)))))
    ids = [claim.id for batch in batches for claim in batch]
    assert all(len(batch) <= 2 for batch in batches)
    assert len(ids) == len(set(ids))
    assert set(ids) <= waiting
    # A worker that found nothing may only have met others' locks; now no lock is held.
    assert set(ids) | {claim.id for claim in await queue.claim(["instant"], 12)} == waiting


async def test_a_job_past_its_deadline_is_never_claimed(queue: Queue) -> None:
    await make_overdue(queue, await admit_job(queue))
    claim = await claim_job(queue)
    await end_lease(queue, claim.id)
    await make_overdue(queue, claim.id)
    assert await queue.claim(["instant"], 9) == []


async def test_a_claim_is_a_lease(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "LEASE_SECONDS", 20)
    claim = await claim_job(queue)
    job = await row(queue, claim.id)
    assert job["claim_token"] == claim.token
    assert (
        settings.LEASE_SECONDS - 1
        < (job["lease_expires_at"] - job["claimed_at"]).total_seconds()
        < settings.LEASE_SECONDS + 1
    )
    assert await queue.claim(["instant"], 9) == []


async def test_a_job_whose_lease_ran_out_is_claimed_again(queue: Queue) -> None:
    first = await claim_job(queue)
    await queue.store_provider_reference(first, "q-7")
    await end_lease(queue, first.id)
    (second,) = await queue.claim(["instant"], 9)
    assert (second.id, second.claims, second.provider_job_reference) == (first.id, 2, "q-7")
    assert second.token != first.token
    assert second.expires_at == first.expires_at
    assert await steps(queue, first.id) == ["received", "dispatched", "dispatched"]


async def test_a_heartbeat_keeps_the_lease(queue: Queue) -> None:
    claim = await claim_job(queue)
    await end_lease(queue, claim.id)
    assert await queue.extend([claim]) == {claim.id}
    assert await queue.claim(["instant"], 9) == []


ZOMBIE_ACTIONS: dict[str, Callable[[Queue, Claim], Awaitable[object]]] = {
    "finalize with a picture": lambda queue, claim: queue.finalize(claim, PICTURE, REPORT),
    "finalize with a failure": lambda queue, claim: queue.finalize(claim, Failure(Reason.AUTH, "no"), REPORT),
    "extend": lambda queue, claim: queue.extend([claim]),
    "refer": lambda queue, claim: queue.store_provider_reference(claim, "mine"),
    "release": lambda queue, claim: queue.release([claim]),
}


@pytest.mark.parametrize("action", ZOMBIE_ACTIONS)
async def test_a_worker_that_lost_its_job_changes_nothing(queue: Queue, action: str) -> None:
    zombie = await claim_job(queue)
    await end_lease(queue, zombie.id)
    (owner,) = await queue.claim(["instant"], 1)
    before = await row(queue, owner.id)
    assert not await ZOMBIE_ACTIONS[action](queue, zombie)
    assert await row(queue, owner.id) == before
    assert await queue.finalize(owner, PICTURE, REPORT)
