"""The database becomes unavailable and comes back: booths are refused at once, and the service recovers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import httpx
import psycopg
import pytest
from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper

from core.database import DatabaseUnavailable, connection_kwargs
from ingest.wait import wait_for_end
from jobs.models import Job
from jobs.queue.notify import Waiters
from jobs.queue.records import Ticket
from jobs.queue.verbs import Queue
from tests.conftest import Booth, in_background, jpeg, open_queue, stored_files, use_sandbox
from tests.ingest.helpers import eventually, form, new_job, refusal
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.contract


def close_own_connections() -> None:
    """Those of this process: they would be dead afterwards."""
    connection.close()
    cast(DatabaseWrapper, connection).close_pool()


@contextmanager
def database_away() -> Iterator[None]:
    """For all connections but this one, which is to another database of the same server."""
    kwargs = connection_kwargs()
    name = kwargs["dbname"]
    with psycopg.connect(**kwargs | {"dbname": "postgres"}, autocommit=True) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            yield
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def post(booth: Booth, slot: str = "slot-001") -> httpx.Response:
    return httpx.post(f"{booth.url}/ingest/{slot}", timeout=4, **form(jpeg()))


@pytest.fixture(autouse=True)
def check_recovery(booth: Booth) -> Iterator[None]:
    """Whatever a test did to it, the service takes photos again, by itself."""
    yield
    assert eventually(lambda: post(booth, "slot-002").status_code == 200)


def test_a_booth_is_refused_at_once_and_may_retry(booth: Booth) -> None:
    use_sandbox("instant")
    close_own_connections()
    with database_away():
        for _ in range(3):
            reply = post(booth)
            refusal(reply, 503, "queue_unavailable")
            assert int(reply.headers["Retry-After"]) > 0
        assert stored_files() == []
    assert eventually(lambda: post(booth).status_code == 200)


@pytest.mark.parametrize("made", ["after", "while it is away"])
def test_a_booth_that_waits_meanwhile_gets_its_picture(booth: Booth, sandbox: Sandbox, made: str) -> None:
    use_sandbox("instant", "hold")
    reply = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1)
    close_own_connections()
    with database_away():
        refusal(post(booth), 503, "queue_unavailable")
        if made == "while it is away":
            sandbox.let_go()
            refusal(post(booth), 503, "queue_unavailable")
    sandbox.let_go()
    assert reply().body == developed(jpeg())
    assert len(sandbox.journal) == 1
    assert Job.objects.get().failure_reason is None


def test_who_looks_while_it_is_away_goes_on_waiting() -> None:
    close_own_connections()
    asyncio.run(look_while_it_is_away())


async def look_while_it_is_away() -> None:
    async with open_queue() as queue:
        waiters = Waiters(queue)
        ticket = await queue.admit(new_job(), 30)
        waiting = asyncio.create_task(wait_for_end(queue, waiters, ticket))
        await asyncio.sleep(0)
        with database_away():
            waiters.wake_all()
            for _ in range(3):
                with pytest.raises(DatabaseUnavailable):
                    await queue.get_outcome(ticket.job_id)
            assert not waiting.done()
        while not await try_to_cancel(queue, ticket):
            pass
        waiters.wake_all()
        assert (await waiting).failure_reason == "cancelled"


async def try_to_cancel(queue: Queue, ticket: Ticket) -> bool:
    """Whether it succeeded; the first attempts may meet dead connections."""
    try:
        return await queue.cancel(ticket.job_id, "serg") is not None
    except DatabaseUnavailable:
        return False


def test_staff_are_served_again_at_the_first_attempt(web: httpx.Client) -> None:
    login = {"username": "nobody", "password": "x"}
    assert web.post("/api/login", json=login).status_code == 401
    close_own_connections()
    with database_away():
        pass
    assert web.post("/api/login", json=login).status_code == 401
