"""A web process is killed, a booth hangs up, a disk takes nothing: one picture is paid for, however often one posts."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.conf import settings

from jobs.models import Job
from stats.models import HourlyCounter, ProcessingLog
from tests.booth_client import Reply
from tests.conftest import Booth, Processes, in_background, jpeg, stored_files, use_sandbox
from tests.faults.guards import with_and_without
from tests.ingest.helpers import connect, eventually, form, nothing_left, pad, refusal, serialize_post
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.e2e


def count_paid(sandbox: Sandbox) -> int:
    return len([call for call in sandbox.journal if call.method == "POST"])


def post_if_possible(booth: Booth) -> Reply | None:
    try:
        return booth.post(jpeg(), id="one")
    except OSError:
        return None


@with_and_without("joining")
def test_a_booth_whose_web_process_was_killed_posts_again_and_nothing_is_paid_twice(
    processes: Processes, sandbox: Sandbox, without: str | None
) -> None:
    use_sandbox("instant", "hold")
    processes.worker()
    processes.without = without
    web = processes.web()
    lost = in_background(lambda: [post_if_possible(Booth(processes.url))])
    sandbox.wait_for_calls(1)
    web.kill()
    web.wait()
    assert lost() == [None]
    processes.web()
    again = in_background(lambda: Booth(processes.url).post(jpeg(), id="one"))
    eventually(lambda: ProcessingLog.objects.filter(status="received").count() == 2)
    if without:
        sandbox.wait_for_calls(2)
    sandbox.let_go()
    assert again().body == developed(jpeg())
    jobs = 2 if without else 1
    assert (count_paid(sandbox), Job.objects.count()) == (jobs, jobs)
    eventually(lambda: HourlyCounter.objects.get().success == jobs)


@pytest.mark.parametrize("how", ["closes", "resets"])
@with_and_without("joining")
def test_a_booth_that_hangs_up_gets_the_same_picture_later(
    processes: Processes, sandbox: Sandbox, how: str, without: str | None
) -> None:
    use_sandbox("instant", "hold")
    processes.worker()
    processes.without = without
    processes.web()
    with connect(processes.url) as connection:
        connection.sendall(serialize_post(processes.url, **form(jpeg(), id="one")))
        sandbox.wait_for_calls(1)
        if how == "resets":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    again = in_background(lambda: Booth(processes.url).post(jpeg(), id="one"))
    eventually(lambda: ProcessingLog.objects.filter(status="received").count() == 2)
    if without:
        sandbox.wait_for_calls(2)
    sandbox.let_go()
    assert again().body == developed(jpeg())
    assert count_paid(sandbox) == (2 if without else 1)


@contextmanager
def folder_blocked(name: str) -> Iterator[None]:
    """Nothing can be written to the folder: a file has its name. (Root's processes ignore permissions.)"""
    folder = Path(settings.MEDIA_ROOT) / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()


def test_a_photo_that_cannot_be_stored_is_refused_and_leaves_nothing(processes: Processes, sandbox: Sandbox) -> None:
    use_sandbox("instant")
    processes.web()
    processes.worker()
    booth = Booth(processes.url)
    with folder_blocked("payloads"):
        for photo in (jpeg(), pad(jpeg(), 8 * 1024 * 1024)):
            reply = booth.post(photo)
            assert reply.status in (500, 503)
            refusal(reply, reply.status, "internal_error" if reply.status == 500 else "queue_unavailable")
    assert nothing_left()
    assert not [*Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir()]
    assert booth.post(jpeg()).status == 200
    assert count_paid(sandbox) == 1


def test_a_picture_that_cannot_be_stored_reaches_its_booth_all_the_same(processes: Processes, sandbox: Sandbox) -> None:
    use_sandbox("instant")
    processes.web()
    processes.worker()
    with folder_blocked("results"):
        assert Booth(processes.url).post(jpeg()).body == developed(jpeg())
    assert count_paid(sandbox) == 1
    assert Job.objects.get().result_file_path is None
    eventually(lambda: stored_files() == [])
