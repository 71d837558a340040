"""Factories for tests of provider accounts: accounts at the sandbox, past calls, calls under way, passing time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.utils import timezone

from jobs.queue.records import CallPermit, Claim
from jobs.queue.verbs import Queue
from providers.base import Reason
from providers.limits import CallEnding, NewCall
from providers.models import ProviderAccount, ProviderCall
from tests import leaks
from tests.conftest import set_slot
from tests.queue_helpers import new_job, sql
from tests.sandbox import gemini, turbotext

KEYS = {"gemini": gemini.KEY, "openai": "sk-of-the-sandbox", "turbotext": turbotext.KEY}
ADDRESSES = {"gemini": "/gemini", "openai": "/openai/v1", "turbotext": "/turbotext"}
Outcome = ProviderCall.Outcome
CLAIMED_JOB = """
INSERT INTO jobs_job (id, slot_id, provider_id, operation_id, settings_json, payload_path, payload_mime_type,
    payload_digest, expires_at, status, claim_token, lease_expires_at)
VALUES (%s, 'slot-001', %s, 'image_edit', '{}', %s, 'image/jpeg', %s,
    now() + interval '1 hour', 'processing', gen_random_uuid(), now() + interval '1 hour')
RETURNING id, claim_token AS token, created_at, expires_at
"""


def create_account(url: str = "http://127.0.0.1:9", provider_id: str = "gemini", **changes: Any) -> ProviderAccount:
    """Creates a provider's account at the sandbox with that URL, by default at a closed port."""
    created = ProviderAccount(**{"provider_id": provider_id, "base_url": url + ADDRESSES[provider_id]} | changes)
    created.set_key(KEYS[provider_id])
    leaks.note(KEYS[provider_id])
    created.save()
    return created


def use_gemini(prompt: str = "As a watercolour", slot_id: str = "slot-001") -> None:
    settings_json = {"prompt": prompt, "model": "gemini-nano-banana-2.1"}
    set_slot(slot_id, provider_id="gemini", operation_id="image_edit", settings_json=settings_json)


def create_past_calls(count: int, seconds_ago: float, **changes: Any) -> None:
    """Creates calls that made a picture so many seconds ago."""
    at = timezone.now() - timedelta(seconds=seconds_ago)
    usual = {"provider_id": "gemini", "slot_id": "slot-001", "at": at, "ended_at": at, "outcome": "made"}
    calls = [ProviderCall(**({"job_id": uuid4()} | usual | changes)) for _ in range(count)]
    ProviderCall.objects.bulk_create(calls)


def build_call(provider_id: str = "gemini") -> NewCall:
    return NewCall(provider_id, "slot-001", is_fallback=False, daily_budget=None)


async def create_claim(queue: Queue, provider_id: str = "gemini") -> Claim:
    """A claimed job, past the limits on admission and claims."""
    job = new_job(provider_id=provider_id)
    (created,) = await sql(queue, CLAIMED_JOB, job.id, provider_id, job.payload_path, job.payload_digest)
    return Claim(
        **created,
        slot_id=job.slot_id,
        source=job.source,
        provider_id=provider_id,
        operation_id=job.operation_id,
        settings_json=dict(job.settings_json),
        template_media={},
        metadata={},
        payload_path=job.payload_path,
        payload_mime_type=job.payload_mime_type,
        provider_job_reference=None,
        used_fallback=False,
        claims=1,
        lost_claims=0,
        seconds_left=3600,
    )


async def begin_call(queue: Queue, provider_id: str = "gemini") -> CallPermit:
    """Begins a call as a worker does."""
    return await queue.begin_call(await create_claim(queue, provider_id), build_call(provider_id))


async def start_call(queue: Queue) -> int:
    """Begins a call that must be permitted; returns its id."""
    permit = await begin_call(queue)
    assert permit.call_id is not None
    return permit.call_id


async def fail(queue: Queue, reason: Reason, times: int = 1) -> None:
    for _ in range(times):
        await queue.end_call(await start_call(queue), CallEnding(Outcome.FAILED, reason))


async def pass_time(queue: Queue, seconds: float) -> None:
    """Moves the opening times of all breakers into the past."""
    await sql(
        queue, "UPDATE providers_provideraccount SET open_until = open_until - make_interval(secs => %s)", seconds
    )
