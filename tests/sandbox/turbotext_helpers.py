"""Helpers of the Turbotext adapter's tests: the sandbox, our public links, and a provider with short pauses."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import pytest
from PIL import Image

from core import images
from providers.attempts import Deadline, make_picture
from providers.base import Account, OperationSettings, Picture, ProviderError, Request, Retry, Usage
from providers.turbotext.operations import ImageEdit
from tests.providers.observers import Permissive, keep_picture
from tests.sandbox.providers import QuickTurbotext
from tests.sandbox.turbotext import KEY, TurbotextSpeaker
from tests.sandbox.wire import Received, Reply, Speaker, WireSandbox

PROMPT = "девушка в костюме супермена"
AT_ONCE = Retry(pause_seconds=0)
EDIT = ImageEdit(prompt=PROMPT, strength=0, retry=AT_ONCE)


def photo(colour_at: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (320, 240), colour_at).save(out, "JPEG")
    return out.getvalue()


class Media(Speaker):
    """Serves our public links to the provider."""

    prefix = "media"
    files = {"/photo": photo("steelblue"), "/style": photo("gold"), "/face": photo("crimson"), "/text": b"no picture"}

    def answer(self, request: Received) -> Reply:
        data = self.files.get(request.path)
        return Reply(404) if data is None else Reply(200, data, "image/jpeg")


@dataclass
class Recorder(Permissive):
    """An observer that records references, errors and polls."""

    references: list[str] = field(default_factory=list)
    errors: list[ProviderError] = field(default_factory=list)
    polls: int = 0

    async def on_accepted(self, reference: str) -> None:
        self.references.append(reference)

    def on_poll(self) -> None:
        self.polls += 1

    async def on_attempt(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> None:
        self.errors += [error] if error else []


@dataclass
class Harness:
    """The sandbox, and a provider that calls it."""

    sandbox: WireSandbox
    observer: Recorder = field(default_factory=Recorder)

    @property
    def turbotext(self) -> TurbotextSpeaker:
        speaker = self.sandbox.speakers["turbotext"]
        assert isinstance(speaker, TurbotextSpeaker)
        return speaker

    def account(self, key: str = KEY) -> Account:
        return Account(key, f"{self.sandbox.url}/turbotext")

    def request(self, settings: OperationSettings) -> Request:
        media = f"{self.sandbox.url}/media"
        links = {"mood": f"{media}/style", "hero": f"{media}/face", "broken": f"{media}/text"}
        return Request(uuid4(), "any", settings, Picture(b"", "image/heic"), {}, f"{media}/photo", links)

    async def make(
        self, *scenarios: str, settings: OperationSettings = EDIT, seconds: float = 20, key: str = KEY, **more: Any
    ) -> Picture:
        self.turbotext.play(*scenarios)
        async with aclosing(QuickTurbotext(self.account(key))) as provider:
            return await make_picture(
                provider, self.request(settings), Deadline.after(seconds), self.observer, keep_picture, **more
            )

    async def fail(self, *scenarios: str, key: str = KEY, **more: Any) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await self.make(*scenarios, key=key, **more)
        assert not key or key not in caught.value.message
        assert PROMPT not in caught.value.message
        return caught.value

    def posts(self, do: str) -> list[dict[str, str]]:
        forms = [dict(parse_qsl(post.body.decode())) for post in self.sandbox.calls("turbotext")]
        return [form for form in forms if form["do"] == do]


def colour_at(picture: Picture, x: float = 0.5, y: float = 0.4) -> tuple[int, ...]:
    image = images.decode(picture.data).convert("RGB")
    found = image.getpixel((int(image.width * x), int(image.height * y)))
    assert isinstance(found, tuple)
    return found


def approx_colour(name: str) -> Any:
    return pytest.approx(Image.new("RGB", (1, 1), name).getpixel((0, 0)), abs=12)


@contextmanager
def run_sandbox(*more: type[Speaker]) -> Iterator[WireSandbox]:
    with WireSandbox([TurbotextSpeaker, Media, *more]).run() as sandbox:
        yield sandbox
