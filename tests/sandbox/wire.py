"""The sandbox of the paid providers: one server on a real socket, a prefix for each, a journal of all requests.

    /gemini/…      speaks as generativelanguage.googleapis.com
    /openai/v1/…   as api.openai.com
    /turbotext/…   as www.turbotext.ru

A `Speaker` validates a request strictly and answers it. A token in the prompt, `[[scenario]]` or
`[[scenario:argument]]`, selects what it plays instead of a success, as does `Speaker.play`, one for each of the
next requests that would make a picture. The scenarios of all providers are here: `FAULTS` of the transport, `CHANGES`
of the reply; odd pictures are in `pictures`.
"""

from __future__ import annotations

import gzip
import re
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

TOKEN = re.compile(r"\[\[([a-z0-9_]+)(?::([^\]]*))?\]\]")
KEY_HEADERS = ("authorization", "x-goog-api-key")
WAIT_SECONDS = 30.0  # a test that waits longer has failed
HOLD_SECONDS = 120.0  # longer than any deadline: for a held request, for ever
KEPT_REQUESTS = 500  # in the journal: with photos of 1 MB half a gigabyte, and more than any test sends


# Called with every key and prompt that is received (`tests.leaks`).
listeners: list[Callable[[str], None]] = []


def report_secrets(*secrets: str) -> None:
    for listener in listeners:
        for secret in secrets:
            listener(secret)


@dataclass(frozen=True, slots=True)
class Received:
    """One request. `path` is without the provider's prefix."""

    provider: str
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # names in lower case
    body: bytes = field(repr=False)
    at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Reply:
    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""  # a key of FAULTS: how the wire spoils this reply
    argument: str = ""


class Speaker:
    """One provider's protocol. Subclasses set `prefix` and write `answer`."""

    prefix: ClassVar[str]

    def __init__(self, sandbox: WireSandbox) -> None:
        self.sandbox = sandbox
        self.script: deque[str] = deque()

    def answer(self, request: Received) -> Reply:
        raise NotImplementedError

    def play(self, *scenarios: str) -> None:
        """The next requests that would make a picture play these, one each ("name" or "name:argument")."""
        self.script.extend(scenarios)

    def scenario(self, prompt: str = "") -> tuple[str, str]:
        """Name and argument of the scenario that this request plays; ("", "") for success."""
        report_secrets(prompt)
        if self.script:
            name, _, argument = self.script.popleft().partition(":")
            return name, argument
        match = TOKEN.search(prompt)
        return (match[1], match[2] or "") if match else ("", "")

    def describe_parts(self, request: Received) -> list[tuple[str, str | None]]:
        """The parts of a request by name, each with the SHA-256 of its image if it has one: for the journal."""
        return []

    def reset(self) -> None:
        """Removes the state that a test has left."""
        self.script.clear()


class WireSandbox:
    """The server, its journal, and the gate at which held requests wait."""

    def __init__(self, speakers: list[type[Speaker]], port: int = 0) -> None:
        self.journal: list[Received] = []
        self.hung_up: list[Received] = []  # requests whose client hung up while they were held
        self._changed = threading.Condition()
        self._open: Counter[str] = Counter()
        self.most_open: Counter[str] = Counter()  # by provider: the most requests that were open at once
        self._gate = threading.Event()
        self.speakers = {kind.prefix: kind(self) for kind in speakers}
        self._server = _Server(("127.0.0.1", port), type("Bound", (_Handler,), {"sandbox": self}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def run(self) -> Iterator[WireSandbox]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="sandbox")
        thread.start()
        try:
            yield self
        finally:
            self.let_go()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def reset(self) -> None:
        self.let_go()
        with self._changed:
            self.journal.clear()
            self.hung_up.clear()
            self.most_open.clear()
            self._gate = threading.Event()
        for speaker in self.speakers.values():
            speaker.reset()

    def let_go(self) -> None:
        """Answers all held requests."""
        self._gate.set()

    @contextmanager
    def record(self, request: Received) -> Iterator[None]:
        """Adds the request to the journal, and counts it as open until it is answered."""
        provider = request.provider
        report_secrets(*(request.headers.get(name, "").removeprefix("Bearer ") for name in KEY_HEADERS))
        with self._changed:
            self.journal.append(request)
            del self.journal[:-KEPT_REQUESTS]
            self._open[provider] += 1
            self.most_open[provider] = max(self.most_open[provider], self._open[provider])
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._open[provider] -= 1

    def calls(self, provider: str, method: str = "POST", path: str = "") -> list[Received]:
        """The journal's requests to the provider whose path holds `path`."""
        return [r for r in self.journal if (r.provider, r.method) == (provider, method) and path in r.path]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds; it is evaluated whenever a request arrives or a client hangs up."""
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_SECONDS), "what the test waits for did not happen"

    def pause(self, seconds: float) -> None:
        """Sleeps, until `let_go` at the latest."""
        self._gate.wait(seconds)

    def hold(self, request: Received, connection: socket.socket) -> bool:
        """Blocks until `let_go`. Returns False if the client hung up first."""
        until = time.monotonic() + HOLD_SECONDS
        gate = self._gate
        while not gate.wait(0.02) and time.monotonic() < until:
            if _has_hung_up(connection):
                with self._changed:
                    self.hung_up.append(request)
                    self._changed.notify_all()
                return False
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # of the standard library's 5, fifteen booths at once lose some to a reset

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores clients that hang up; any other error is a bug of the sandbox and is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as it was called


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sandbox: WireSandbox

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        prefix, _, path = parts.path[1:].partition("/")
        speaker = self.sandbox.speakers.get(prefix)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(prefix, self.command, f"/{path}", parse_qs(parts.query), headers, self._body())
        with self.sandbox.record(request):
            reply = Reply(404, b"no such host") if speaker is None else speaker.answer(request)
            FAULTS[reply.fault](self, request, reply)

    do_GET = do_POST = do_DELETE = do_PUT = _handle  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            if len(body := self.rfile.read(length)) < length:
                raise ConnectionResetError("the client left while it sent its request")
            return body
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send_head(self, reply: Reply, length: int | None) -> None:
        self.send_response(reply.status)
        for name, value in ({"Content-Type": reply.content_type} | reply.headers).items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: there is the journal."""


def _send_plain(handler: _Handler, request: Received, reply: Reply) -> None:
    handler.send_head(reply, len(reply.body))
    handler.wfile.write(reply.body)


def _send_held(handler: _Handler, request: Received, reply: Reply) -> None:
    """Held until `let_go`, then sent as usual."""
    if handler.sandbox.hold(request, handler.connection):
        _send_plain(handler, request, reply)
    else:
        handler.close_connection = True


def _send_truncated(handler: _Handler, request: Received, reply: Reply) -> None:
    handler.send_head(reply, len(reply.body))
    handler.wfile.write(reply.body[: len(reply.body) // 2])
    handler.close_connection = True


def _send_reset(handler: _Handler, request: Received, reply: Reply) -> None:
    """The connection is reset in the middle of the body."""
    handler.send_head(reply, len(reply.body))
    handler.wfile.write(reply.body[: len(reply.body) // 2])
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def _send_nothing(handler: _Handler, request: Received, reply: Reply) -> None:
    """The request was received; not a byte is sent back."""
    handler.close_connection = True


def _send_chunked(handler: _Handler, request: Received, reply: Reply) -> None:
    reply.headers["Transfer-Encoding"] = "chunked"
    handler.send_head(reply, None)
    step = max(1, len(reply.body) // 7)
    for start in range(0, len(reply.body), step):
        part = reply.body[start : start + step]
        handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def _send_until_close(handler: _Handler, request: Received, reply: Reply) -> None:
    """As in HTTP/1.0: no length, the end of the connection is the end of the body."""
    reply.headers["Connection"] = "close"
    handler.send_head(reply, None)
    handler.wfile.write(reply.body)
    handler.close_connection = True


def _send_slow_headers(handler: _Handler, request: Received, reply: Reply) -> None:
    """The argument is in seconds."""
    handler.sandbox.pause(float(reply.argument))
    _send_plain(handler, request, reply)


def _send_dripping(handler: _Handler, request: Received, reply: Reply) -> None:
    """Sends the body over so many seconds, a tenth at a time."""
    handler.send_head(reply, len(reply.body))
    step = max(1, len(reply.body) // 10)
    for start in range(0, len(reply.body), step):
        handler.sandbox.pause(float(reply.argument) / 10)
        handler.wfile.write(reply.body[start : start + step])


def _send_and_close(handler: _Handler, request: Received, reply: Reply) -> None:
    """Closes a keep-alive connection after the reply: a client that reuses it fails at the next request."""
    _send_plain(handler, request, reply)
    handler.close_connection = True


def _send_duplicate_headers(handler: _Handler, request: Received, reply: Reply) -> None:
    handler.send_response(reply.status)
    headers = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.body))} | reply.headers
    for name, value in [*headers.items(), *headers.items()]:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(reply.body)


FAULTS: dict[str, Callable[[_Handler, Received, Reply], None]] = {
    "": _send_plain,
    "hold": _send_held,
    "slow_headers": _send_slow_headers,
    "drip": _send_dripping,
    "truncated": _send_truncated,
    "reset": _send_reset,
    "lost": _send_nothing,
    "chunked": _send_chunked,
    "http10": _send_until_close,
    "keep_alive_closed": _send_and_close,
    "duplicate_headers": _send_duplicate_headers,
}


def _make_page(status: int, text: str) -> Callable[[str, Reply], Reply]:
    return lambda argument, reply: Reply(status, f"<html><h1>{text}</h1></html>".encode(), "text/html")


def _compress(argument: str, reply: Reply) -> Reply:
    return replace(reply, body=gzip.compress(reply.body, 1), headers=reply.headers | {"Content-Encoding": "gzip"})


def _compress_bomb(argument: str, reply: Reply) -> Reply:
    """So many MB of nothing, which travel as a few KB: gzipped twice, or once ("1024 once")."""
    megabytes, _, times = argument.partition(" ")
    packer = zlib.compressobj(1, wbits=31)
    body = b"".join(packer.compress(bytes(2**20)) for _ in range(int(megabytes))) + packer.flush()
    if not times:
        body = gzip.compress(body)
    encoding = "gzip" if times else "gzip, gzip"
    return replace(reply, body=body, headers=reply.headers | {"Content-Encoding": encoding})


def _rename_field(argument: str, reply: Reply) -> Reply:
    """Renames one field of the JSON."""
    return replace(reply, body=reply.body.replace(f'"{argument}":'.encode(), f'"{argument}X":'.encode()))


CHANGES: dict[str, Callable[[str, Reply], Reply]] = {
    "html_502": _make_page(502, "502 Bad Gateway"),
    "html_504": _make_page(504, "504 Gateway Time-out"),
    "html_200": _make_page(200, "Checking your browser"),
    "empty": lambda argument, reply: Reply(200, b""),
    "bad_utf8": lambda argument, reply: Reply(200, b'{"a": "\xff\xfe"}'),
    "bom": lambda argument, reply: replace(reply, body=b"\xef\xbb\xbf" + reply.body),
    "wrong_type": lambda argument, reply: replace(reply, content_type="text/plain"),
    "moved": lambda argument, reply: Reply(301, headers={"Location": argument}),
    "redirect": lambda argument, reply: Reply(302, headers={"Location": argument}),
    "gzip": _compress,
    "bomb": _compress_bomb,
    "rename": _rename_field,
}
COMMON = (FAULTS.keys() | CHANGES.keys()) - {""}


def common(scenario: str, argument: str, reply: Reply) -> Reply:
    """The successful reply, changed by a scenario that every provider can play."""
    if scenario in FAULTS:
        return replace(reply, fault=scenario, argument=argument)
    assert scenario in CHANGES, f"no such scenario: {scenario}"
    return CHANGES[scenario](argument, reply)


def _has_hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
