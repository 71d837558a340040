"""What stands in front of Django: a booth that waits costs next to nothing."""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.models import Job
from photoslot.asgi import application
from tests.api import make_api
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.photoslot.waiting import until

pytestmark = [pytest.mark.integration]

HELD = 40


def test_a_held_booth_costs_no_thread_and_all_hear_when_the_process_leaves(processes: Processes) -> None:
    use_sandbox("instant", "hold")
    web = processes.web(QUEUE_MAX_IN_FLIGHT_JOBS=str(2 * HELD + 1), WORKER_GRACE_SECONDS="1")
    booth = Booth(processes.url)
    replies = [in_background(lambda i=i: booth.post(jpeg(), id=str(i))) for i in range(HELD)]  # type: ignore[misc]
    test_run, headers = f"{processes.url}/api/slots/slot-001/test-run", make_api("slots:write").headers
    staff = in_background(lambda: httpx.post(test_run, files={"file": jpeg()}, headers=headers, timeout=60))
    until(lambda: Job.objects.count() == HELD + 1)
    assert len(list(Path(f"/proc/{web.pid}/task").iterdir())) < HELD
    processes.stop()
    assert {reply().status for reply in replies} == {staff().status_code} == {503}
    # Booths post again and join; a test run nobody can come back for.
    assert [job.failure_reason for job in Job.objects.order_by("source")] == [None] * HELD + ["cancelled"]


async def test_a_request_is_answered_once_though_its_handler_goes_on() -> None:
    """Django, cancelled, leaves the view to its thread: it answers when the process has done so already."""
    sent: list[Any] = []
    came, hung_up = asyncio.Event(), asyncio.Event()
    messages = [{"type": "http.request", "body": b""}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        came.set()
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/healthz", "query_string": b"", "root_path": ""}
    scope |= {"scheme": "http", "http_version": "1.1", "headers": [(b"host", b"localhost")], "state": {}}
    others = asyncio.all_tasks()
    serving = asyncio.create_task(application(scope, receive, send))
    await came.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert scope["state"]["disconnected"].is_set()
    hung_up.set()
    while begun := asyncio.all_tasks() - others:
        await asyncio.wait(begun)
    assert [message.get("status") for message in sent] == [503, None]
    del serving
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # Django, cancelled, does not close the body
