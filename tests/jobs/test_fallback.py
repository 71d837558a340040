"""A fallback's turn: another worker goes on with it, and it takes no place at its provider that is not there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.database import in_thread
from jobs.queue.verbs import Queue
from providers.limits import NewCall
from providers.models import ProviderAccount
from tests.conftest import Processes
from tests.queue_helpers import claimed, end_lease, ended, posted, row, sql
from tests.sandbox.server import Sandbox

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]


def falling_back(scenario: str) -> dict[str, Any]:
    """To the provider with a queue, since the first refuses."""
    instead = {"provider_id": "queued", "operation_id": "image_edit", "settings_json": {"scenario": scenario}}
    return {"settings_json": {"scenario": "refuses", "fallback": instead}}


async def test_another_worker_goes_on_with_what_the_fallback_has_ordered(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    first = processes.worker()
    job_id = await posted(queue, recipe=falling_back("hold"))
    await asyncio.to_thread(sandbox.wait_for_calls, 1, "GET")
    first.kill()
    await end_lease(queue, job_id)
    processes.worker()
    await asyncio.to_thread(sandbox.wait_for_calls, 2, "GET")
    sandbox.let_go()
    assert (await ended(queue, job_id)).used_fallback
    assert [call.path for call in sandbox.journal if call.method == "POST"] == ["/instant", "/queue"]
    calls = await sql(queue, "SELECT provider_id, is_fallback, outcome FROM providers_providercall ORDER BY id")
    assert [tuple(call.values()) for call in calls] == [("instant", False, "refused"), ("queued", True, "made")]
    assert (await row(queue, job_id))["claims"] == 2


def limit_queued() -> None:
    ProviderAccount.objects.create(provider_id="queued", max_concurrent=1)


def guest(job_id: Any) -> NewCall:
    return NewCall("queued", "slot-001", job_id, is_fallback=True, daily_budget=None)


async def test_a_guests_call_waits_for_a_place_and_counts_for_others(queue: Queue) -> None:
    await in_thread(limit_queued)
    one, two = await claimed(queue), await claimed(queue)
    first = await queue.begin_call(one, guest(one.id))
    assert first.call_id is not None
    assert (await queue.begin_call(two, guest(two.id))).call_id is None
    third = await posted(queue, "queued")
    assert await queue.claim(["queued"], 1) == []
    await queue.release([one])
    await sql(queue, "UPDATE providers_providercall SET ended_at = now(), outcome = 'made'")
    assert [claim.id for claim in await queue.claim(["queued"], 1)] == [third]
    assert (await queue.begin_call(two, guest(two.id))).call_id is None


async def test_two_guests_at_once_do_not_both_get_the_last_place(queue: Queue) -> None:
    await in_thread(limit_queued)
    claims = [await claimed(queue) for _ in range(4)]
    permits = await asyncio.gather(*(queue.begin_call(claim, guest(claim.id)) for claim in claims))
    assert sum(permit.call_id is not None for permit in permits) == 1
