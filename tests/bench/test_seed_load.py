"""`python -m bench.seed_load`: rows as the service writes them, and none where there are others."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import Count
from django.utils import timezone, translation
from pytest_django import Settings

from bench import seed_load
from core.database import in_thread
from jobs.models import Job
from jobs.queue.verbs import Queue
from slots.models import Slot
from stats import journal
from stats.journal import Tally
from stats.models import ProcessingLog
from tests import log_rows
from tests.jobs.test_admin import make_job
from tests.queue_helpers import sql

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("database")]

JOBS = 400
COUNTERS = (
    "SELECT * FROM stats_hourlycounter ORDER BY hour, slot_id, provider_id, source",
    "SELECT * FROM stats_hourlytotal ORDER BY hour, provider_id",
    "SELECT * FROM stats_countertotal ORDER BY slot_id, provider_id",
    "SELECT * FROM stats_slotfigures ORDER BY slot_id",
)
SECONDS = {"duration_seconds", "wait_seconds", "provider_seconds"}  # the log has them in milliseconds


def seed() -> int:
    """The command's exit code."""
    return seed_load.main(["--jobs", str(JOBS), "--days", "6"])


def list_indexes() -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexdef")
        found: list[Any] = cursor.fetchall()
    return found


def make_tally(job: Job) -> Tally:
    """What the queue would have counted for the job, with the attempts in its log."""
    assert job.finalized_at
    responses = ProcessingLog.objects.filter(job_id=job.pk, status="provider_responded")
    attempts = [] if job.failure_reason == "cancelled" else list(responses)
    outcomes = {None: "success", "timeout": "timeouts", "provider_error": "provider_errors"}
    return Tally(
        slot_id=job.slot_id,
        provider_id=job.provider_id,
        source=job.source,
        received_at=job.created_at,
        outcome="errors" if job.error_reason == "internal" else outcomes.get(job.failure_reason, "cancelled"),
        duration_seconds=(job.finalized_at - job.created_at).total_seconds(),
        wait_seconds=(job.claimed_at - job.created_at).total_seconds() if job.claimed_at else None,
        attempts=len(attempts),
        attempt_errors=sum("error" in step.details for step in attempts),
        provider_seconds=sum(step.provider_latency_ms or 0 for step in attempts) / 1000,
    )


def test_it_adds_the_requested_rows(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    settings.PUBLIC_BASE_URL = "https://photos.example"  # as Turbotext's slots need it
    before, now = list_indexes(), timezone.now()
    assert seed() == 0
    assert f"{JOBS} jobs" in capsys.readouterr().out
    assert list_indexes() == before
    assert Job.objects.filter(created_at__gt=now - timedelta(days=6), finalized_at__lt=now).count() == JOBS
    steps = ProcessingLog.objects.values("job_id").annotate(steps=Count("id"))
    assert [row["steps"] for row in steps] == [10] * JOBS
    assert Job.objects.filter(source="test").count() == JOBS // 200
    for slot in Slot.objects.all():
        slot.full_clean()


def test_the_log_reads_as_the_services_own() -> None:
    assert seed() == 0
    assert log_rows.find_invalid_rows() == []
    with translation.override("ru"):
        for step in ProcessingLog.objects.order_by("message").distinct("message"):
            assert step.message_for_staff != step.message
    first, *_others, last = ProcessingLog.objects.filter(job_id=Job.objects.all()[0].pk).order_by("id")
    assert first.status == "received"
    assert last.status in ("succeeded", "failed", "timeout")
    assert first.occurred_at < last.occurred_at


async def fetch_counters(queue: Queue) -> list[dict[str, Any]]:
    rows = [row for statement in COUNTERS for row in await sql(queue, statement)]
    return [{name: value for name, value in row.items() if name not in ("id", "version")} for row in rows]


async def test_the_counters_are_those_that_the_queue_would_have_written(queue: Queue) -> None:
    await in_thread(seed)
    seeded = await fetch_counters(queue)
    await sql(queue, "TRUNCATE stats_hourlycounter, stats_hourlytotal, stats_countertotal, stats_slotfigures")
    for tally in await in_thread(lambda: [make_tally(job) for job in Job.objects.all()]):
        async with queue.database.connection() as pooled:
            await journal.count(pooled, tally)
    for row, expected in zip(seeded, await fetch_counters(queue), strict=True):
        assert row == expected | {name: pytest.approx(expected[name], abs=0.05) for name in SECONDS & expected.keys()}


def test_a_database_in_use_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    make_job()
    assert seed() == 1
    assert "jobs_job has rows already" in capsys.readouterr().err
    assert Job.objects.count() == 1
    assert Slot.objects.count() == 15
