"""A worker is killed before, during and after a call of a paid provider: what may have been billed is not repeated."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from jobs.models import Job
from providers.models import ProviderAccount, ProviderCall
from stats.models import ProcessingLog
from tests.booth_client import Reply
from tests.conftest import Booth, Processes, in_background, jpeg, set_slot, use_account
from tests.faults.guards import with_and_without
from tests.ingest.helpers import eventually, refusal
from tests.sandbox import gemini, turbotext
from tests.sandbox.wire import Received, WireSandbox

pytestmark = pytest.mark.e2e

KEYS = {"gemini": gemini.KEY, "turbotext": turbotext.KEY}
PROMPT = "as an oil painting, secretly-prompted"


@pytest.fixture(scope="module")
def server() -> Iterator[WireSandbox]:
    with WireSandbox([gemini.Gemini, turbotext.TurbotextSpeaker]).run() as running:
        yield running


@pytest.fixture
def sandbox(server: WireSandbox, database: None) -> Iterator[WireSandbox]:
    """The providers, with a clean journal."""
    server.reset()
    yield server
    server.let_go()


def find_paid_requests(sandbox: WireSandbox) -> list[Received]:
    """The requests that cost money."""
    return [r for r in sandbox.journal if r.path.endswith(":generateContent") or b"do=create_queue" in r.body]


def find_polls(sandbox: WireSandbox) -> list[Received]:
    return [r for r in sandbox.journal if parse_qs(r.body.decode("latin-1")).get("do") == ["get_result"]]


def post_photo(processes: Processes, sandbox: WireSandbox, provider: str, **settings_json: Any) -> Callable[[], Reply]:
    """Posts a photo, which the only worker, the first of `processes`, claims. Call the result for the reply."""
    use_account(provider, f"{sandbox.url}/{provider}", KEYS[provider])
    set_slot(provider_id=provider, operation_id="image_edit", settings_json={"prompt": PROMPT} | settings_json)
    processes.worker(PUBLIC_BASE_URL=processes.url)
    processes.web(PUBLIC_BASE_URL=processes.url)
    return in_background(lambda: Booth(processes.url).post(jpeg()))


def replace_worker(processes: Processes) -> subprocess.Popen[bytes]:
    """Starts another worker, kills the first, waits for its end and expires its lease."""
    successor = processes.worker(PUBLIC_BASE_URL=processes.url)
    processes.started[0].kill()
    processes.started[0].wait()
    Job.objects.update(lease_expires_at=Now())  # instead of LEASE_SECONDS later
    return successor


def outcomes() -> list[str | None]:
    return list(ProviderCall.objects.order_by("id").values_list("outcome", flat=True))


def steps() -> list[str]:
    return list(ProcessingLog.objects.order_by("id").values_list("status", flat=True))


def is_anybody_blocked() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_locks WHERE NOT granted")
        return bool(cursor.rowcount)


def test_before_the_call_it_costs_nothing(processes: Processes, sandbox: WireSandbox) -> None:
    """The worker is stopped where it asks whether the call may be made: the account is locked."""
    reply = post_photo(processes, sandbox, "gemini")
    with transaction.atomic():
        ProviderAccount.objects.select_for_update().get(pk="gemini")
        eventually(lambda: Job.objects.filter(status="processing").exists())
        eventually(is_anybody_blocked)
        successor = processes.worker(PUBLIC_BASE_URL=processes.url)
        processes.started[0].kill()
        processes.started[0].wait()
    Job.objects.update(lease_expires_at=Now())
    assert reply().status == 200
    assert successor.poll() is None
    assert len(find_paid_requests(sandbox)) == 1
    assert outcomes() == ["made"]


@with_and_without("provider's reference")
def test_the_next_worker_polls_the_job_of_the_first(
    processes: Processes, sandbox: WireSandbox, without: str | None
) -> None:
    processes.without = without
    queue = sandbox.speakers["turbotext"]
    assert isinstance(queue, turbotext.TurbotextSpeaker)
    queue.reconnects = 1_000_000  # does not finish until this is set to 0
    reply = post_photo(processes, sandbox, "turbotext", retry={"repeat_ambiguous": True})
    sandbox.wait_for(lambda: len(find_polls(sandbox)) > 0)
    replace_worker(processes)
    count = len(find_polls(sandbox))
    sandbox.wait_for(lambda: len(find_polls(sandbox)) > count)
    queue.reconnects = 0
    assert reply().status == 200
    if without:
        assert len(find_paid_requests(sandbox)) == 2
        return
    assert len(find_paid_requests(sandbox)) == 1
    assert {r.body for r in find_polls(sandbox)} == {b"do=get_result&queueid=4001"}
    assert outcomes() == ["made"]
    assert steps() == ["received", "dispatched", "dispatched", "provider_responded", "succeeded"]
    references = ProcessingLog.objects.filter(status="dispatched").values_list("details__provider_reference", flat=True)
    assert set(references) == {None, "generate_image2image:4001"}


@pytest.mark.parametrize("provider", ["gemini", "turbotext"])
@with_and_without("earlier calls")
def test_a_call_whose_answer_is_lost_with_it_is_not_repeated(
    processes: Processes, sandbox: WireSandbox, provider: str, without: str | None
) -> None:
    processes.without = without
    sandbox.speakers[provider].play("hold")
    reply = post_photo(processes, sandbox, provider)
    sandbox.wait_for(lambda: len(find_paid_requests(sandbox)) == 1)
    replace_worker(processes)
    if without:
        assert reply().status == 200
        assert len(find_paid_requests(sandbox)) == 2
        return
    assert refusal(reply(), 500, "internal_error")["reason"] == "internal"
    assert len(find_paid_requests(sandbox)) == 1
    assert outcomes() == ["ambiguous"]
    assert "may have been billed" in Job.objects.get().error_message
    assert "may have been billed" in ProcessingLog.objects.get(status="failed").details["error"]


def test_between_picture_and_finalize_a_queue_is_not_paid_again(processes: Processes, sandbox: WireSandbox) -> None:
    """The job's row is locked, so that the worker has its picture and cannot end the job."""
    sandbox.speakers["turbotext"].play("reconnect:20")
    reply = post_photo(processes, sandbox, "turbotext")
    sandbox.wait_for(lambda: len(find_polls(sandbox)) > 0)
    with transaction.atomic():
        Job.objects.select_for_update().get()
        sandbox.wait_for(lambda: len(sandbox.calls("turbotext", "GET")) == 1)  # the picture's download
        eventually(is_anybody_blocked)
        processes.worker(PUBLIC_BASE_URL=processes.url)
        processes.started[0].kill()
        processes.started[0].wait()
    Job.objects.update(lease_expires_at=Now())
    reply()
    assert len(find_paid_requests(sandbox)) == 1
    assert Job.objects.get().is_finalized


def test_unless_the_slot_says_so(processes: Processes, sandbox: WireSandbox) -> None:
    sandbox.speakers["gemini"].play("hold")
    reply = post_photo(processes, sandbox, "gemini", retry={"repeat_ambiguous": True})
    sandbox.wait_for(lambda: len(find_paid_requests(sandbox)) == 1)
    replace_worker(processes)
    assert reply().status == 200
    assert len(find_paid_requests(sandbox)) == 2
    assert outcomes() == ["ambiguous", "made"]
