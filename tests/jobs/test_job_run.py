"""One job's run: the outcome of each kind of fault, and what becomes of the job's files and links."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from django.conf import settings

from core import images
from core.database import in_thread
from jobs.models import Job
from jobs.queue.records import Claim
from jobs.queue.verbs import Queue
from jobs.storage import files, media
from jobs.worker.concurrency import JobSemaphore
from jobs.worker.job_run import INLINE_BYTES, JobRun, JobRunner
from providers import registry
from providers.base import Picture
from tests.conftest import Processes, jpeg, stored_files
from tests.queue_helpers import counters, end_lease, new_job, post_job, row, sql, steps, wait_for_end, wait_until
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.integration

FRAMED = {"scenario": "ok", "frame": "border"}


@pytest.mark.parametrize(
    ("scenario", "reason", "attempts"),
    [
        ("overloaded", "overloaded", 5),
        ("refuses", "refused", 1),
        ("bad_key", "auth", 1),
        ("lost", "slow", 1),
        ("not_an_image", "no_image", 1),
    ],
)
async def test_what_the_provider_says_is_the_reason(
    queue: Queue, service: Processes, sandbox: Sandbox, scenario: str, reason: str, attempts: int
) -> None:
    job_id = await post_job(queue, "instant", scenario)
    outcome = await wait_for_end(queue, job_id)
    assert (outcome.failure_reason, outcome.error_reason) == ("provider_error", reason)
    assert len(sandbox.journal) == attempts
    assert (await counters(queue))["provider_errors"] == 1
    assert (await steps(queue, job_id))[-1] == "failed"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"settings_json": {"scenario": "ok", "colour": "red"}}, "bad_settings"),
        ({"operation_id": "identity_transfer"}, "bad_settings"),
        ({"settings_json": FRAMED, "template_media": {"border": str(uuid4())}}, "bad_template"),
        ({"settings_json": FRAMED, "template_media": {"other": str(uuid4())}}, "bad_template"),
    ],
)
async def test_a_job_with_unusable_settings_fails(
    queue: Queue, service: Processes, sandbox: Sandbox, changes: dict[str, object], reason: str
) -> None:
    outcome = await wait_for_end(queue, await post_job(queue, changes=changes))
    assert (outcome.failure_reason, outcome.error_reason) == ("provider_error", reason)
    assert (await row(queue, outcome.id))["error_message"]
    await wait_until_photo_is_removed(queue, outcome.id)


async def test_a_photo_that_is_gone_is_our_fault(queue: Queue, service: Processes, sandbox: Sandbox) -> None:
    ticket = await queue.admit(new_job(), 30)
    outcome = await wait_for_end(queue, ticket.job_id)
    assert (outcome.failure_reason, outcome.error_reason) == ("provider_error", "internal")
    assert sandbox.journal == []
    assert (await counters(queue))["errors"] == 1


async def test_attempts_that_failed_are_logged_and_counted(queue: Queue, service: Processes, sandbox: Sandbox) -> None:
    job_id = await post_job(queue, "instant", "overloaded_first:2")
    assert (await wait_for_end(queue, job_id)).failure_reason is None
    counted = await counters(queue)
    assert (counted["success"], counted["attempts"], counted["attempt_errors"]) == (1, 3, 2)
    logged = await sql(queue, "SELECT details FROM stats_processinglog WHERE status = 'provider_responded' ORDER BY id")
    assert [step["details"]["attempt"] for step in logged] == [1, 2, 3]
    assert [step["details"].get("error_class") for step in logged] == ["TransientError", "TransientError", None]


async def wait_until_photo_is_removed(queue: Queue, job_id: UUID) -> None:
    """Also until its public link is; a result and its thumbnail may stay."""

    async def is_removed() -> bool:
        is_gone = files.size(files.payload_path(job_id, "image/jpeg")) is None
        return is_gone and await sql(queue, "SELECT id FROM jobs_mediaobject") == []

    await wait_until(is_removed)


@pytest.mark.parametrize("scenario", ["ok", "refuses", "hold"])
@pytest.mark.parametrize("provider", ["instant", "fetching"])
async def test_the_photo_goes_with_the_end_of_its_job(
    queue: Queue, service: Processes, sandbox: Sandbox, provider: str, scenario: str
) -> None:
    job_id = await post_job(queue, provider, scenario, wait_seconds=2)
    outcome = await wait_for_end(queue, job_id)
    assert outcome.failure_reason == {"ok": None, "refuses": "provider_error", "hold": "timeout"}[scenario]
    await wait_until_photo_is_removed(queue, job_id)
    assert stored_files() == ([outcome.result_file_path] if scenario == "ok" else [])


async def test_a_provider_that_fetches_gets_a_link(queue: Queue, service: Processes, sandbox: Sandbox) -> None:
    job_id = await post_job(queue, "fetching", "hold")
    (call,) = await asyncio.to_thread(sandbox.wait_for_calls, 1)
    (media,) = await sql(queue, "SELECT * FROM jobs_mediaobject")
    assert call.path == f"/instant/public/media/{media['id']}"
    job = await row(queue, job_id)
    assert (media["job_id"], media["setting_key"], media["path"]) == (job_id, "", f"media/{media['id']}.jpg")
    assert files.size(media["path"]) == media["size_bytes"]
    assert media["expires_at"] == job["expires_at"]
    sandbox.let_go()
    assert (await wait_for_end(queue, job_id)).failure_reason is None
    await wait_until_photo_is_removed(queue, job_id)


async def test_a_link_is_the_same_after_a_restart_and_leads_to_the_photo(
    queue: Queue, alone: None, sandbox: Sandbox
) -> None:
    await post_job(queue, "fetching")
    (claim,) = await queue.claim(["fetching"], 1)
    photo = Picture(files.read(claim.payload_path), claim.payload_mime_type)
    links = await in_thread(media.publish, claim, registry.get_classes()["fetching"], photo, {})
    (published,) = await sql(queue, "SELECT * FROM jobs_mediaobject")
    files.delete(published["path"])  # as when the worker is killed between row and file
    job = await in_thread(Job.objects.get)
    await in_thread(media.register, photo, job, 10)  # registered by staff, not for the provider
    assert await in_thread(media.publish, claim, registry.get_classes()["fetching"], photo, {}) == links
    assert links == {media.PHOTO: f"{settings.PUBLIC_BASE_URL}/public/media/{published['id']}"}
    assert files.size(published["path"]) == published["size_bytes"]


async def test_a_small_result_is_handed_over_in_the_row_and_stored(
    queue: Queue, service: Processes, sandbox: Sandbox
) -> None:
    outcome = await wait_for_end(queue, await post_job(queue))
    assert outcome.result_inline_base64
    assert outcome.result_file_path
    job = await row(queue, outcome.id)
    assert outcome.result_file_path == f"results/{outcome.id}-{job['claim_token'].hex}.jpg"
    stored = files.read(outcome.result_file_path)
    assert stored == developed(jpeg())
    assert (job["result_size_bytes"], job["result_checksum"]) == (len(stored), files.checksum(stored))


async def test_a_large_result_is_only_in_its_file(queue: Queue, service: Processes) -> None:
    big = {"settings_json": {"scenario": "ok", "output": {"format": "png", "width": 7000, "height": 7000}}}
    outcome = await wait_for_end(queue, await post_job(queue, changes=big))
    assert (outcome.result_size_bytes or 0) > INLINE_BYTES
    assert outcome.result_inline_base64 is None
    assert files.size(str(outcome.result_file_path)) == outcome.result_size_bytes


async def test_a_thumbnail_follows(queue: Queue, service: Processes) -> None:
    job_id = await post_job(queue)
    path = files.thumbnail_path(str((await wait_for_end(queue, job_id)).result_file_path))

    async def is_there() -> bool:
        return files.size(path) is not None

    await wait_until(is_there)
    header = images.probe(files.read(path))
    assert (header.mime_type, max(header.width, header.height)) == ("image/jpeg", 320)


async def test_no_provider_is_called_inside_a_transaction(queue: Queue, service: Processes, sandbox: Sandbox) -> None:
    job_id = await post_job(queue, "fetching", "hold")
    await asyncio.to_thread(sandbox.wait_for_calls, 1)
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    open_ones = f"SELECT query FROM pg_stat_activity WHERE {others} AND state LIKE 'idle in transaction%%'"  # noqa: S608
    assert await sql(queue, open_ones) == []
    sandbox.let_go()
    await wait_for_end(queue, job_id)


# A run in this process, whose lease the test controls.


async def begin_run(queue: Queue, sandbox: Sandbox) -> tuple[JobRun, asyncio.Task[None], JobRunner]:
    """Begins a run whose provider holds its response."""
    await post_job(queue, "instant", "hold")
    (claim,) = await queue.claim(["instant"], 1)
    runner = JobRunner(queue)
    run = runner.begin(claim, JobSemaphore(1, lambda: None).acquire_all()[0])
    task = asyncio.create_task(run.run())
    await asyncio.to_thread(sandbox.wait_for_calls, 1)
    return run, task, runner


async def finish_run(sandbox: Sandbox, task: asyncio.Task[None], runner: JobRunner) -> None:
    sandbox.let_go()
    await task
    await runner.aclose()


def own_result_path(claim: Claim) -> str:
    return files.result_path(claim.id, claim.token, "image/jpeg")


async def take_over(queue: Queue, claim: Claim) -> Claim:
    await end_lease(queue, claim.id)
    (other,) = await queue.claim(["instant"], 1)
    return other


@pytest.mark.parametrize("lease", [-1, settings.LEASE_SECONDS])
async def test_a_run_whose_job_is_another_workers_changes_nothing(
    queue: Queue, alone: None, sandbox: Sandbox, lease: int
) -> None:
    run, task, runner = await begin_run(queue, sandbox)
    other = await take_over(queue, run.claim)
    run.lease.until = asyncio.get_running_loop().time() + lease
    before = await row(queue, other.id)
    await finish_run(sandbox, task, runner)
    assert await row(queue, other.id) == before
    assert before["payload_path"] in stored_files()
    assert (await steps(queue, other.id))[-1] == "provider_responded"
    assert stored_files() == [before["payload_path"]]


async def test_an_expired_lease_that_nobody_claimed_is_extended(queue: Queue, alone: None, sandbox: Sandbox) -> None:
    run, task, runner = await begin_run(queue, sandbox)
    await end_lease(queue, run.claim.id)
    run.lease.until = 0
    await finish_run(sandbox, task, runner)
    assert (await wait_for_end(queue, run.claim.id)).failure_reason is None


async def test_an_answer_after_a_cancellation_is_dropped(queue: Queue, alone: None, sandbox: Sandbox) -> None:
    run, task, runner = await begin_run(queue, sandbox)
    await queue.cancel(run.claim.id, "igor")  # and the run was not notified yet
    await finish_run(sandbox, task, runner)
    assert (await steps(queue, run.claim.id))[-2:] == ["provider_responded", "provider_responded"]
    counted = await counters(queue)
    assert (counted["cancelled"], counted["late_answers"], counted["success"]) == (1, 1, 0)
    assert not [path for path in stored_files() if path.startswith("results/")]


async def test_an_answer_past_the_deadline_is_a_timeout(queue: Queue, alone: None, sandbox: Sandbox) -> None:
    """The database's clock says so, whatever this process's clock has left."""
    run, task, runner = await begin_run(queue, sandbox)
    await sql(queue, "UPDATE jobs_job SET expires_at = clock_timestamp() WHERE id = %s", run.claim.id)
    await finish_run(sandbox, task, runner)
    assert (await wait_for_end(queue, run.claim.id)).failure_reason == "timeout"
    counted = await counters(queue)
    assert (counted["timeouts"], counted["late_answers"], counted["attempts"]) == (1, 1, 1)
    assert stored_files() == []
    assert files.size(files.thumbnail_path(own_result_path(run.claim))) is None


async def test_a_thumbnail_that_cannot_be_made_costs_nothing(queue: Queue, alone: None, sandbox: Sandbox) -> None:
    run, task, runner = await begin_run(queue, sandbox)
    files.save(f"{files.thumbnail_path(own_result_path(run.claim))}/in the way", b"")
    await finish_run(sandbox, task, runner)
    assert (await wait_for_end(queue, run.claim.id)).failure_reason is None
