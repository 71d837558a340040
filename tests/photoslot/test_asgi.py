"""What stands in front of Django: a booth that waits costs next to nothing."""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from jobs.models import Job
from photoslot.asgi import application
from tests.api import make_api
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.ingest.helpers import MEGABYTE, connect, read_reply, refusal
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


JSON_TOO_LARGE = b'{"name": "' + b"x" * 3 * MEGABYTE + b'"}'


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
@pytest.mark.parametrize("path", ["/api/login", "/api/slots", "/admin/login/", "/healthz", "/nothing"])
def test_a_body_that_holds_no_file_is_limited_before_it_is_read(web: httpx.Client, path: str, kind: str) -> None:
    headers = {"Content-Type": kind} | make_api("slots:write").headers
    reply = web.post(path, content=JSON_TOO_LARGE, headers=headers)
    assert refusal(reply, 413, "payload_too_large") == {"limit_bytes": settings.DATA_UPLOAD_MAX_MEMORY_SIZE}
    chunks = iter([JSON_TOO_LARGE])
    refusal(web.post(path, content=chunks, headers=headers), 413, "payload_too_large")


NO_STATIC_FILES = ("..%2f", "..%2f..%2fmanage.py", "%2e%2e/", "/etc/passwd", "%00", "%D1%81", "%ff", "", "nothing")


@pytest.mark.parametrize("name", NO_STATIC_FILES)
def test_what_is_no_static_file_has_the_envelope(web: httpx.Client, name: str) -> None:
    with connect(str(web.base_url)) as connection:  # httpx would tidy up the path
        connection.sendall(f"GET /static/{name} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        reply = read_reply(connection)
    refusal(reply, 404, "not_found")
