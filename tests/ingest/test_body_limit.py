"""The body's limit: a body that is too large is refused before it is asked for, or while it is being sent."""

from __future__ import annotations

import select
from pathlib import Path

import httpx
import pytest
from django.conf import settings

from tests.booth_client import post_photo
from tests.conftest import Booth, Processes, jpeg
from tests.ingest.helpers import MEGABYTE, connect, eventually, form, nothing_left, read_reply, refusal, serialize_post

pytestmark = pytest.mark.contract

OVER = 2 * MEGABYTE + 1  # one for the file, one for the rest of the form
CHUNK = 64 * 1024
CHUNKED = {"Transfer-Encoding": "chunked"}


@pytest.fixture
def limited(processes: Processes) -> Processes:
    processes.web(INGEST_MAX_FILE_MB="1")
    return processes


def list_spooled_files(processes: Processes) -> list[str]:
    """Files that the web process holds open where uploads go, also those without a name."""
    found = []
    for descriptor in Path(f"/proc/{processes.started[0].pid}/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return [path for path in found if path.startswith(str(settings.MEDIA_ROOT))]


def test_a_body_that_is_too_large_is_never_asked_for(limited: Processes) -> None:
    reply = Booth(limited.url).post(bytes(OVER))
    assert not reply.body_was_sent
    assert refusal(reply, 413, "payload_too_large") == {"limit_bytes": MEGABYTE}
    assert nothing_left()


def test_the_connection_of_a_body_not_asked_for_is_closed(limited: Processes) -> None:
    """Else the next request on it would be taken for the body."""
    post = serialize_post(limited.url, headers={"Expect": "100-continue"}, **form(bytes(OVER)))
    head = post.partition(b"\r\n\r\n")[0]
    with connect(limited.url) as connection:
        connection.sendall(head + b"\r\n\r\n")
        reply = read_reply(connection)
        refusal(reply, 413, "payload_too_large")
        assert reply.headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_without_expect_the_answer_comes_all_the_same(limited: Processes) -> None:
    reply = httpx.post(f"{limited.url}/ingest/slot-001", **form(bytes(OVER)))
    assert refusal(reply, 413, "payload_too_large") == {"limit_bytes": MEGABYTE}


def test_chunks_beyond_the_limit_are_refused_while_they_are_sent(limited: Processes) -> None:
    head = serialize_post(limited.url, headers=CHUNKED | {"Content-Type": "multipart/form-data; boundary=x"})
    chunk = f"{CHUNK:x}\r\n".encode() + bytes(CHUNK) + b"\r\n"
    with connect(limited.url) as connection:
        connection.sendall(head)
        sent = 0
        while not select.select([connection], [], [], 0)[0]:
            connection.sendall(chunk)
            sent += CHUNK
            assert sent < 100 * OVER, "never refused"
        assert refusal(read_reply(connection), 413, "payload_too_large") == {"limit_bytes": MEGABYTE}
    assert sent > 2 * MEGABYTE
    eventually(lambda: list_spooled_files(limited) == [])
    assert nothing_left()


def test_a_chunked_photo_within_the_limit_is_taken(limited: Processes) -> None:
    limited.worker()
    request = httpx.Request("POST", limited.url, **form(jpeg()))
    pieces = iter([request.read()])  # an iterator has no length, so it is sent in chunks
    headers = {"Content-Type": request.headers["Content-Type"]}
    assert httpx.post(f"{limited.url}/ingest/slot-001", content=pieces, headers=headers, timeout=60).status_code == 200


def test_the_form_does_not_count_against_the_photo(limited: Processes) -> None:
    """A photo of just the limit is not too large, one more byte is; that is seen only after the password."""
    photo = jpeg() + bytes(MEGABYTE + 1 - len(jpeg()))
    refusal(Booth(limited.url).post(photo, password="wrong"), 401, "invalid_credentials")
    reply = Booth(limited.url).post(photo)
    assert reply.body_was_sent
    assert refusal(reply, 413, "payload_too_large") == {"limit_bytes": MEGABYTE}
    limited.worker()
    assert Booth(limited.url).post(photo[:-1]).status == 200


def test_other_addresses_have_the_limit_too(limited: Processes) -> None:
    for path in ("/nothing", "/api/slots/slot-001/test-run"):
        refusal(httpx.post(f"{limited.url}{path}", content=bytes(OVER)), 413, "payload_too_large")
        reply = post_photo(f"{limited.url}{path}", bytes(OVER), {})
        assert not reply.body_was_sent
        assert refusal(reply, 413, "payload_too_large") == {"limit_bytes": MEGABYTE}
