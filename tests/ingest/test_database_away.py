"""The database goes away and comes back: booths are told at once, and the service recovers by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import httpx
import psycopg
import pytest
from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper

from jobs.models import Job
from photoslot.database import connection_kwargs
from tests.conftest import Booth, in_background, jpeg, stored_files, use_sandbox
from tests.ingest.helpers import eventually, form, refusal
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.contract


@contextmanager
def database_away() -> Iterator[None]:
    """For everybody but this test's connection, which is to another database of the same server."""
    kwargs = connection_kwargs()
    name = kwargs["dbname"]
    connection.close()
    cast(DatabaseWrapper, connection).close_pool()  # its connections would be dead afterwards
    with psycopg.connect(**kwargs | {"dbname": "postgres"}, autocommit=True) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            yield
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def post(booth: Booth) -> httpx.Response:
    return httpx.post(f"{booth.url}/ingest/slot-001", timeout=4, **form(jpeg()))


def test_a_booth_is_told_at_once_and_may_come_again(booth: Booth) -> None:
    use_sandbox("instant")
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
    with database_away():
        refusal(post(booth), 503, "queue_unavailable")
        if made == "while it is away":
            sandbox.let_go()
            refusal(post(booth), 503, "queue_unavailable")
    sandbox.let_go()
    assert reply().body == developed(jpeg())
    assert len(sandbox.journal) == 1
    assert Job.objects.get().failure_reason is None
