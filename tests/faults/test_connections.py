"""Clients that open connections and do not go on: they are closed, and the booths do not notice."""

from __future__ import annotations

import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from photoslot.http_protocol import (
    BODY_BYTES_PER_SECOND,
    BODY_SECONDS,
    CHECK_SECONDS,
    HEADER_SECONDS,
    PER_ADDRESS,
    SILENT_SECONDS,
)
from photoslot.supervisor import build_web_command
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.faults.guards import with_and_without
from tests.ingest.helpers import MEGABYTE, connect, eventually, form, pad, read_reply, refusal, serialize_post
from tests.sandbox.server import Sandbox

pytestmark = pytest.mark.e2e

MARGIN = 3 * CHECK_SECONDS
STRANGER, BOOTH = "127.0.0.2", "127.0.0.3"


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has ended it, one way or the other."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return not connection.recv(65536)
    except ConnectionError:
        return True


def wait_until_closed(connection: socket.socket, seconds: float) -> float:
    """How long it took. Fails after `seconds`."""
    began = time.monotonic()
    eventually(lambda: is_closed(connection), seconds)
    return time.monotonic() - began


@with_and_without("slow clients")
def test_headers_that_never_end_are_given_up(processes: Processes, without: str | None) -> None:
    processes.without = without
    processes.web()
    processes.worker()
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(processes.url)) for _ in range(300)]
        for number, connection in enumerate(connections):
            connection.sendall([b"", b"POST /ingest/slot-001 HTTP/1.1\r\nHost: here\r\n"][number % 2])
        assert Booth(processes.url).post(jpeg()).status == 200
        open_ones = {*connections}

        def close_some() -> bool:
            for connection in [each for each in open_ones if is_closed(each)]:
                open_ones.remove(connection)
            return not open_ones

        if without:
            threading.Event().wait(HEADER_SECONDS + MARGIN)
            close_some()
            assert len(open_ones) == len(connections)
        else:
            eventually(close_some, HEADER_SECONDS + MARGIN + 10)


def test_a_body_has_to_come_on(processes: Processes) -> None:
    """At the same time: one that stops, one that dribbles, one that is slow but fast enough, and an idle connection."""
    processes.web()
    processes.worker()
    use_sandbox("instant")
    seconds = BODY_SECONDS + 2 * MARGIN
    size = int(1.5 * BODY_BYTES_PER_SECOND * seconds)
    post = serialize_post(processes.url, headers={"Connection": "close"}, **form(pad(jpeg(), size)))
    head = post[: 64 * 1024]
    stop = threading.Event()

    def send_slowly(connection: socket.socket, data: bytes, bytes_per_second: int) -> None:
        for at in range(0, len(data), bytes_per_second):
            if stop.is_set():
                return
            try:
                connection.sendall(data[at : at + bytes_per_second])
            except ConnectionError:
                return
            stop.wait(1)  # the pace of a slow uplink

    with (
        connect(processes.url) as stopped,
        connect(processes.url) as dribbling,
        connect(processes.url) as slow,
        connect(processes.url) as idle,
    ):
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        for connection in (stopped, dribbling, slow):
            connection.sendall(head)
        rest = post[len(head) :]
        senders = [
            threading.Thread(target=send_slowly, args=[dribbling, rest, 100]),
            threading.Thread(target=send_slowly, args=[slow, rest, int(1.5 * BODY_BYTES_PER_SECOND)]),
        ]
        for sender in senders:
            sender.start()
        try:
            wait_until_closed(idle, 30)
            wait_until_closed(stopped, SILENT_SECONDS + MARGIN + 10)
            wait_until_closed(dribbling, BODY_SECONDS + MARGIN + 10)
            assert read_reply(slow).status == 200
        finally:
            stop.set()
            for sender in senders:
                sender.join(30)


def test_who_does_not_read_is_given_up(processes: Processes) -> None:
    """Responses of some megabytes in all, more than the system's buffers hold, and a client that takes none."""
    processes.web()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", processes.port))
        connection.sendall(b"GET /api/schema HTTP/1.1\r\nHost: here\r\n\r\n" * 100)
        eventually(lambda: not list_connections(processes), 60 + SILENT_SECONDS + MARGIN)


def list_connections(processes: Processes) -> list[str]:
    """TCP connections established to the web process's port, as the server sees them."""
    port = f":{processes.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return [row[2] for row in rows if row[1].endswith(port) and row[3] == "01"]


@with_and_without("share of an address")
def test_one_address_gets_its_share_of_connections(processes: Processes, without: str | None) -> None:
    processes.without = without
    processes.web()
    with ExitStack() as stack:
        strangers = [stack.enter_context(connect(processes.url, STRANGER)) for _ in range(PER_ADDRESS + 20)]
        if without:
            strangers[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            assert read_reply(strangers[-1]).status == 200
            return
        eventually(lambda: sum(is_closed(each) for each in strangers[PER_ADDRESS:]) == 20)
        assert not any(is_closed(each) for each in strangers[:PER_ADDRESS])
        # A reverse proxy on this machine opens as many as it likes.
        local = [stack.enter_context(connect(processes.url)) for _ in range(PER_ADDRESS + 20)]
        local[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert read_reply(local[-1]).status == 200


def start_with_descriptors(processes: Processes, soft: int, hard: int, without: str | None = None) -> Callable[[], int]:
    """A web process with these limits. Returns what tells its soft limit of now."""
    limit = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
    unguarded = ["-m", "tests.faults.unguarded", without, "--"] if without else []
    command = [sys.executable, *unguarded, *build_web_command(processes.port)[1:]]
    process = processes.start("-c", limit + f"os.execv({sys.executable!r}, {command!r})")
    booth = Booth(processes.url)

    def is_up() -> bool:
        try:
            return booth.post(b"", password="").status == 401
        except OSError:
            return False

    eventually(is_up, 30)

    def read_limit() -> int:
        line = next(
            line for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if "open files" in line
        )
        return int(line.split()[3])

    return read_limit


@with_and_without("room for booths")
def test_near_the_limit_of_descriptors_booths_are_not_cut_off(
    processes: Processes, sandbox: Sandbox, without: str | None
) -> None:
    """Neither those that wait nor those that come."""
    read_limit = start_with_descriptors(processes, soft=64, hard=512, without=without)
    assert read_limit() == 512
    processes.worker()
    use_sandbox("instant", "hold")
    waiting = in_background(lambda: Booth(processes.url).post(jpeg()))
    sandbox.wait_for_calls(1)
    with ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(connect(processes.url))
        use_sandbox("instant")
        if without:
            with pytest.raises(httpx.TransportError):
                httpx.post(f"{processes.url}/ingest/slot-001", timeout=3, **form(jpeg(), id="late"))
            sandbox.let_go()
            return
        replies = [Booth(processes.url).post(jpeg(), id=str(number)).status for number in range(5)]
        assert replies == [200] * 5
        sandbox.let_go()
        assert waiting().status == 200


def test_a_refusal_reaches_a_booth_that_sends_all_before_it_reads(processes: Processes) -> None:
    processes.web()
    with connect(processes.url) as connection:
        connection.sendall(serialize_post(processes.url, **form(pad(jpeg(), 40 * MEGABYTE), "wrong")))
        reply = read_reply(connection)
    refusal(reply, 401, "invalid_credentials")
    assert reply.headers["connection"] == "close"
