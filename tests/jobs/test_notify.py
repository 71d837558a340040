"""Waking: by LISTEN at once, by polling when notifications are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from psycopg.conninfo import make_conninfo
from pytest_django import Settings

from core.database import connection_kwargs
from jobs.queue import notify
from jobs.queue.notify import Listener, Waiters
from jobs.queue.verbs import DONE_CHANNEL, Queue
from tests.conftest import Booth as PhotoBooth
from tests.conftest import Processes, jpeg, use_sandbox
from tests.queue_helpers import (
    PATIENCE_SECONDS,
    PICTURE,
    REPORT,
    claim_job,
    post_job,
    row,
    run_proxy,
    sql,
    wait_for_end,
    wait_until,
)
from tests.settings import LOGS

pytestmark = pytest.mark.integration

TEST_CHANNEL = "only_in_this_test"  # a channel by which the test finds its own connection


class Subscriber:
    """A listener and the waiters it wakes."""

    def __init__(self, queue: Queue) -> None:
        self.waiters = Waiters(queue)
        self.connected = asyncio.Event()
        self.listener = Listener(
            {DONE_CHANNEL: self.waiters.wake, TEST_CHANNEL: lambda payload: None},
            self._on_connect,
        )

    def _on_connect(self) -> None:
        self.connected.set()
        self.waiters.wake_all()


@asynccontextmanager
async def run_tasks(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def listen(queue: Queue) -> AsyncIterator[Subscriber]:
    """Without polling."""
    subscriber = Subscriber(queue)
    async with run_tasks(asyncio.create_task(subscriber.listener.run())):
        await wait_for(subscriber.connected)
        subscriber.connected.clear()
        yield subscriber


async def wait_for(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await event.wait()


@pytest.mark.usefixtures("alone")
async def test_whoever_waits_for_a_job_is_woken_by_its_end(queue: Queue) -> None:
    claim, other = await claim_job(queue), uuid4()
    async with listen(queue) as subscriber:
        waiters = subscriber.waiters
        with waiters.wait_for(claim.id) as one, waiters.wait_for(claim.id) as two, waiters.wait_for(other) as unrelated:
            await queue.finalize(claim, PICTURE, REPORT)
            await wait_for(one)
            assert two.is_set()
            assert not unrelated.is_set()
        assert not waiters._events


@pytest.mark.usefixtures("alone")
async def test_one_of_two_may_stop_waiting_before_the_end(queue: Queue) -> None:
    claim = await claim_job(queue)
    async with listen(queue) as subscriber:
        with subscriber.waiters.wait_for(claim.id) as remaining:
            with subscriber.waiters.wait_for(claim.id):
                pass
            await queue.cancel(claim.id, "igor")
            await wait_for(remaining)


@pytest.mark.usefixtures("alone")
async def test_with_listening_off_polling_wakes(queue: Queue, settings: Settings) -> None:
    settings.DATABASE_LISTEN_URL = "off"
    claim, other, subscriber = await claim_job(queue), uuid4(), Subscriber(queue)
    await subscriber.listener.run()  # ends at once
    async with run_tasks(asyncio.create_task(subscriber.waiters.poll())):
        with subscriber.waiters.wait_for(claim.id) as event, subscriber.waiters.wait_for(other) as unrelated:
            await queue.finalize(claim, PICTURE, REPORT)
            await wait_for(event)
            assert not unrelated.is_set()
    assert not subscriber.listener.is_connected


@pytest.mark.usefixtures("alone")
async def test_a_broken_connection_is_opened_again_and_the_state_read(queue: Queue) -> None:
    claim = await claim_job(queue)
    async with listen(queue) as subscriber:
        assert subscriber.listener.is_connected
        with subscriber.waiters.wait_for(uuid4()) as waiter:
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s"
            assert await sql(queue, kill, f'LISTEN "{TEST_CHANNEL}"')
            await wait_for(subscriber.connected)
            assert waiter.is_set()  # a waiter reads the state: its notification may have been lost meanwhile
        with subscriber.waiters.wait_for(claim.id) as event:
            await queue.finalize(claim, PICTURE, REPORT)
            await wait_for(event)


def make_listen_url(**changes: Any) -> str:
    """For LISTEN on a connection of its own, by the host, port or database that are given."""
    return make_conninfo(**{k: v for k, v in (connection_kwargs() | changes).items() if k != "prepare_threshold"})


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(notify, "RECONNECT_SECONDS", 0.05)


@pytest.mark.usefixtures("alone", "quick_probes")
async def test_a_listener_that_hears_nothing_says_so_once(
    queue: Queue, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Its LISTEN succeeds and hears nothing, as through PgBouncer in transaction mode: notifications stay within their
    database, and it listens in another."""
    settings.DATABASE_LISTEN_URL = make_listen_url(dbname="postgres")
    subscriber, sessions = Subscriber(queue), set[int]()

    async def count_sessions() -> bool:
        found = await sql(
            queue, "SELECT pid FROM pg_stat_activity WHERE datname = 'postgres' AND query LIKE 'LISTEN%%'"
        )
        sessions.update(session["pid"] for session in found)
        return len(sessions) == 3

    async with run_tasks(asyncio.create_task(subscriber.listener.run())):
        await wait_until(count_sessions)
        assert not subscriber.listener.is_connected
        assert not subscriber.connected.is_set()
    assert caplog.text.count("LISTEN does not work") == 1


@pytest.mark.usefixtures("alone", "quick_probes")
async def test_a_listener_whose_connection_is_silent_listens_again(queue: Queue, settings: Settings) -> None:
    claim = await claim_job(queue)
    async with run_proxy() as proxy:
        settings.DATABASE_LISTEN_URL = make_listen_url(host="127.0.0.1", port=proxy.port)
        async with listen(queue) as subscriber:
            assert subscriber.listener.is_connected
            proxy.freeze()
            await wait_until(lambda: is_lost(subscriber.listener))
            proxy.thaw()
            await wait_for(subscriber.connected)
            with subscriber.waiters.wait_for(claim.id) as event:
                await queue.finalize(claim, PICTURE, REPORT)
                await wait_for(event)


async def is_lost(listener: Listener) -> bool:
    return not listener.is_connected


@pytest.mark.e2e
def test_a_stray_notification_is_logged_and_ignored(processes: Processes) -> None:
    processes.web()
    worker = processes.worker()
    use_sandbox("instant")
    booth = PhotoBooth(processes.url)
    assert booth.post(jpeg()).status == 200
    with connection.cursor() as cursor:
        for payload in ("x", "", "00000000-0000-0000-0000-00000000000", "\u2603" * 2000):
            cursor.execute("SELECT pg_notify(%s, %s)", (DONE_CHANNEL, payload))
    assert booth.post(jpeg(colour="red")).status == 200
    assert [process.poll() for process in (processes.started[0], worker)] == [None, None]
    for process in (processes.started[0], worker):
        log = (LOGS / f"{process.pid}.log").read_text()
        assert log.count("A notification that names no job is ignored") == 4


@pytest.mark.e2e
@pytest.mark.usefixtures("service")
async def test_an_idle_worker_claims_a_job_long_before_it_would_poll(queue: Queue) -> None:
    await wait_for_end(queue, await post_job(queue))  # the worker has started
    waits = []
    for _ in range(5):
        job_id = await post_job(queue)
        await wait_for_end(queue, job_id)
        job = await row(queue, job_id)
        waits.append((job["claimed_at"] - job["created_at"]).total_seconds())
    assert sorted(waits)[2] < 0.1, waits  # polling: half a second on average


@pytest.mark.e2e
def test_without_any_notification_the_booth_gets_its_picture(processes: Processes) -> None:
    processes.web(DATABASE_LISTEN_URL="off")
    processes.worker(DATABASE_LISTEN_URL="off")
    use_sandbox("instant")
    assert PhotoBooth(processes.url).post(jpeg()).status == 200
