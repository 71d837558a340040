"""The processing log and the hourly counters as the queue writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from core.database import in_thread
from jobs.queue.verbs import Queue
from stats import journal
from stats.journal import DURATION_BOUNDS, WAIT_BOUNDS, Step, Tally
from stats.models import ProcessingLog
from tests.queue_helpers import counters, sql

pytestmark = pytest.mark.integration

NOON = datetime(2026, 3, 4, 12, 34, 56, tzinfo=UTC)


async def write_steps(queue: Queue, *steps: Step) -> list[dict[str, Any]]:
    async with queue.database.connection() as connection:
        await journal.write(connection, steps)
    return await sql(queue, "SELECT *, details::text AS raw FROM stats_processinglog ORDER BY id")


def make_step(**changes: Any) -> Step:
    defaults: dict[str, Any] = {"job_id": uuid4(), "slot_id": "slot-001", "status": "received"}
    return Step(**(defaults | changes))


async def count(queue: Queue, **changes: Any) -> None:
    defaults: dict[str, Any] = {
        "slot_id": "slot-001",
        "provider_id": "studio",
        "source": "booth",
        "received_at": NOON,
        "outcome": "success",
        "duration_seconds": 3.0,
        "wait_seconds": 0.02,
    }
    async with queue.database.connection() as connection:
        await journal.count(connection, Tally(**(defaults | changes)))


async def test_details_keep_their_order_and_leave_out_what_is_not_known(queue: Queue) -> None:
    (entry,) = await write_steps(queue, make_step(details={"z": 1, "a": None, "m": "x", "b": False, "c": 0}))
    assert entry["raw"] == '{"z": 1, "m": "x", "b": false, "c": 0}'


async def test_the_orm_reads_them_in_that_order_too(queue: Queue) -> None:
    await write_steps(queue, make_step(details={"z": 1, "a": "x", "m": None, "b": True}))
    entry = await in_thread(ProcessingLog.objects.get)
    assert list(entry.details.items()) == [("z", 1), ("a", "x"), ("b", True)]


async def test_steps_are_written_in_their_order(queue: Queue) -> None:
    names = ["received", "dispatched", "provider_responded", "succeeded"]
    entries = await write_steps(queue, *(make_step(status=name) for name in names))
    assert [entry["status"] for entry in entries] == names


async def test_long_texts_are_cut_to_the_contracts_length(queue: Queue) -> None:
    (entry,) = await write_steps(
        queue, make_step(message="é" * 5000, details={"error": "x" * 5000, "other": "y" * 3000})
    )
    assert entry["message"] == "é" * 1024
    assert entry["details"] == {"error": "x" * 2048, "other": "y" * 3000}


async def test_a_step_may_say_when_it_was(queue: Queue) -> None:
    then, now = await write_steps(queue, make_step(occurred_at=NOON), make_step())
    assert then["occurred_at"] == NOON
    assert now["occurred_at"] > NOON


async def test_a_step_that_the_contract_does_not_know_is_refused(queue: Queue) -> None:
    with pytest.raises(ValueError, match="exploded"):
        await write_steps(queue, make_step(status="exploded"))


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0, 0), (0.1, 0), (0.11, 1), (48, 9), (48.01, 10), (60, 10), (60.1, 11), (999, 11)]
)
async def test_a_duration_falls_into_the_bucket_up_to_its_bound(queue: Queue, seconds: float, bucket: int) -> None:
    await count(queue, duration_seconds=seconds)
    buckets = (await counters(queue))["duration_buckets"]
    assert buckets == [int(i == bucket) for i in range(len(DURATION_BOUNDS) + 1)]


async def test_a_job_that_was_never_claimed_has_no_wait(queue: Queue) -> None:
    await count(queue, wait_seconds=None)
    counted = await counters(queue)
    assert counted["wait_buckets"] == [0] * (len(WAIT_BOUNDS) + 1)
    assert counted["wait_seconds"] == 0


async def test_one_row_per_hour_slot_provider_and_source(queue: Queue) -> None:
    for change in ({}, {}, {"source": "test"}, {"provider_id": "queued"}, {"slot_id": "slot-002"}):
        await count(queue, **change)
    await count(queue, received_at=NOON.replace(hour=13, minute=0, second=0))
    found = await sql(queue, "SELECT * FROM stats_hourlycounter ORDER BY ingest_count DESC, id")
    assert [hour["ingest_count"] for hour in found] == [2, 1, 1, 1, 1]
    assert found[0]["hour"] == NOON.replace(minute=0, second=0)
    assert found[0]["duration_buckets"][4] == found[0]["success"] == 2
    assert found[0]["duration_seconds"] == 6.0
