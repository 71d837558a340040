"""LISTEN goes silent while its connection stays open, and notifications that are none."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from psycopg.conninfo import make_conninfo
from pytest_django import Settings

from core.database import connection_kwargs
from jobs.queue import notify
from jobs.queue.notify import Listener
from jobs.queue.verbs import DONE_CHANNEL, Queue
from tests.faults.guards import with_and_without
from tests.faults.unguarded import remove
from tests.queue_helpers import run_proxy, sql, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

PROBE_SECONDS = 0.3


@with_and_without("listener's probe")
async def test_a_silent_listener_knows_that_it_is(
    queue: Queue, settings: Settings, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    monkeypatch.setattr(notify, "PROBE_SECONDS", PROBE_SECONDS)
    monkeypatch.setattr(notify, "RECONNECT_SECONDS", 0.05)
    if without:
        remove(without, monkeypatch.setattr)
    async with run_proxy() as proxy:
        address = connection_kwargs() | {"host": "127.0.0.1", "port": proxy.port}
        address.pop("prepare_threshold", None)
        settings.DATABASE_LISTEN_URL = make_conninfo(**address)
        listener = Listener({}, lambda: None)

        async def is_listening() -> bool:
            return listener.is_connected

        async def is_deaf() -> bool:
            return not listener.is_connected

        task = asyncio.create_task(listener.run())
        try:
            await wait_until(is_listening)
            proxy.is_mute = True
            if without:
                await asyncio.sleep(5 * PROBE_SECONDS)
                assert listener.is_connected  # the damage: it says so, and hears nothing
            else:
                await wait_until(is_deaf)
                proxy.is_mute = False
                await wait_until(is_listening)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@with_and_without("stray notifications")
async def test_a_stray_notification_ends_no_listener(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    if without:
        remove(without, monkeypatch.setattr)
    listening, has_heard = asyncio.Event(), asyncio.Event()

    def on_done(payload: str) -> None:
        notify.parse_job_id(payload)
        has_heard.set()

    task = asyncio.create_task(Listener({DONE_CHANNEL: on_done}, listening.set).run())
    async with asyncio.timeout(20):
        await listening.wait()
        await sql(queue, "SELECT pg_notify(%s, %s)", DONE_CHANNEL, "x")
        if without:
            with pytest.raises(ValueError, match="badly formed"):
                await task  # a side task that fails ends its process
            return
        await has_heard.wait()
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
