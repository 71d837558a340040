"""A worker is told to stop while calls are under way, alone and as each in turn is replaced under load."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from ingest.models import IngestSettings
from jobs.models import Job, Process
from providers.models import ProviderCall
from stats.models import HourlyCounter, ProcessingLog
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.ingest.helpers import eventually, refusal
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.e2e

CALL_SECONDS = 6.0  # stands for the longest calls, of 28 s; the grace covers both
BOOTHS, ROUNDS = 12, 2


@pytest.mark.parametrize("grace", ["default", "1"])
def test_a_call_under_way_is_waited_for(processes: Processes, sandbox: Sandbox, grace: str) -> None:
    """With too short a grace, the paid picture is lost; nobody pays for another."""
    use_sandbox("instant", "hold")
    processes.web()
    worker = processes.worker(**({} if grace == "default" else {"WORKER_GRACE_SECONDS": grace}))
    reply = in_background(lambda: Booth(processes.url).post(jpeg()))
    sandbox.wait_for_calls(1)
    worker.send_signal(signal.SIGTERM)
    successor = processes.worker()
    threading.Event().wait(CALL_SECONDS)  # the provider's time
    sandbox.let_go()
    assert worker.wait(30) == 0
    answer = reply()
    assert len(sandbox.journal) == 1
    if grace == "default":
        assert answer.body == developed(jpeg())
        assert [call.outcome for call in ProviderCall.objects.all()] == ["made"]
    else:
        assert refusal(answer, 500, "internal_error")["reason"] == "internal"
        assert [call.outcome for call in ProviderCall.objects.all()] == ["ambiguous"]
    assert successor.poll() is None


def is_at_work(worker: subprocess.Popen[bytes]) -> bool:
    return Process.objects.filter(name__endswith=f" {worker.pid}").exists()


def replace(processes: Processes, old: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    old.send_signal(signal.SIGTERM)
    successor = processes.worker()
    assert old.wait(30) == 0
    eventually(lambda: is_at_work(successor), 20)
    return successor


def test_a_rolling_restart_loses_no_photo(processes: Processes, sandbox: Sandbox) -> None:
    """Two workers are replaced in turn, a few times, while booths post one photo after another."""
    use_sandbox("queued", "ok")
    use_sandbox("instant", "ok", "slot-002")
    IngestSettings.objects.update(sync_response_seconds=48)
    processes.web()
    workers = [processes.worker(), processes.worker()]
    is_over = threading.Event()
    found: Counter[int] = Counter()

    def post_on(number: int) -> None:
        booth, turn = Booth(processes.url), 0
        while not is_over.is_set():
            turn += 1
            slot = f"slot-00{1 + number % 2}"
            found[booth.post(jpeg(), slot, id=f"{number}-{turn}").status] += 1

    with ThreadPoolExecutor(BOOTHS) as pool:
        futures = [pool.submit(post_on, number) for number in range(BOOTHS)]
        try:
            eventually(lambda: found[200] > BOOTHS and all(map(is_at_work, workers)), 20)
            for turn in range(2 * ROUNDS):
                workers[turn % 2] = replace(processes, workers[turn % 2])
                count = found[200] + 1
                eventually(partial(lambda count: found[200] >= count, count), 20)
        finally:
            is_over.set()
        for future in futures:
            future.result(70)
    assert found.keys() == {200}
    paid = len([call for call in sandbox.journal if call.method == "POST"])
    assert paid == found.total() == Job.objects.filter(failure_reason=None).count()
    assert set(ProviderCall.objects.values_list("outcome", flat=True)) == {"made"}
    assert sum(counter.success for counter in HourlyCounter.objects.all()) == paid
    assert ProcessingLog.objects.filter(status="succeeded").count() == paid
