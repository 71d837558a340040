"""The sandbox server: two small protocols, one that answers at once and one with a queue of its own.

    POST /instant            the photo → the picture
    POST /queue              the photo → {"reference": "..."}
    GET  /queue/<reference>  204 while it works, then the picture
    DELETE /queue/<reference>

The query's `?scenario=` selects what it does: see `SCENARIOS`. It runs in threads of the test's own process, so a test
can read the journal and release held requests.
"""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from PIL import Image, ImageOps

WAIT_SECONDS = 30.0  # a test that waits longer for something has failed


def developed(photo: bytes) -> bytes:
    """The sandbox's picture: the photo's negative, so that a test can check that it was made from this photo."""
    out = io.BytesIO()
    ImageOps.invert(Image.open(io.BytesIO(photo)).convert("RGB")).save(out, "JPEG", quality=90)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came in."""

    method: str
    path: str
    scenario: str
    body: bytes = field(repr=False)


class Sandbox:
    """The server and its journal."""

    def __init__(self) -> None:
        self.journal: list[Call] = []
        self._arrived = threading.Condition()
        self._gate = threading.Event()
        self._photos: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def run(self) -> Iterator[Sandbox]:
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
        """Clears the journal and answers held requests."""
        self.let_go()
        with self._arrived:
            self.journal.clear()
            self._photos.clear()
        self._gate = threading.Event()

    def let_go(self) -> None:
        """Answers all held requests, and holds no more until `reset`."""
        self._gate.set()

    def wait_for_calls(self, count: int, method: str = "POST") -> list[Call]:
        """Returns once so many calls have arrived."""
        with self._arrived:
            is_in_time = self._arrived.wait_for(lambda: len(self._calls_by(method)) >= count, WAIT_SECONDS)
            assert is_in_time, f"{len(self._calls_by(method))} {method} calls came in, not {count}"
            return self._calls_by(method)

    def _calls_by(self, method: str) -> list[Call]:
        return [call for call in self.journal if call.method == method]

    def note(self, call: Call) -> int:
        """Adds the call to the journal; returns its number among those of its method and scenario, from 1."""
        with self._arrived:
            self.journal.append(call)
            self._arrived.notify_all()
            return len([c for c in self.journal if (c.method, c.scenario) == (call.method, call.scenario)])

    def hold(self) -> None:
        self._gate.wait(WAIT_SECONDS * 4)

    @property
    def is_open(self) -> bool:
        return self._gate.is_set()

    def enqueue(self, photo: bytes) -> str:
        reference = f"q-{next(self._numbers)}"
        self._photos[reference] = photo
        return reference

    def get_photo(self, reference: str) -> bytes | None:
        return self._photos.get(reference)


class Player(BaseHTTPRequestHandler):
    """Answers one request as its scenario says."""

    protocol_version = "HTTP/1.1"
    sandbox: Sandbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        call = self._call(body)
        number = self.sandbox.note(call)
        name, _, argument = call.scenario.partition(":")
        SCENARIOS[name](self, call, number, argument)

    def do_GET(self) -> None:
        call = self._call(b"")
        number = self.sandbox.note(call)
        photo = self.sandbox.get_photo(call.path.rpartition("/")[2])
        if call.scenario == "poll_fails_once" and number == 1:
            self.answer(503)
        elif photo is None:
            self.answer(404)
        elif call.scenario == "never" or (call.scenario == "hold" and not self.sandbox.is_open):
            self.answer(204)
        else:
            self.answer(200, developed(photo))

    def do_DELETE(self) -> None:
        self.sandbox.note(self._call(b""))
        self.answer(204)

    def _call(self, body: bytes) -> Call:
        parts = urlsplit(self.path)
        return Call(self.command, parts.path, parse_qs(parts.query)["scenario"][0], body)

    def make(self, call: Call) -> None:
        """Sends the usual answer of the call's protocol."""
        if call.path == "/queue":
            self.answer(200, self.sandbox.enqueue(call.body).encode(), "text/plain")
        else:
            self.answer(200, developed(call.body))

    def answer(self, status: int, body: bytes = b"", mime_type: str = "image/jpeg", retry_after: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", mime_type)
        self.send_header("Content-Length", str(len(body)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: there is the journal."""


Scenario = Callable[[Player, Call, int, str], None]


def _make(player: Player, call: Call, number: int, argument: str) -> None:
    player.make(call)


def _hold_then_make(player: Player, call: Call, number: int, argument: str) -> None:
    """A synchronous answer is held until `let_go`; a queue accepts the job and finishes it after `let_go`."""
    if call.path != "/queue":
        player.sandbox.hold()
    player.make(call)


def _fail_first(status: int) -> Scenario:
    """Answers with the status so many times, then with the picture."""

    def play(player: Player, call: Call, number: int, argument: str) -> None:
        if number <= int(argument):
            player.answer(status)
        else:
            player.make(call)

    return play


def _answer_always(status: int, body: bytes = b"") -> Scenario:
    def play(player: Player, call: Call, number: int, argument: str) -> None:
        player.answer(status, body, retry_after=argument)

    return play


def _answer_nothing(player: Player, call: Call, number: int, argument: str) -> None:
    """The request was received; no answer is sent."""
    player.close_connection = True


SCENARIOS: dict[str, Scenario] = {
    "ok": _make,
    "hold": _hold_then_make,
    "never": _make,  # a queue that accepts the job and never finishes it
    "poll_fails_once": _make,
    "overloaded_first": _fail_first(503),
    "overloaded": _answer_always(503),
    "refuses": _answer_always(422),
    "bad_key": _answer_always(401),
    "not_an_image": _answer_always(200, b"<html>so sorry</html>"),
    "lost": _answer_nothing,
}


def _handler(sandbox: Sandbox) -> type[Player]:
    return type("BoundPlayer", (Player,), {"sandbox": sandbox})
