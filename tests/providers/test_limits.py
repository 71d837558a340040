"""An account's limits hold exactly with any number of workers, and do not delay photos for other providers."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from core.database import in_thread
from jobs.models import Process
from jobs.queue import statements, verbs
from jobs.queue.verbs import CLAIM_LOCK, Queue
from providers import limits
from providers.base import PermanentError, Reason
from providers.limits import WINDOW_SECONDS
from providers.models import ProviderAccount, ProviderCall
from tests.booth_client import Reply
from tests.conftest import Booth, Processes, jpeg, set_slot
from tests.photoslot.waiting import until
from tests.providers.account_factories import (
    begin_call,
    build_call,
    create_account,
    create_claim,
    create_past_calls,
    use_gemini,
)
from tests.queue_helpers import admit_job, sql, wait_for_blocked
from tests.sandbox.wire import WireSandbox

pytest_plugins = "tests.providers.accounts_fixtures"
pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]


def midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


# One call at a time: may it be made?


async def create_account_with_calls(count: int, seconds_ago: float, **limit: Any) -> None:
    def create() -> None:
        create_account(**limit)
        create_past_calls(count, seconds_ago)

    await in_thread(create)


async def test_a_minutes_last_call_may_be_made_and_the_next_waits_for_the_first_to_be_a_minute_ago(
    queue: Queue,
) -> None:
    await create_account_with_calls(2, 20, per_minute=3)
    assert (await begin_call(queue)).call_id is not None
    refused = await begin_call(queue)
    assert refused.call_id is None
    assert refused.wait_seconds == pytest.approx(WINDOW_SECONDS - 20, abs=1)


@pytest.mark.parametrize(("seconds_ago", "may"), [(WINDOW_SECONDS - 1, False), (WINDOW_SECONDS + 1, True)])
async def test_a_minute_has_a_second_more_for_what_is_under_way(queue: Queue, seconds_ago: float, may: bool) -> None:
    await create_account_with_calls(3, seconds_ago, per_minute=3)
    assert ((await begin_call(queue)).call_id is not None) is may


async def test_a_days_limit_ends_at_midnight_utc(queue: Queue) -> None:
    since_midnight = (timezone.now() - midnight()).total_seconds()
    await create_account_with_calls(5, since_midnight + 1, per_day=2)
    await begin_call(queue)
    await begin_call(queue)
    with pytest.raises(PermanentError, match="limit of calls a day") as refused:
        await begin_call(queue)
    assert refused.value.reason == Reason.QUOTA
    await in_thread(lambda: ProviderCall.objects.update(at=midnight() - timedelta(seconds=1)))
    assert (await begin_call(queue)).call_id is not None


async def test_the_calls_of_others_do_not_count(queue: Queue) -> None:
    await create_account_with_calls(0, 0, per_minute=1, per_day=1)
    await in_thread(lambda: create_past_calls(5, 1, provider_id="openai"))
    assert (await begin_call(queue)).call_id is not None


async def test_an_account_that_is_off_makes_no_call(queue: Queue) -> None:
    await in_thread(lambda: create_account(is_enabled=False))
    with pytest.raises(PermanentError, match="switched off"):
        await begin_call(queue)


# Two at the same moment: first that the race is there, then that the lock stops it.


async def wait_until_done_or_blocked(queue: Queue, task: asyncio.Task[Any]) -> None:
    """Returns once the task is done or waits for a lock."""
    waits = asyncio.create_task(wait_for_blocked(queue, 1))
    await asyncio.wait([task, waits], return_when=asyncio.FIRST_COMPLETED)
    waits.cancel()


async def count_calls_of_two(queue: Queue) -> int:
    """The second call begins while the first's transaction is still open."""
    claim = await create_claim(queue)
    async with queue.database.connection() as connection, connection.transaction():
        first = await verbs.begin_call(connection, claim, build_call())
        second = asyncio.create_task(begin_call(queue))
        await wait_until_done_or_blocked(queue, second)
    return sum(permit.call_id is not None for permit in (first, await second))


@pytest.mark.parametrize(("lock", "calls"), [("", 2), ("FOR UPDATE", 1)], ids=["without the lock", "with it"])
async def test_the_minutes_last_call(queue: Queue, monkeypatch: pytest.MonkeyPatch, lock: str, calls: int) -> None:
    monkeypatch.setattr(limits, "LOCK_ACCOUNT", limits.LOCK_ACCOUNT.replace("FOR UPDATE", lock))
    await create_account_with_calls(2, 20, per_minute=3)
    assert await count_calls_of_two(queue) == calls


async def count_claims_of_two(queue: Queue) -> int:
    """As above, for the claims of two workers. Meanwhile older jobs come back, so that not the same rows are next."""
    values = {
        "providers": ["gemini"],
        "limit": 4,
        "lease": timedelta(seconds=settings.LEASE_SECONDS),
        "window": WINDOW_SECONDS,
    }
    async with queue.database.connection() as connection, connection.transaction():
        await connection.execute(statements.LOCK_CLAIMS, (CLAIM_LOCK,))
        first = await (await connection.execute(statements.CLAIM, values)).fetchall()
        taken = [row[0] for row in first]
        await sql(queue, "UPDATE jobs_job SET created_at = created_at - interval '1 h' WHERE id <> ALL(%s)", taken)
        second = asyncio.create_task(queue.claim(["gemini"], 4))
        await wait_until_done_or_blocked(queue, second)
    return len(first) + len(await second)


@pytest.mark.parametrize(("turn", "claims"), [(False, 4), (True, 2)], ids=["without turns", "with turns"])
async def test_the_last_permits_at_once(queue: Queue, monkeypatch: pytest.MonkeyPatch, turn: bool, claims: int) -> None:
    if not turn:
        monkeypatch.setattr(statements, "LOCK_CLAIMS", "SELECT %s::bigint")
    await create_account_with_calls(0, 0, max_concurrent=2)
    for _ in range(6):
        await admit_job(queue, provider_id="gemini")
    assert await count_claims_of_two(queue) == claims


async def test_a_slot_at_its_limit_leaves_its_providers_capacity_to_other_slots(queue: Queue) -> None:
    await create_account_with_calls(0, 0, max_concurrent=3)
    for _ in range(4):
        await admit_job(queue, provider_id="gemini", settings_json={"max_concurrent": 1})
    other = await admit_job(queue, provider_id="gemini", slot_id="slot-002")
    first = await queue.claim(["gemini"], 1)
    assert [claim.slot_id for claim in first] == ["slot-001"]
    assert [claim.id for claim in await queue.claim(["gemini"], 4)] == [other]


# The whole service, two workers.


def count_most_in_a_minute(moments: list[float]) -> int:
    return max(sum(first <= other < first + 60 for other in moments) for first in moments)


def moments(wires: WireSandbox, earlier: list[float]) -> list[float]:
    """When calls reached the provider, those of before the test included."""
    offset = time.time() - time.monotonic()
    return earlier + [call.at + offset for call in wires.calls("gemini")]


def are_all_served(replies: list[Future[Reply]]) -> bool:
    refusals = [reply.result().body for reply in replies if reply.result().status != 200]
    assert refusals == []
    return True


class Party:
    """Twelve booths on a slow Gemini slot, with 24 calls made in the last minute; a thirteenth on a studio slot."""

    def __init__(self, processes: Processes, wires: WireSandbox, **limit: Any) -> None:
        self.wires = wires
        create_account(wires.url, **limit)
        use_gemini("[[hold]]")
        Process.objects.all().delete()  # the rows of processes that other tests have killed
        set_slot("slot-002", provider_id="studio", operation_id="image_edit", settings_json={"look": "noir"})
        self.booth = Booth(processes.url)
        processes.web(QUEUE_MAX_IN_FLIGHT_JOBS="40")
        names = [f" {processes.worker().pid}" for _ in range(2)]
        until(lambda: all(Process.objects.filter(name__endswith=name).exists() for name in names))
        for number in range(24):
            create_past_calls(1, 53 + number / 4)
        self.earlier = [at.timestamp() for at in ProviderCall.objects.values_list("at", flat=True)]

    def arrive(self, booths: ThreadPoolExecutor) -> list[Future[Reply]]:
        return [booths.submit(self.booth.post, jpeg(320 + number)) for number in range(12)]


def test_without_limits_two_workers_make_as_many_calls_as_they_have_permits(
    processes: Processes, database: None, wires: WireSandbox
) -> None:
    party = Party(processes, wires)
    with ThreadPoolExecutor(12) as booths:
        replies = party.arrive(booths)
        wires.wait_for(lambda: len(wires.calls("gemini")) == 8)
        wires.let_go()
    assert are_all_served(replies)
    assert wires.most_open["gemini"] == 8
    assert count_most_in_a_minute(moments(wires, party.earlier)) > 30


def test_limits_of_3_at_once_and_30_a_minute_are_never_broken_and_the_studio_goes_on(
    processes: Processes, database: None, wires: WireSandbox
) -> None:
    party = Party(processes, wires, max_concurrent=3, per_minute=30)
    with ThreadPoolExecutor(12) as booths:
        replies = party.arrive(booths)
        wires.wait_for(lambda: len(wires.calls("gemini")) == 3)
        assert party.booth.post(jpeg(), "slot-002").status == 200  # claimed after the others were looked at
        assert len(wires.calls("gemini")) == 3
        wires.let_go()
    assert are_all_served(replies)
    assert wires.most_open["gemini"] == 3
    assert count_most_in_a_minute(moments(wires, party.earlier)) <= 30


def test_a_photo_that_waits_for_its_minute_frees_its_worker_for_the_studio(
    processes: Processes, database: None, wires: WireSandbox
) -> None:
    """It is claimed already: its first attempt failed, and the second is over the limit for 4 seconds."""
    create_account(wires.url, per_minute=2)
    use_gemini()
    set_slot("slot-002", provider_id="studio", operation_id="image_edit", settings_json={"look": "noir"})
    wires.speakers["gemini"].play("overloaded")
    booth = Booth(processes.url)
    processes.web()
    processes.worker("--concurrency", "1", PROVIDER_RETRY_PAUSE_SECONDS="0")
    create_past_calls(1, WINDOW_SECONDS - 4)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(booth.post, jpeg())
        wires.wait_for(lambda: len(wires.calls("gemini")) == 1)
        assert booth.post(jpeg(), "slot-002").status == 200
        assert not reply.done()
    assert reply.result().status == 200
    assert len(wires.calls("gemini")) == 2


def test_a_photo_that_can_only_be_too_late_is_refused_at_once(
    processes: Processes, database: None, wires: WireSandbox
) -> None:
    create_account(wires.url, per_minute=1)
    use_gemini()
    wires.speakers["gemini"].play("overloaded")
    processes.web()
    processes.worker(PROVIDER_RETRY_PAUSE_SECONDS="0")
    reply = Booth(processes.url).post(jpeg())
    assert (reply.status, b'"quota"' in reply.body) == (502, True)
    assert ProviderAccount.objects.get().open_until is None
