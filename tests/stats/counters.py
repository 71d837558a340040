"""Counts finished jobs as the queue does, on a connection of its own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection

from core.database import connection_kwargs
from stats import journal
from stats.journal import Tally


def count(at: datetime | None = None, *outcomes: str, **changes: Any) -> None:
    """Counts one job for each outcome, of slot-001 and the provider studio, received `at` that time or now."""
    defaults: dict[str, Any] = {"slot_id": "slot-001", "provider_id": "studio", "source": "booth"}
    times: dict[str, Any] = {"duration_seconds": 3.0, "wait_seconds": 0.02}
    received = {"received_at": at or datetime.now(UTC)}
    tallies = [
        Tally(**(defaults | times | received | {"outcome": name} | changes)) for name in outcomes or ("success",)
    ]
    asyncio.run(_count(tallies))


async def _count(tallies: list[Tally]) -> None:
    async with await AsyncConnection.connect(**connection_kwargs(), autocommit=True) as connection:
        for tally in tallies:
            await journal.count(connection, tally)


def count_late_answer(slot_id: str, provider_id: str) -> None:
    """For a photo that a booth has just posted."""
    asyncio.run(_count_late_answer(slot_id, provider_id))


async def _count_late_answer(slot_id: str, provider_id: str) -> None:
    async with await AsyncConnection.connect(**connection_kwargs(), autocommit=True) as connection:
        await journal.count_late_answer(connection, datetime.now(UTC), slot_id, provider_id, "booth")
