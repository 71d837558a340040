"""A fallback: another worker continues it, and it respects the concurrency limit of its provider."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.database import in_thread
from jobs.queue.verbs import Queue
from providers.limits import NewCall
from providers.models import ProviderAccount
from tests.conftest import Processes
from tests.queue_helpers import claim_job, end_lease, post_job, row, sql, wait_for_end
from tests.sandbox.server import Sandbox

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]


def make_fallback_changes(scenario: str) -> dict[str, Any]:
    """Settings that fall back to the provider with a queue, because the first refuses."""
    fallback = {"provider_id": "queued", "operation_id": "image_edit", "settings_json": {"scenario": scenario}}
    return {"settings_json": {"scenario": "refuses", "fallback": fallback}}


async def test_another_worker_polls_what_the_fallback_has_started(
    queue: Queue, processes: Processes, sandbox: Sandbox
) -> None:
    first = processes.worker()
    job_id = await post_job(queue, changes=make_fallback_changes("hold"))
    await asyncio.to_thread(sandbox.wait_for_calls, 1, "GET")
    first.kill()
    await end_lease(queue, job_id)
    processes.worker()
    await asyncio.to_thread(sandbox.wait_for_calls, 2, "GET")
    sandbox.let_go()
    assert (await wait_for_end(queue, job_id)).used_fallback
    assert [call.path for call in sandbox.journal if call.method == "POST"] == ["/instant", "/queue"]
    calls = await sql(queue, "SELECT provider_id, is_fallback, outcome FROM providers_providercall ORDER BY id")
    assert [tuple(call.values()) for call in calls] == [("instant", False, "refused"), ("queued", True, "made")]
    assert (await row(queue, job_id))["claims"] == 2


def limit_fallback_provider() -> None:
    ProviderAccount.objects.create(provider_id="queued", max_concurrent=1)


def make_fallback_call() -> NewCall:
    return NewCall("queued", "slot-001", is_fallback=True, daily_budget=None)


async def test_a_fallback_call_waits_for_capacity_and_counts_for_others(queue: Queue) -> None:
    await in_thread(limit_fallback_provider)
    one, two = await claim_job(queue), await claim_job(queue)
    first = await queue.begin_call(one, make_fallback_call())
    assert first.call_id is not None
    assert (await queue.begin_call(two, make_fallback_call())).call_id is None
    third = await post_job(queue, "queued")
    assert await queue.claim(["queued"], 1) == []
    await queue.release([one])
    await sql(queue, "UPDATE providers_providercall SET ended_at = now(), outcome = 'made'")
    assert [claim.id for claim in await queue.claim(["queued"], 1)] == [third]
    assert (await queue.begin_call(two, make_fallback_call())).call_id is None


async def test_of_concurrent_fallback_calls_one_gets_the_last_permit(queue: Queue) -> None:
    await in_thread(limit_fallback_provider)
    claims = [await claim_job(queue) for _ in range(4)]
    permits = await asyncio.gather(*(queue.begin_call(claim, make_fallback_call()) for claim in claims))
    assert sum(permit.call_id is not None for permit in permits) == 1
