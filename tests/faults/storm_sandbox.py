"""The providers of a storm, as a process of its own: python -m tests.faults.storm_sandbox SEED PHOTOS JOURNAL

They speak the sandbox's protocols and play what the plan says for the photo whose post (`p<number>t<try>`) is in the
prompt. Each order that a provider would bill is a line of the journal, written before it is answered. It prints its
address.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from PIL import Image

from tests.faults.storm_plan import BILLED, WAIT_SECONDS, Photo, draw_photos
from tests.sandbox.__main__ import wait
from tests.sandbox.gemini import Gemini
from tests.sandbox.openai import OpenAI
from tests.sandbox.server import developed
from tests.sandbox.turbotext import TurbotextSpeaker
from tests.sandbox.wire import Received, Reply, Speaker, WireSandbox, common

POST_NAME = re.compile(r"p(\d+)t\d+")
# What each kind is in the provider's own words; `late` and `ok` are its picture.
SCENARIOS = {
    "gemini": {"busy": "overloaded", "refused": "finish:IMAGE_SAFETY", "lost": "lost", "hang": "hold"},
    "openai": {"busy": "server:503", "refused": "moderation_output", "lost": "lost", "hang": "hold"},
    "turbotext": {"busy": "http:503,0", "refused": "error:forbidden_content", "lost": "lost", "hang": "forever"},
    "instant": {"busy": "busy", "refused": "refused", "lost": "lost", "hang": "hold"},
    "queue": {"busy": "busy", "refused": "refused", "lost": "lost", "hang": "forever"},
}
STATUSES = {"busy": 503, "refused": 422}


class Orders:
    """What is played for each post, and the journal of what is billed."""

    def __init__(self, photos: list[Photo], path: Path) -> None:
        self._photos = photos
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()
        self._count: Counter[tuple[str, str]] = Counter()

    def find_photo(self, prompt: str) -> tuple[Photo, str] | None:
        """The photo and its post's name; None for a request that makes no picture."""
        found = POST_NAME.search(prompt)
        return (self._photos[int(found[1])], found[0]) if found else None

    def choose(self, provider: str, photo: Photo, post: str) -> str:
        """The kind that is played now: `busy` and `lost` once for each post."""
        with self._lock:
            self._count[provider, post] += 1
            is_first = self._count[provider, post] == 1
        return photo.kind if is_first or photo.kind not in ("busy", "lost") else "ok"

    def bill(self, provider: str, post: str, kind: str) -> None:
        with self._lock:
            self._file.write(json.dumps({"at": time.time(), "provider": provider, "post": post, "kind": kind}) + "\n")


class Playing(Speaker):
    """A speaker that plays the plan."""

    orders: Orders
    longest_pause = WAIT_SECONDS + 2.0

    def scenario(self, prompt: str = "") -> tuple[str, str]:
        if (found := self.orders.find_photo(prompt)) is None:
            return "", ""
        photo, post = found
        kind = self.orders.choose(self.prefix, photo, post)
        if kind in BILLED:
            self.bill(post, kind)
            time.sleep(min(find_pause(photo), self.longest_pause))
        name, _, argument = SCENARIOS[self.prefix].get(kind, "").partition(":")
        return name, argument

    def bill(self, post: str, kind: str) -> None:
        self.orders.bill(self.prefix, post, kind)


def find_pause(photo: Photo) -> float:
    return WAIT_SECONDS + 2.0 if photo.kind == "late" else photo.pause


class StormGemini(Playing, Gemini):
    pass


class StormOpenAI(Playing, OpenAI):
    pass


class StormTurbotext(Playing, TurbotextSpeaker):
    """Bills an order once it has the photo: a link that leads nowhere costs nothing."""

    longest_pause = 0.5  # a control call times out after 5 s
    _order = threading.local()

    def bill(self, post: str, kind: str) -> None:
        self._order.value = post, kind

    def _inputs(self, form: dict[str, str]) -> dict[str, Image.Image]:
        inputs = super()._inputs(form)
        super().bill(*self._order.value)
        return inputs


class Instant(Playing):
    prefix = "instant"

    def answer(self, request: Received) -> Reply:
        name, argument = self.scenario(request.query["scenario"][0])
        return _reply(name, argument, Reply(200, developed(request.body), "image/jpeg"))


class Queue(Playing):
    """Accepts at once, and takes its time until the picture."""

    prefix = "queue"
    longest_pause = 0.0

    def __init__(self, sandbox: WireSandbox) -> None:
        super().__init__(sandbox)
        self._numbers = itertools.count(1)
        self._queued: dict[str, tuple[bytes, float]] = {}  # the photo, and when its picture is ready

    def answer(self, request: Received) -> Reply:
        reference = request.path.rpartition("/")[2]
        match request.method:
            case "POST":
                return self._accept(request.body, request.query["scenario"][0])
            case "DELETE":
                self._queued.pop(reference, None)
                return Reply(204)
        if reference not in self._queued:
            return Reply(404)
        photo, ready_at = self._queued[reference]
        return Reply(200, developed(photo), "image/jpeg") if time.monotonic() >= ready_at else Reply(204)

    def _accept(self, body: bytes, post: str) -> Reply:
        name, argument = self.scenario(post)
        reference = f"q-{next(self._numbers)}"
        found = self.orders.find_photo(post)
        assert found
        pause = 3600.0 if name == "forever" else find_pause(found[0])
        self._queued[reference] = body, time.monotonic() + pause
        return _reply("" if name == "forever" else name, argument, Reply(200, reference.encode(), "text/plain"))


def _reply(name: str, argument: str, reply: Reply) -> Reply:
    if name in STATUSES:
        return Reply(STATUSES[name])
    return common(name, argument, reply) if name else reply


def main(seed: str, count: str, journal: str) -> None:
    Playing.orders = Orders(draw_photos(int(seed), int(count)), Path(journal))
    with WireSandbox([StormGemini, StormOpenAI, StormTurbotext, Instant, Queue]).run() as sandbox:
        print(sandbox.url, flush=True)  # noqa: T201 - for the storm
        wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
