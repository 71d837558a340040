"""Guests on slow lines: however many fetch a picture, everybody else is served."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from jobs.models import Job
from jobs.storage.links import file_url
from tests.conftest import Booth, Processes
from tests.jobs.results import make_picture, result_file
from tests.photoslot.waiting import until

pytestmark = pytest.mark.contract

READERS = 30  # three times the connections that a web process has for its views
PICTURE_BYTES = 4_000_000  # more than the kernel's buffers hold


@contextmanager
def begin_downloads(url: str, path: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that have asked for the file, received the start of it and read no further."""
    address = httpx.URL(url)
    with ExitStack() as stack:
        readers = []
        for _ in range(count):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.settimeout(20)
            reader.connect((address.host, address.port or 80))
            reader.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            readers.append(reader)
        for reader in readers:
            assert reader.recv(12) == b"HTTP/1.1 200"
        yield readers


@pytest.fixture
def job(booth: Booth) -> Job:
    made = make_picture(booth)
    result_file(made).write_bytes(bytes(PICTURE_BYTES))
    return made


def count_threads(process_id: int) -> int:
    return len(list(Path(f"/proc/{process_id}/task").iterdir()))


def find_open_files(process_id: int) -> list[Path]:
    found = []
    for path in Path(f"/proc/{process_id}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            found.append(path.readlink())
    return found


def test_slow_downloads_hold_up_nobody(job: Job, web: httpx.Client, shared_processes: Processes) -> None:
    until(lambda: web.get("/readyz").status_code == 200)
    process_id = shared_processes.started[0].pid
    with begin_downloads(shared_processes.url, file_url(job), READERS) as readers:
        for path in ("/readyz", "/metrics", f"/r/{job.pk}", f"/public/results/{job.pk}"):
            assert web.get(path).status_code in (200, 307), path
        login = web.post("/api/login", json={"username": "nobody", "password": "x"})
        assert login.status_code == 401
        assert count_threads(process_id) < READERS
        result_file(job).unlink()  # expired meanwhile: whoever has begun gets the rest
        received = b"".join(iter(lambda: readers[-1].recv(1_000_000), b""))
        assert received.partition(b"\r\n\r\n")[2] == bytes(PICTURE_BYTES)


def test_a_reader_that_leaves_closes_the_file(job: Job, web: httpx.Client, shared_processes: Processes) -> None:
    def count_open() -> int:
        return find_open_files(shared_processes.started[0].pid).count(result_file(job))

    with begin_downloads(shared_processes.url, file_url(job), 3):
        assert count_open() == 3
    until(lambda: count_open() == 0)
    assert web.get("/healthz").status_code == 200
