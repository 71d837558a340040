"""What a body takes while it comes: nothing of a stranger's, one file of a booth's, and never more than there is."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import httpx
import pytest
from django.conf import settings

from jobs.models import Job
from tests.api import make_api
from tests.conftest import PASSWORD, Booth, Processes, jpeg, use_sandbox
from tests.ingest.helpers import MEGABYTE, connect, eventually, form, nothing_left, pad, read_reply, refusal
from tests.sandbox.server import Sandbox

pytestmark = pytest.mark.contract

BOUNDARY = "a-boundary"
END = f"\r\n--{BOUNDARY}--\r\n".encode()


def make_head(url: str, length: int) -> bytes:
    host = httpx.URL(url).netloc.decode()
    lines = [
        "POST /ingest/slot-001 HTTP/1.1",
        f"Host: {host}",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {length}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def field(name: str, value: str) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def photo_part(photo: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="fileToUpload"; filename="a.jpg"\r\n\r\n'
    return head.encode() + photo


def begin(connection: socket.socket, url: str, *parts: bytes, length: int = 40 * MEGABYTE) -> None:
    """Sends the head of a request, and so much of its body."""
    connection.sendall(make_head(url, length) + b"".join(parts))


def find_uploads(processes: Processes) -> dict[int, int]:
    """Sizes of the files where uploads go that the web process holds open, by inode."""
    found = {}
    for descriptor in Path(f"/proc/{processes.started[0].pid}/fd").iterdir():
        try:
            if str(descriptor.readlink()).startswith(str(settings.MEDIA_ROOT)):
                found[descriptor.stat().st_ino] = descriptor.stat().st_size
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


@pytest.fixture
def own(processes: Processes) -> Processes:
    processes.web()
    return processes


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_ends_the_post_before_the_photo(own: Processes, password: str) -> None:
    with connect(own.url) as connection:
        begin(connection, own.url, field("id", "1"), field("password", password), photo_part(bytes(3 * MEGABYTE)))
        reply = read_reply(connection)  # the rest is never sent
        refusal(reply, 401, "invalid_credentials")
        assert reply.headers["connection"] == "close"
        assert find_uploads(own) == {}
    assert nothing_left()


def test_a_form_that_is_malformed_ends_the_post_too(own: Processes) -> None:
    with connect(own.url) as connection:
        begin(connection, own.url, *(field(f"field{i}", "x") for i in range(66)))  # the 65th is whole
        refusal(read_reply(connection), 400, "invalid_payload")


def test_a_photo_is_written_once(own: Processes, sandbox: Sandbox) -> None:
    """The file that the body is written to while it comes is the one that the job keeps."""
    own.worker()
    use_sandbox("instant", "hold")
    photo = pad(jpeg(), 8 * MEGABYTE)
    body = field("password", PASSWORD) + photo_part(photo) + END
    with connect(own.url) as connection:
        begin(connection, own.url, body[: 6 * MEGABYTE], length=len(body))
        eventually(lambda: sum(find_uploads(own).values()) > 5 * MEGABYTE)
        assert len(find_uploads(own)) == 1
        inode = next(iter(find_uploads(own)))
        connection.sendall(body[6 * MEGABYTE :])
        sandbox.wait_for_calls(1)
        kept = Path(settings.MEDIA_ROOT, str(Job.objects.get().payload_path))
        assert kept.stat().st_ino == inode
        assert kept.read_bytes() == photo
        sandbox.let_go()
        assert read_reply(connection).status == 200


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_a_password_may_come_after_the_photo(own: Processes, password: str) -> None:
    own.worker()
    use_sandbox("instant")
    body = photo_part(pad(jpeg(), 4 * MEGABYTE)) + b"\r\n" + field("id", "1") + field("password", password)
    body = body.removesuffix(b"\r\n") + END
    with connect(own.url) as connection:
        begin(connection, own.url, body, length=len(body))
        assert read_reply(connection).status == (200 if password == PASSWORD else 401)


def test_bodies_under_way_are_limited_and_strangers_do_not_take_the_booths_share(processes: Processes) -> None:
    processes.web(INGEST_MAX_FILE_MB="1", QUEUE_MAX_IN_FLIGHT_JOBS="2")  # 4 MB: two of one photo and its form
    processes.worker()
    use_sandbox("instant")
    nearly = 2 * MEGABYTE
    with connect(processes.url) as one, connect(processes.url) as two, connect(processes.url) as three:
        for connection in (one, two):
            begin(connection, processes.url, photo_part(bytes(nearly - 100_000)), length=nearly)
        eventually(lambda: sum(find_uploads(processes).values()) > 3 * MEGABYTE)
        begin(three, processes.url, photo_part(bytes(nearly - 100_000)), length=nearly)
        reply = read_reply(three)
        refusal(reply, 503, "queue_unavailable")
        assert int(reply.headers["retry-after"]) > 0
        assert Booth(processes.url).post(pad(jpeg(), MEGABYTE)).status == 200
    eventually(nothing_of_uploads_left)
    post = httpx.post(f"{processes.url}/ingest/slot-001", **form(bytes(MEGABYTE)))
    refusal(post, 400, "invalid_payload")  # what has gone counts no more


def nothing_of_uploads_left() -> bool:
    return not [*Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir()]


def test_a_folder_for_uploads_that_was_removed_is_made_again(web: httpx.Client) -> None:
    headers = make_api("slots:write").headers
    photo = pad(jpeg(), 4 * MEGABYTE)
    use_sandbox("instant")
    shutil.rmtree(settings.FILE_UPLOAD_TEMP_DIR)
    assert web.post("/ingest/slot-001", **form(photo)).status_code == 200
    shutil.rmtree(settings.FILE_UPLOAD_TEMP_DIR)
    assert web.post("/api/media/register", files={"file": photo}, headers=headers).status_code == 201
    shutil.rmtree(settings.FILE_UPLOAD_TEMP_DIR)
    assert web.get("/readyz").json()["checks"]["storage"]
