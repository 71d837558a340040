"""The booth's waiting: the deadline, the ways a job ends without a picture, and the booth that does not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from django.conf import settings
from pytest_django.fixtures import Settings

from core.database import in_thread
from ingest.models import IngestSettings
from ingest.wait import wait_for_end
from jobs.models import Job
from jobs.queue.notify import Waiters
from jobs.queue.records import Claim, JobOutcome, JobReport, Result, Ticket
from jobs.queue.verbs import Queue
from jobs.storage import files
from stats.models import HourlyCounter
from tests.booth_client import Reply
from tests.conftest import Booth, Processes, in_background, jpeg, stored_files, use_sandbox
from tests.ingest.helpers import cancel, connect, eventually, form, new_job, refusal, serialize_post, without_worker
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.contract


def shorten_deadline() -> None:
    IngestSettings.objects.update(sync_response_seconds=10)


def post_timed(booth: Booth, photo: bytes, slot: str = "slot-001") -> tuple[Reply, datetime]:
    return booth.post(photo, slot), datetime.now(UTC)


def measure_delay(reply: Reply, at: datetime) -> float:
    """Seconds after its job's deadline that a 504 came, once it is the 504 that it must be."""
    details = refusal(reply, 504, "sync_timeout")
    job = Job.objects.get(pk=details["job_id"])
    assert details == {"job_id": str(job.pk), "expires_at": job.expires_at.isoformat(), "reason": "slow"}
    assert (job.is_finalized, job.failure_reason, job.error_reason) == (True, "timeout", "slow")
    assert job.expires_at - job.created_at == timedelta(seconds=10)
    return (at - job.expires_at).total_seconds()


def test_at_the_deadline_the_booth_gets_504_and_nothing_is_kept(booth: Booth, sandbox: Sandbox) -> None:
    shorten_deadline()
    use_sandbox("instant", "hold", "slot-001")
    use_sandbox("queued", "never", "slot-002")
    use_sandbox("instant", "overloaded:30", "slot-003")  # retry after 30 s: that would be too late
    replies = [in_background(partial(post_timed, booth, jpeg(), slot)) for slot in ("slot-001", "slot-002")]
    assert refusal(booth.post(jpeg(), "slot-003"), 502, "provider_error")["reason"] == "overloaded"
    late = [measure_delay(*reply()) for reply in replies]
    assert min(late) >= 0
    assert min(late) <= 0.1  # the other may meet a busy machine
    sandbox.wait_for_calls(1, "DELETE")
    assert eventually(lambda: stored_files() == [])
    assert sum(counter.timeouts for counter in HourlyCounter.objects.all()) == 2


def test_without_any_worker_the_deadline_is_the_same(
    booth: Booth, shared_processes: Processes, web: httpx.Client
) -> None:
    shorten_deadline()
    with without_worker(shared_processes):
        late = measure_delay(*post_timed(booth, jpeg()))
        assert 0 <= late <= 1
        assert stored_files() == []
    job = Job.objects.get()
    assert (job.claimed_at, job.result_file_path) == (None, None)
    assert web.get(f"/public/results/{job.pk}").status_code == 404


def test_a_picture_made_at_the_very_deadline_is_delivered_or_not_there(booth: Booth, sandbox: Sandbox) -> None:
    shorten_deadline()
    use_sandbox("instant", "hold")
    replies = [in_background(partial(booth.post, jpeg(), id=str(number))) for number in range(4)]
    sandbox.wait_for_calls(4)
    middle = sorted(job.expires_at for job in Job.objects.all())[2]
    eventually(lambda: datetime.now(UTC) >= middle - timedelta(milliseconds=30))
    sandbox.let_go()
    delivered = {UUID(reply.headers["x-job-id"]) for reply in (wait() for wait in replies) if reply.status == 200}
    made = dict(Job.objects.filter(failure_reason=None).values_list("pk", "result_file_path"))
    assert delivered == set(made)
    assert eventually(lambda: stored_files() == sorted(map(str, made.values())))
    assert Job.objects.filter(is_finalized=True).count() == 4


async def finish_around_the_deadline(queue: Queue, claim: Claim, until: float, offset: float) -> bool:
    """Whether the worker's result was the one that counted."""
    await asyncio.sleep(until + offset - asyncio.get_running_loop().time())
    result = Result(f"results/{claim.id}.jpg", "image/jpeg", 1, "0" * 64)
    return await queue.finalize(claim, result, JobReport()) is not None


async def test_of_deadline_and_result_exactly_one_wins(queue: Queue, settings: Settings) -> None:
    settings.QUEUE_MAX_IN_FLIGHT_JOBS = 100
    waiters = Waiters(queue)
    offsets = [-0.4, *(number / 1000 for number in range(-10, 11)), 0.4]
    tickets = [await queue.admit(new_job(), 1) for _ in offsets]
    claims = {claim.id: claim for claim in await queue.claim(["by hand"], len(offsets))}

    async def race(ticket: Ticket, offset: float) -> tuple[bool, JobOutcome]:
        claim = claims[ticket.job_id]
        until = asyncio.get_running_loop().time() + claim.seconds_left
        work = finish_around_the_deadline(queue, claim, until, offset)
        return await asyncio.gather(work, wait_for_end(queue, waiters, ticket))

    ended = await asyncio.gather(*map(race, tickets, offsets))
    jobs = await in_thread(Job.objects.in_bulk)
    for won, outcome in ended:
        job = jobs[outcome.id]
        assert (outcome.failure_reason is None) == won == (job.failure_reason is None)
        assert outcome.failure_reason in (None, "timeout")
        early = job.finalized_at is None or job.finalized_at < job.expires_at
        assert early == won
    assert (ended[0][0], ended[-1][0]) == (True, False)


def test_a_booth_that_hangs_up_does_not_end_its_job(booth: Booth, web: httpx.Client, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    with connect(booth.url) as connection:
        connection.sendall(serialize_post(booth.url, **form(jpeg())))
        sandbox.wait_for_calls(1)
    assert web.get("/healthz").status_code == 200
    sandbox.let_go()
    job = eventually(lambda: Job.objects.filter(is_finalized=True).first())
    assert (job.failure_reason, job.delivered_at) == (None, None)
    assert web.get(f"/public/results/{job.pk}", follow_redirects=True).content == developed(jpeg())


def test_a_job_that_staff_cancel_is_answered_at_once(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("queued", "never")
    reply = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1, "GET")
    job = Job.objects.get()
    cancel(job.pk)
    assert refusal(reply(), 503, "job_cancelled") == {"job_id": str(job.pk)}
    sandbox.wait_for_calls(1, "DELETE")
    job.refresh_from_db()
    assert job.finalized_at
    assert job.finalized_at < job.expires_at - timedelta(seconds=20)
    assert eventually(lambda: stored_files() == [])


REFUSALS = [("refuses", "refused"), ("bad_key", "auth"), ("overloaded", "overloaded"), ("not_an_image", "no_image")]


@pytest.mark.parametrize(("scenario", "reason"), REFUSALS)
def test_a_provider_that_makes_no_picture_is_named(booth: Booth, scenario: str, reason: str) -> None:
    use_sandbox("instant", scenario)
    details = refusal(booth.post(jpeg()), 502, "provider_error")
    assert details == {"reason": reason, "job_id": str(Job.objects.get().pk)}
    assert (Job.objects.get().failure_reason, HourlyCounter.objects.get().provider_errors) == ("provider_error", 1)
    assert eventually(lambda: stored_files() == [])


@pytest.fixture
def no_room_for_results() -> Iterator[None]:
    in_the_way = Path(settings.MEDIA_ROOT) / "results"
    in_the_way.touch()
    yield
    in_the_way.unlink()


@pytest.mark.usefixtures("no_room_for_results")
def test_a_picture_that_cannot_be_stored_still_reaches_its_booth(booth: Booth, web: httpx.Client) -> None:
    use_sandbox("instant")
    reply = booth.post(jpeg())
    assert (reply.status, reply.body) == (200, developed(jpeg()))
    assert "x-result-url" not in reply.headers  # guests would find nothing there
    job = Job.objects.get()
    assert (job.failure_reason, job.result_file_path) == (None, None)
    assert web.get(f"/public/results/{job.pk}").status_code == 410


def test_a_fault_of_ours_is_a_500_with_an_id_to_find_it_by(service: Processes, booth: Booth) -> None:
    with without_worker(service):
        waiting = in_background(lambda: booth.post(jpeg()))
        photo = eventually(lambda: Job.objects.values_list("payload_path", flat=True).first())
        files.delete(photo)
    reply = waiting()
    details = refusal(reply, 500, "internal_error")
    assert details["correlation_id"] == reply.headers["x-correlation-id"]
    assert details["reason"] == "internal"
    assert b"payloads" not in reply.body  # no internals
    assert HourlyCounter.objects.get().errors == 1


def test_the_hand_off_copy_goes_once_the_booth_has_its_picture(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    with connect(booth.url) as connection:
        connection.sendall(serialize_post(booth.url, **form(jpeg(), id="1")))
        sandbox.wait_for_calls(1)
    sandbox.let_go()
    left = eventually(lambda: Job.objects.filter(is_finalized=True).first())
    assert left.result_inline_base64  # its booth was gone
    assert booth.post(jpeg(), id="2").status == 200
    assert eventually(lambda: Job.objects.filter(result_inline_base64=None, delivered_at__isnull=False).count() == 1)


def test_a_large_picture_goes_through_its_file_alone(booth: Booth) -> None:
    photo = jpeg(4000, 3000, quality=95)
    use_sandbox("instant")
    assert booth.post(photo).body == developed(photo)
    assert len(developed(photo)) > 64 * 1024
    assert Job.objects.get().result_inline_base64 is None


def test_a_new_deadline_holds_for_new_jobs_only(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    replies = []
    for number, seconds in enumerate((48, 60), 1):
        IngestSettings.objects.update(sync_response_seconds=seconds)
        replies.append(in_background(partial(booth.post, jpeg(), id=str(number))))
        sandbox.wait_for_calls(number)
    sandbox.let_go()
    assert [reply().status for reply in replies] == [200, 200]
    waits = [job.expires_at - job.created_at for job in Job.objects.order_by("created_at")]
    assert waits == [timedelta(seconds=48), timedelta(seconds=60)]
