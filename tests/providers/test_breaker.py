"""The circuit breaker: a failing provider is not called, and its booths are refused at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from typing import Any

import httpx
import pytest
from django.db.models.functions import Now
from django.utils import timezone

from core.database import in_thread
from jobs.queue import verbs
from jobs.queue.records import CallPermit
from jobs.queue.verbs import Queue
from providers import limits
from providers.base import PermanentError, Reason
from providers.limits import BREAKER, PROBE_SECONDS, CallEnding
from providers.models import ProviderAccount
from tests.conftest import Booth, Processes, jpeg
from tests.ingest.helpers import refusal
from tests.providers.account_factories import (
    Outcome,
    begin_call,
    build_call,
    create_account,
    create_claim,
    fail,
    pass_time,
    start_call,
    use_gemini,
)
from tests.queue_helpers import sql, wait_for_blocked
from tests.sandbox.wire import WireSandbox

pytest_plugins = "tests.providers.accounts_fixtures"
pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

EACH = [(reason, most, get_open_seconds) for reason, (most, get_open_seconds) in BREAKER.items()]
NOTHING = [(Outcome.AMBIGUOUS, Reason.SLOW), (Outcome.LATE, None), (Outcome.CANCELLED, None), (Outcome.FAILED, "slow")]


@pytest.fixture
async def gemini(queue: Queue) -> None:
    await in_thread(create_account)


async def get_open_seconds(queue: Queue) -> float | None:
    """The seconds, rounded, for which the breaker stays open; None if it is closed."""
    statement = "SELECT extract(epoch FROM open_until - clock_timestamp())::float8 AS s FROM providers_provideraccount"
    (row,) = await sql(queue, statement)
    return None if row["s"] is None else round(row["s"])


async def make_half_open(queue: Queue, reason: Reason = Reason.AUTH) -> None:
    """Opens the breaker and lets its time pass."""
    await fail(queue, reason, BREAKER[reason][0])
    await pass_time(queue, BREAKER[reason][1])


async def get_refusal(queue: Queue) -> Reason:
    with pytest.raises(PermanentError, match="several times in a row") as refused:
        await begin_call(queue)
    return refused.value.reason


@pytest.mark.usefixtures("gemini")
@pytest.mark.parametrize(("reason", "most", "seconds"), EACH)
async def test_it_opens_at_the_last_of_so_many_failures(queue: Queue, reason: Reason, most: int, seconds: int) -> None:
    await fail(queue, reason, most - 1)
    assert await get_open_seconds(queue) is None
    await fail(queue, reason)
    assert await get_open_seconds(queue) == seconds
    assert await get_refusal(queue) == reason


@pytest.mark.usefixtures("gemini")
@pytest.mark.parametrize(
    "answer",
    [
        CallEnding(Outcome.MADE),
        CallEnding(Outcome.REFUSED, Reason.REFUSED),
        *(
            CallEnding(Outcome.FAILED, Reason(word))
            for word in ("no_image", "bad_photo", "bad_template", "bad_settings")
        ),
    ],
)
async def test_an_answer_of_whatever_kind_ends_the_row_of_failures(queue: Queue, answer: CallEnding) -> None:
    await fail(queue, Reason.OVERLOADED, 4)
    await queue.end_call(await start_call(queue), answer)
    await fail(queue, Reason.OVERLOADED, 4)
    assert await get_open_seconds(queue) is None


@pytest.mark.usefixtures("gemini")
@pytest.mark.parametrize(("outcome", "reason"), NOTHING)
async def test_a_cancelled_or_lost_call_does_not_count(queue: Queue, outcome: Any, reason: Any) -> None:
    await fail(queue, Reason.OVERLOADED, 4)
    for _ in range(9):
        await queue.end_call(await start_call(queue), CallEnding(outcome, reason and Reason(reason)))
    assert await get_open_seconds(queue) is None
    await fail(queue, Reason.OVERLOADED)
    assert await get_open_seconds(queue) == 30


@pytest.mark.usefixtures("gemini")
async def test_calls_that_were_under_way_when_it_opened_do_not_prolong_it(queue: Queue) -> None:
    stray = await start_call(queue)
    await fail(queue, Reason.OVERLOADED, 5)
    await pass_time(queue, 20)
    await queue.end_call(stray, CallEnding(Outcome.FAILED, Reason.OVERLOADED))
    assert await get_open_seconds(queue) == 10


@pytest.mark.usefixtures("gemini")
async def test_a_stray_call_does_not_bring_a_second_probe(queue: Queue) -> None:
    stray = await start_call(queue)
    await make_half_open(queue)
    await start_call(queue)
    await queue.end_call(stray, CallEnding(Outcome.FAILED, Reason.OVERLOADED))
    assert await get_open_seconds(queue) == PROBE_SECONDS


# Half-open: exactly one probe, however many workers.


async def count_probes_of_two(queue: Queue) -> int:
    """The second call begins while the first's transaction is still open."""
    claim = await create_claim(queue)
    async with queue.database.connection() as connection, connection.transaction():
        first = await verbs.begin_call(connection, claim, build_call())
        second = asyncio.create_task(begin_call(queue))
        await wait_for_blocked(queue, 1)
    permits = [first, *await asyncio.gather(second, return_exceptions=True)]
    assert all(isinstance(permit, CallPermit | PermanentError) for permit in permits)
    return sum(isinstance(permit, CallPermit) for permit in permits)


@pytest.mark.usefixtures("gemini")
async def test_without_the_accounts_lock_two_would_probe(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOCK_ACCOUNT", limits.LOCK_ACCOUNT.replace("FOR UPDATE", ""))
    await make_half_open(queue)
    assert await count_probes_of_two(queue) == 2


@pytest.mark.usefixtures("gemini")
async def test_with_it_one_does(queue: Queue) -> None:
    await make_half_open(queue)
    assert await count_probes_of_two(queue) == 1


@pytest.mark.usefixtures("gemini")
@pytest.mark.parametrize(
    ("ending", "seconds"),
    [
        (CallEnding(Outcome.MADE), None),
        (CallEnding(Outcome.REFUSED, Reason.REFUSED), None),
        (CallEnding(Outcome.FAILED, Reason.BAD_PHOTO), None),
        (CallEnding(Outcome.FAILED, Reason.OVERLOADED), 30),  # however few of its kind there were before
        (CallEnding(Outcome.FAILED, Reason.AUTH), 300),
        (CallEnding(Outcome.FAILED, Reason.SLOW), 30),
        (CallEnding(Outcome.AMBIGUOUS, Reason.SLOW), 30),
        (CallEnding(Outcome.LATE), 30),
        (CallEnding(Outcome.CANCELLED), 0),  # no result: the next call is the probe
    ],
)
async def test_the_probe_decides(queue: Queue, ending: CallEnding, seconds: int | None) -> None:
    await make_half_open(queue)
    probe = await start_call(queue)
    assert await get_refusal(queue) == Reason.AUTH
    await queue.end_call(probe, ending)
    assert await get_open_seconds(queue) == seconds
    if not seconds:
        assert await start_call(queue)


@pytest.mark.usefixtures("gemini")
async def test_a_probe_whose_worker_died_is_followed_by_another(queue: Queue) -> None:
    await make_half_open(queue)
    lost = await start_call(queue)
    await pass_time(queue, PROBE_SECONDS)
    second = await start_call(queue)
    await queue.end_call(lost, CallEnding(Outcome.AMBIGUOUS, Reason.INTERNAL))
    assert await get_refusal(queue) == Reason.AUTH
    await queue.end_call(second, CallEnding(Outcome.MADE))
    assert await get_open_seconds(queue) is None


# As booths see it.


def test_booths_are_refused_at_once_and_served_again_after_the_probe(
    processes: Processes, database: None, wires: WireSandbox
) -> None:
    create_account(wires.url)
    use_gemini("[[overloaded]]")
    processes.web()
    processes.worker(PROVIDER_RETRY_PAUSE_SECONDS="0")
    booth = Booth(processes.url)
    refusal(booth.post(jpeg()), 502, "provider_error")
    assert len(wires.calls("gemini")) == 5
    refused = booth.post(jpeg())
    refusal(refused, 503, "provider_unavailable")
    assert 25 < int(httpx.Headers(dict(refused.headers))["Retry-After"]) <= 30
    assert len(wires.calls("gemini")) == 5
    ProviderAccount.objects.update(open_until=Now())
    use_gemini()
    assert booth.post(jpeg()).status == 200
    assert ProviderAccount.objects.get().open_until is None


def test_half_open_one_photo_of_many_goes_to_the_provider(
    processes: Processes, database: None, wires: WireSandbox
) -> None:
    """Through two workers. The others are refused at once, with the reason."""
    create_account(wires.url, open_until=timezone.now(), open_reason=Reason.QUOTA, failures=2)
    use_gemini("[[hold]]")
    processes.web()
    for _ in range(2):
        processes.worker()
    with ThreadPoolExecutor(6) as booths:
        replies = [booths.submit(Booth(processes.url).post, jpeg(320 + number)) for number in range(6)]
        first = [reply.result().status for reply in islice(as_completed(replies), 5)]
        assert set(first) <= {502, 503}
        assert len(wires.calls("gemini")) == 1
        wires.let_go()
    assert min(reply.result().status for reply in replies) == 200
