"""Posting again (contract §4): the same photo joins its job until it is delivered; the provider is not paid twice."""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from django.db.models import F
from PIL import Image

from jobs.models import Job
from stats.models import ProcessingLog
from tests.conftest import Booth, Processes, in_background, jpeg, set_slot, stored_files, use_sandbox
from tests.ingest.helpers import connect, eventually, form, serialize_post
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.contract


def count_calls(sandbox: Sandbox) -> int:
    return len([call for call in sandbox.journal if call.method == "POST"])


def hang_up_while_it_is_made(booth: Booth, sandbox: Sandbox, **fields: str) -> None:
    with connect(booth.url) as connection:
        connection.sendall(serialize_post(booth.url, **form(jpeg(), **fields)))
        sandbox.wait_for_calls(count_calls(sandbox) + 1)


def are_delivered(count: int = 1) -> bool:
    return Job.objects.exclude(delivered_at=None).count() == count


def test_under_way_it_joins_however_many_post_at_once(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    barrier = threading.Barrier(5)

    def post() -> Any:
        barrier.wait()
        return booth.post(jpeg(), id="CANON-1")

    replies = [in_background(post) for _ in range(5)]
    eventually(lambda: len(list_received()) == 5)
    assert stored_files() == [str(Job.objects.get().payload_path)]
    sandbox.let_go()
    pictures = [reply() for reply in replies]
    assert {reply.body for reply in pictures} == {developed(jpeg())}
    assert {reply.headers["x-job-id"] for reply in pictures} == {str(Job.objects.get().pk)}
    assert count_calls(sandbox) == 1


def list_received() -> list[Any]:
    return list(ProcessingLog.objects.filter(status="received").values_list("pk", flat=True))


def test_a_connection_that_broke_while_it_was_made_gets_the_picture(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    hang_up_while_it_is_made(booth, sandbox, id="1")
    sandbox.let_go()
    eventually(lambda: Job.objects.filter(is_finalized=True).exists())
    reply = booth.post(jpeg(), id="1")
    assert (reply.status, reply.body) == (200, developed(jpeg()))
    assert reply.headers["x-job-id"] == str(Job.objects.get().pk)
    assert count_calls(sandbox) == 1


def test_a_picture_is_still_there_for_its_booth_after_its_deadline(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold", on_failure="original")
    hang_up_while_it_is_made(booth, sandbox, id="1")
    sandbox.let_go()
    eventually(lambda: Job.objects.filter(is_finalized=True).exists())
    minute = timedelta(minutes=1)
    Job.objects.update(created_at=F("created_at") - minute, expires_at=F("expires_at") - minute)
    reply = booth.post(jpeg(), id="1")
    assert (reply.status, reply.body) == (200, developed(jpeg()))
    assert count_calls(sandbox) == 1


def test_a_connection_that_broke_inside_the_picture_gets_it_again(booth: Booth, sandbox: Sandbox) -> None:
    large = {"look": "cool", "output": {"width": 3000, "height": 2000, "format": "png"}}  # 18 MB of PNG: see below
    set_slot(settings_json=large)
    photo = make_noise()
    for _ in range(3):
        with connect(booth.url) as connection:
            connection.sendall(serialize_post(booth.url, **form(photo, id="1")))
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            # More than the sockets' buffers hold is still to come when the connection is reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reply = booth.post(photo, id="1")
    assert reply.headers["x-job-id"] == str(Job.objects.get().pk)
    assert len(reply.body) == int(reply.headers["content-length"]) > 12_000_000


def test_a_booth_that_hangs_up_behind_the_last_byte_has_its_picture(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant")
    for number in range(20):
        assert booth.post(jpeg(), id=str(number)).status == 200
    assert eventually(lambda: are_delivered(20))


def make_noise() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((1500, 1000), 100).convert("RGB").save(out, "JPEG", quality=95)
    return out.getvalue()


def test_a_delivered_picture_posted_again_is_another_try(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant")
    jobs = set()
    for number in (1, 2):
        jobs.add(booth.post(jpeg(), id="1").headers["x-job-id"])
        eventually(partial(are_delivered, number))
    assert (len(jobs), count_calls(sandbox)) == (2, 2)


def test_a_failed_job_posted_again_is_another_try(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "refuses")
    assert [booth.post(jpeg(), id="1").status for _ in range(2)] == [502, 502]
    assert count_calls(sandbox) == 2


def test_another_photo_slot_or_booth_is_another_job(booth: Booth, sandbox: Sandbox) -> None:
    for slot in ("slot-001", "slot-002"):
        use_sandbox("instant", "hold", slot)
    posts: list[Callable[[], Any]] = [
        lambda: booth.post(jpeg(), id="1"),
        lambda: booth.post(jpeg(), id="2"),
        lambda: booth.post(jpeg(), "slot-002", id="1"),
        lambda: booth.post(jpeg() + b"\0", id="1"),
    ]
    replies = [in_background(post) for post in posts]
    sandbox.wait_for_calls(4)
    sandbox.let_go()
    assert len({reply().headers["x-job-id"] for reply in replies}) == 4


def test_other_fields_make_no_other_photo(booth: Booth, sandbox: Sandbox) -> None:
    """Breeze's `time` and `hash` differ each time."""
    use_sandbox("instant", "hold")
    hang_up_while_it_is_made(booth, sandbox, id="1", time="1", hash="a")
    sandbox.let_go()
    assert booth.post(jpeg(), id="1", time="2", hash="b").status == 200
    assert count_calls(sandbox) == 1


def test_once_the_window_is_over_it_is_another_job(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    hang_up_while_it_is_made(booth, sandbox, id="1")
    sandbox.let_go()
    eventually(lambda: Job.objects.filter(is_finalized=True).exists())
    Job.objects.update(created_at=F("created_at") - timedelta(seconds=120))
    assert booth.post(jpeg(), id="1").status == 200
    assert count_calls(sandbox) == 2


def test_a_picture_that_has_expired_meanwhile_is_made_again(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    hang_up_while_it_is_made(booth, sandbox, id="1")
    sandbox.let_go()
    eventually(lambda: Job.objects.filter(is_finalized=True).exists())
    Job.objects.update(result_expires_at=F("created_at"))
    assert booth.post(jpeg(), id="1").status == 200
    assert count_calls(sandbox) == 2


def test_it_can_be_switched_off(processes: Processes, sandbox: Sandbox) -> None:
    processes.web(INGEST_DEDUPE_SECONDS="0")
    processes.worker()
    booth = Booth(processes.url)
    use_sandbox("instant", "hold")
    replies = [in_background(lambda: booth.post(jpeg(), id="1")) for _ in range(2)]
    sandbox.wait_for_calls(2)
    sandbox.let_go()
    assert len({reply().headers["x-job-id"] for reply in replies}) == 2


def test_joining_is_possible_with_a_full_queue(processes: Processes, sandbox: Sandbox) -> None:
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS="1")
    processes.worker()
    booth = Booth(processes.url)
    use_sandbox("instant", "hold")
    first = in_background(lambda: booth.post(jpeg(), id="1"))
    sandbox.wait_for_calls(1)
    assert httpx.post(f"{booth.url}/ingest/slot-001", **form(jpeg(), id="2")).status_code == 429
    again = in_background(lambda: booth.post(jpeg(), id="1"))
    eventually(lambda: len(list_received()) == 2)
    sandbox.let_go()
    assert [first().status, again().status] == [200, 200]
