"""The sandbox's transport: each fault has the effect of its name on a plain client."""

from __future__ import annotations

import gzip
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.sandbox import gemini, gemini_errors, openai_faults
from tests.sandbox.pictures import BASE64, ODD
from tests.sandbox.wire import CHANGES, COMMON, FAULTS, Received, Reply, Speaker, WireSandbox, common

pytestmark = pytest.mark.integration

BODY = b'{"greeting": "' + b"hello " * 2000 + b'"}'


class Plain(Speaker):
    prefix = "plain"

    def answer(self, request: Received) -> Reply:
        name, argument = self.scenario(request.body.decode())
        reply = Reply(200, BODY, headers={"X-Twice": "1"})
        return common(name, argument, reply) if name else reply


@pytest.fixture(scope="module")
def sandbox() -> Iterator[WireSandbox]:
    with WireSandbox([Plain]).run() as running:
        yield running


def post(sandbox: WireSandbox, scenario: str = "", **more: float) -> httpx.Response:
    return httpx.post(f"{sandbox.url}/plain/x", content=f"[[{scenario}]]", **more)  # type: ignore[arg-type]


def send_raw(sandbox: WireSandbox, request: bytes) -> socket.socket:
    port = int(sandbox.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.sendall(request)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Reads until the other side closes."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("scenario", ["", "slow_headers:0", "drip:0", "chunked", "http10", "gzip", "duplicate_headers"])
def test_a_body_that_travels_oddly_is_whole(sandbox: WireSandbox, scenario: str) -> None:
    assert post(sandbox, scenario).content == BODY


@pytest.mark.parametrize("scenario", ["truncated", "reset", "lost"])
def test_a_body_that_is_lost(sandbox: WireSandbox, scenario: str) -> None:
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        post(sandbox, scenario)


@pytest.mark.parametrize("scenario", ["slow_headers:5", "hold"])
def test_headers_that_do_not_come(sandbox: WireSandbox, scenario: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        post(sandbox, scenario, timeout=0.2)


def test_a_body_may_drip(sandbox: WireSandbox) -> None:
    started = time.monotonic()
    with httpx.stream("POST", f"{sandbox.url}/plain/x", content="[[drip:0.5]]") as answer:
        headers_after = time.monotonic() - started
        answer.read()
    assert time.monotonic() - started >= headers_after + 0.3


def test_a_client_that_hangs_up_is_recorded(sandbox: WireSandbox) -> None:
    sandbox.reset()
    with pytest.raises(httpx.ReadTimeout):
        post(sandbox, "hold", timeout=0.2)
    sandbox.wait_for(lambda: [request.path for request in sandbox.hung_up] == ["/x"])


@pytest.mark.parametrize("scenario", sorted(COMMON - {"hold"}))
def test_every_common_scenario_differs_from_the_usual(sandbox: WireSandbox, scenario: str) -> None:
    reply = Reply(200, BODY)
    argument = {"rename": "greeting", "slow_headers": "0", "drip": "0", "bomb": "1"}.get(scenario, "")
    assert common(scenario, argument, reply) != reply
    assert (scenario in FAULTS) != (scenario in CHANGES)


def test_headers_may_come_twice(sandbox: WireSandbox) -> None:
    assert post(sandbox, "duplicate_headers").headers.get_list("x-twice") == ["1", "1"]


def test_gzip_is_gzip(sandbox: WireSandbox) -> None:
    head = b"POST /plain/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8\r\n\r\n[[gzip]]"
    assert gzip.decompress(read_all(send_raw(sandbox, head)).partition(b"\r\n\r\n")[2]) == BODY


def test_a_kept_connection_may_be_closed_after_its_answer(sandbox: WireSandbox) -> None:
    request = b"POST /plain/x HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\n\r\n[[keep_alive_closed]]"
    answer = read_all(send_raw(sandbox, request))  # which did not announce that it would be closed
    assert answer.endswith(BODY)
    assert b"connection: close" not in answer.lower()


def test_a_request_with_expect_gets_a_100_continue(sandbox: WireSandbox) -> None:
    head = (
        b"POST /plain/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    )
    connection = send_raw(sandbox, head + b"\r\n\r\n")
    assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"body")
    assert read_all(connection).endswith(BODY)


SCENARIOS = [
    *COMMON,
    *(f"picture:{name}" for name in ODD),
    *(f"base64:{name}" for name in BASE64),
    *(gemini.ANSWERS.keys() | gemini_errors.ERRORS.keys() | gemini_errors.LIMITS.keys()),
    *(openai_faults.ERRORS.keys() | openai_faults.BODIES.keys()),
]


@pytest.mark.parametrize("scenario", sorted({*SCENARIOS}))
def test_the_table_of_faults_names_every_scenario(scenario: str) -> None:
    table = (Path(gemini.__file__).parent / "FAULTS.md").read_text()
    assert re.search(f"`{re.escape(scenario)}[`:]", table)
