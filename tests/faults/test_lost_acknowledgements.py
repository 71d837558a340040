"""The answer to a verb's COMMIT is lost, for each verb of the queue: asked again, all is as after one time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from core.database import DatabaseUnavailable, in_thread
from jobs.queue.records import Claim, Failure, JobReport, NewJob
from jobs.queue.verbs import ClaimLost, Queue
from providers.base import Reason
from providers.limits import CallEnding, NewCall
from providers.models import ProviderAccount, ProviderCall
from stats.journal import Step
from tests.faults.guards import with_and_without
from tests.faults.unguarded import remove
from tests.queue_helpers import (
    PICTURE,
    DatabaseProxy,
    claim_job,
    end_lease,
    make_overdue,
    new_job,
    open_queue_through,
    row,
    run_proxy,
    sql,
    wait_until,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]

COMMIT = b"COMMIT"
COUNTED = """
SELECT ingest_count AS photos, success, timeouts, provider_errors, cancelled, errors, late_answers
FROM stats_hourlycounter
"""
CALLS = "SELECT outcome FROM providers_providercall ORDER BY id"
FAILURES = "SELECT failures FROM providers_provideraccount WHERE provider_id = 'instant'"
STATE = """
SELECT status, is_finalized, failure_reason, error_reason, result_file_path, payload_path IS NULL AS has_no_photo,
    provider_job_reference, used_fallback, delivered_at IS NULL AS is_kept, claims, lost_claims
FROM jobs_job ORDER BY created_at
"""
STEPS = "SELECT status FROM stats_processinglog ORDER BY id"


@dataclass
class Scene:
    """A claimed job with a call under way."""

    queue: Queue
    claim: Claim
    call: NewCall
    report: JobReport


Texts = tuple[bytes, ...]
Verb = Callable[[Queue, Scene], Awaitable[Any]]


def make_step(scene: Scene) -> Step:
    details = {"attempt": 1, "provider_id": "instant"}
    return Step(scene.claim.id, "slot-001", "provider_responded", "The attempt failed", 5, details, ATTEMPT_AT)


ATTEMPT_AT = datetime.now(UTC)
PHOTO: NewJob = new_job(booth_id="one")
OVERLOADED = CallEnding(ProviderCall.Outcome.FAILED, Reason.OVERLOADED)


async def time_out(queue: Queue, scene: Scene) -> None:
    await make_overdue(queue, scene.claim.id)
    await queue.expire(scene.claim.id)


# What the client sends before its connection is cut; the last text is passed on. How it is asked for, the first time
# and again as its caller does.
VERBS: dict[str, tuple[tuple[bytes, ...], Verb]] = {
    "begin_call": ((b"INSERT INTO providers_providercall", COMMIT), lambda q, s: q.begin_call(s.claim, s.call)),
    "end_call": ((b"SET\n    ended_at", COMMIT), lambda q, s: q.end_call(s.report.call_id or 0, OVERLOADED)),
    "store_provider_reference": (
        (b"SET provider_job_reference",),
        lambda q, s: q.store_provider_reference(s.claim, "q-1"),
    ),
    "fall_back": ((b"SET used_fallback",), lambda q, s: q.fall_back(s.claim)),
    "extend": ((b"SET lease_expires_at",), lambda q, s: q.extend([s.claim])),
    "finalize with a picture": (
        (b"result_inline_base64 =", COMMIT),
        lambda q, s: q.finalize(s.claim, PICTURE, s.report),
    ),
    "finalize with a failure": (
        (b"'provider_error'", COMMIT),
        lambda q, s: q.finalize(s.claim, Failure(Reason.REFUSED, "no"), s.report),
    ),
    "expire": ((b"'timeout'", COMMIT), lambda q, s: q.expire(s.claim.id, s.report)),
    "cancel": ((b"'cancelled'", COMMIT), lambda q, s: q.cancel(s.claim.id, "igor")),
    "release": ((b"SET status = 'pending'",), lambda q, s: q.release([s.claim])),
    "write_log": ((b"INSERT INTO stats_processinglog", COMMIT), lambda q, s: q.write_log([make_step(s)])),
    "add_late_result": (
        (b"result_checksum IS NULL", COMMIT),
        lambda q, s: q.add_late_result(s.claim, PICTURE, [make_step(s)]),
    ),
    "mark_delivered": ((b"delivered_at = coalesce",), lambda q, s: q.mark_delivered(s.claim.id)),
}
AFTER: dict[str, Verb] = {  # what must have come before
    "expire": lambda q, s: make_overdue(q, s.claim.id),
    "add_late_result": time_out,
    "mark_delivered": lambda q, s: q.finalize(s.claim, PICTURE, s.report),
}


async def set_scene(queue: Queue, verb: str) -> Scene:
    if verb != "begin_call":
        await in_thread(lambda: ProviderAccount.objects.get_or_create(provider_id="instant"))
    claim = await claim_job(queue)
    call = NewCall("instant", "slot-001", is_fallback=False, daily_budget=None)
    report = JobReport(call_ending=CallEnding(ProviderCall.Outcome.MADE), attempts=1, steps=[])
    scene = Scene(queue, claim, call, report)
    if verb != "begin_call":
        report.call_id = (await queue.begin_call(claim, call)).call_id
    report.steps.append(make_step(scene))
    if before := AFTER.get(verb):
        await before(queue, scene)
    return scene


async def read_all(queue: Queue) -> list[Any]:
    return [await sql(queue, statement) for statement in (STATE, STEPS, CALLS, FAILURES, COUNTED)]


async def lose(
    queue: Queue, proxy: DatabaseProxy, texts: tuple[bytes, ...], ask: Callable[[Queue], Awaitable[Any]]
) -> Any:
    """Asks until there is an answer; the first one is lost. Returns it when what was lost has been committed."""
    async with open_queue_through(proxy) as cut_off:
        await cut_off.list_overdue()
        proxy.sever_at = texts
        with pytest.raises(DatabaseUnavailable):
            await ask(cut_off)
        assert not proxy.sever_at
        await wait_until(lambda: has_nobody_else(queue))
        return await ask(cut_off)


async def has_nobody_else(queue: Queue) -> bool:
    """Whether no transaction is under way that a lost connection has left."""
    found = await sql(
        queue,
        """SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
           AND xact_start IS NOT NULL AND backend_type = 'client backend'""",
    )
    return not found


@pytest.mark.parametrize("verb", VERBS)
async def test_what_was_done_is_done_once(queue: Queue, verb: str) -> None:
    texts, ask = VERBS[verb]
    # One after the other, so that both begin with the same database.
    scene = await set_scene(queue, verb)
    await ask(queue, scene)
    once = await read_all(queue)
    await sql(queue, "TRUNCATE jobs_job, stats_processinglog, stats_hourlycounter, providers_providercall CASCADE")
    await sql(queue, "UPDATE providers_provideraccount SET failures = 0")
    scene = await set_scene(queue, verb)
    async with run_proxy() as proxy:
        await lose(queue, proxy, texts, lambda cut_off: ask(cut_off, scene))
    assert await read_all(queue) == once


async def test_a_photo_that_was_admitted_unheard_is_joined(queue: Queue) -> None:
    async def ask(asked: Queue) -> Any:
        return await asked.admit(new_job(booth_id="one", payload_digest=PHOTO.payload_digest), 30)

    async with run_proxy() as proxy:
        ticket = await lose(queue, proxy, (b"INSERT INTO jobs_job", COMMIT), ask)
    assert ticket.joined
    (job,) = await sql(queue, "SELECT id FROM jobs_job")
    assert job["id"] == ticket.job_id


async def test_a_job_that_was_claimed_unheard_is_claimed_once_its_lease_has_run_out(queue: Queue) -> None:
    job = new_job()
    await queue.admit(job, 30)
    async with run_proxy() as proxy:
        claims = await lose(
            queue, proxy, (b"claim_token = gen_random_uuid()", COMMIT), lambda q: q.claim(["instant"], 1)
        )
        assert claims == []
    await end_lease(queue, job.id)
    (claim,) = await queue.claim(["instant"], 1)
    assert (claim.claims, claim.earlier_calls, claim.may_have_been_billed) == (2, 0, False)


async def test_an_answer_that_was_dropped_unheard_counts_once(queue: Queue) -> None:
    """Its caller leaves it at that."""
    scene = await set_scene(queue, "cancel")
    await queue.cancel(scene.claim.id, "igor")
    async with run_proxy() as proxy, open_queue_through(proxy) as cut_off:
        await cut_off.list_overdue()
        proxy.sever_at = (b"late_answers + 1", COMMIT)
        with pytest.raises(DatabaseUnavailable):
            await cut_off.drop_late_answer(scene.claim, [])
        await wait_until(lambda: has_nobody_else(queue))
    (counted,) = await sql(queue, COUNTED)
    assert (counted["cancelled"], counted["late_answers"]) == (1, 1)


async def test_the_worker_knows_its_own_ending(queue: Queue) -> None:
    """Asked again, `finalize` finds an ended job; it is not late, and its picture is not dropped."""
    scene = await set_scene(queue, "finalize")
    async with run_proxy() as proxy:
        texts, ask = VERBS["finalize with a picture"]
        assert await lose(queue, proxy, texts, lambda cut_off: ask(cut_off, scene)) is None
    outcome = await queue.get_outcome(scene.claim.id)
    assert outcome
    assert outcome.was_ended_by(scene.claim)
    with pytest.raises(ClaimLost):
        await queue.begin_call(scene.claim, NewCall("instant", "slot-001", is_fallback=False, daily_budget=None))


@with_and_without("step written once")
async def test_a_step_is_written_once(queue: Queue, monkeypatch: pytest.MonkeyPatch, without: str | None) -> None:
    if without:
        remove(without, monkeypatch.setattr)
    texts, ask = VERBS["write_log"]
    scene = await set_scene(queue, "write_log")
    async with run_proxy() as proxy:
        await lose(queue, proxy, texts, lambda cut_off: ask(cut_off, scene))
    steps = [step["status"] for step in await sql(queue, STEPS)]
    assert steps.count("provider_responded") == (2 if without else 1)


@with_and_without("own late result")
async def test_a_late_picture_is_known_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    """A worker that is told that there is another picture deletes its own."""
    if without:
        remove(without, monkeypatch.setattr)
    texts, ask = VERBS["add_late_result"]
    scene = await set_scene(queue, "add_late_result")
    async with run_proxy() as proxy:
        is_added = await lose(queue, proxy, texts, lambda cut_off: ask(cut_off, scene))
    assert is_added is (without is None)
    assert (await row(queue, scene.claim.id))["result_file_path"] == PICTURE.path
