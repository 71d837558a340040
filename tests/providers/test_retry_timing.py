"""When the next call is made after the provider's own hint: real adapters, real responses, an event loop that skips.

The loop's time is real time, but skips the seconds of a back-off: so waiting takes no time, and all else takes its
real time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from core import images
from photoslot.demo_scene import draw_scene
from providers.attempts import Deadline, make_picture
from providers.base import Account, Picture, Provider, ProviderError, Request, Retry, Usage
from providers.gemini import Gemini
from providers.gemini.settings import ImageEdit as GeminiEdit
from providers.openai import OpenAI
from providers.openai.form import ImageEdit as OpenAIEdit
from providers.turbotext.operations import ImageEdit as TurbotextEdit
from tests.providers.observers import keep_picture
from tests.sandbox import gemini, openai, turbotext
from tests.sandbox.providers import QuickTurbotext
from tests.sandbox.turbotext_helpers import Media
from tests.sandbox.wire import WireSandbox

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 48.0
BUSY_SECONDS = 0.5  # what the machine may take between the end of a back-off and the call
PHOTO = Picture(images.encode(draw_scene(320, 200), "jpeg"), "image/jpeg")


class SkippingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.ahead = 0.0
        self.is_skipping = False
        super().__init__(_SkippingSelector(self))

    def time(self) -> float:
        return super().time() + self.ahead


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, loop: SkippingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._loop.is_skipping and timeout is not None:
            self._loop.ahead += max(0, timeout)
            timeout = 0
        return super().select(timeout)


@dataclass
class TimingObserver:
    """Records when calls are made and when attempts end."""

    calls: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    async def on_accepted(self, reference: str) -> None:
        pass

    def on_poll(self) -> None:
        pass

    async def wait_for_permit(self) -> None:
        self.calls.append(asyncio.get_running_loop().time())

    async def back_off(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SkippingLoop)
        loop.is_skipping = True
        await asyncio.sleep(seconds)
        loop.is_skipping = False

    async def on_attempt(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> None:
        self.ends.append(asyncio.get_running_loop().time())


@pytest.fixture(scope="module")
def server() -> Iterator[WireSandbox]:
    with WireSandbox([gemini.Gemini, openai.OpenAI, turbotext.TurbotextSpeaker, Media]).run() as running:
        yield running


@pytest.fixture
def sandbox(server: WireSandbox) -> WireSandbox:
    server.reset()
    return server


KINDS: dict[str, tuple[type[Provider[Any]], Any, str, str]] = {
    "gemini": (Gemini, GeminiEdit, gemini.KEY, "/gemini"),
    "openai": (OpenAI, OpenAIEdit, openai.KEY, "/openai/v1"),
    "turbotext": (QuickTurbotext, TurbotextEdit, turbotext.KEY, "/turbotext"),
}


def run_photo(sandbox: WireSandbox, provider: str, scenario: str, pause: float | None = None) -> TimingObserver:
    """Makes one picture. Raises `ProviderError`; without a `pause` of the slot, the service's is used."""
    kind, settings_class, key, path = KINDS[provider]
    observer = TimingObserver()
    sandbox.speakers[provider].play(scenario)

    async def run() -> None:
        settings = settings_class(prompt="x", retry=Retry(pause_seconds=pause))
        request = Request(uuid4(), "image_edit", settings, PHOTO, {}, f"{sandbox.url}/media/photo")
        async with aclosing(kind(Account(key, sandbox.url + path))) as adapter:
            await make_picture(adapter, request, Deadline.after(DEADLINE_SECONDS), observer, keep_picture)

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(run())
    return observer


# Provider, scenario, the pause of the slot (None: the service's 3 s), and the seconds until the next call: least, most.
TIMES: list[tuple[str, str, float | None, float, float]] = [
    ("gemini", "rate:14s", None, 14, 15.4),  # RetryInfo, and up to a tenth more, or booths would come back together
    ("gemini", "rate_prose:14s", None, 14, 15.4),  # its message says 51 s at the same time
    ("gemini", "rate:1.500s", 0, 1.5, 1.65),
    ("gemini", "rate:1.500s", None, 3, 3),  # the pause is longer
    ("gemini", "rate:0s", 0, 1, 1.1),
    ("gemini", "rate", None, 3, 3),
    ("gemini", "rate_bare", None, 3, 3),
    ("gemini", "rate_prose", None, 3, 3),
    ("gemini", "overloaded:20s", None, 20, 22),
    ("gemini", "overloaded", 7, 7, 7),
    ("openai", "rate:7", None, 7, 7),
    ("openai", "rate:0", 0, 0, 0),
    ("openai", "rate:1", None, 3, 3),
    ("openai", "rate_ms:1500", 0, 1.5, 1.5),
    ("openai", "rate_ms:12500", None, 12.5, 12.5),
    ("openai", "rate_date:20", None, 18, 20),  # a date has no fractions, and the request took a while
    ("openai", "rate_date:-90", None, 3, 3),
    ("openai", "rate_text:12s", None, 12, 12),
    ("openai", "rate_silent", None, 3, 3),
    ("openai", "server:503:true", None, 3, 3),
    ("turbotext", "http:503,7", None, 7, 7),
    ("turbotext", "http:503,1", None, 3, 3),
    ("turbotext", "http:503", None, 3, 3),
    ("turbotext", "error:provider_busy", None, 3, 3),
]


@pytest.mark.parametrize(("provider", "scenario", "pause", "least", "most"), TIMES)
def test_the_next_call_is_made_when_the_provider_said(
    sandbox: WireSandbox, provider: str, scenario: str, pause: float | None, least: float, most: float
) -> None:
    observer = run_photo(sandbox, provider, scenario, pause)
    assert len(observer.calls) == 2
    assert least <= observer.calls[1] - observer.ends[0] < most + BUSY_SECONDS


TOO_LATE = [
    ("gemini", "rate:48s"),
    ("gemini", "overloaded:3600s"),
    ("openai", "rate:48"),
    ("openai", "rate:121"),
    ("openai", "rate_ms:121000"),
    ("openai", "rate_date:121"),
    ("openai", "rate_text:6m0s"),
    ("turbotext", "http:503,48"),
]


@pytest.mark.parametrize(("provider", "scenario"), TOO_LATE)
def test_a_time_beyond_the_deadline_ends_it_at_once(sandbox: WireSandbox, provider: str, scenario: str) -> None:
    with pytest.raises(ProviderError) as caught:
        run_photo(sandbox, provider, scenario)
    assert caught.value.retry_after
    assert caught.value.retry_after >= DEADLINE_SECONDS - 1
    assert len(sandbox.calls(provider)) == 1


def test_five_calls_at_most_each_when_the_provider_said(sandbox: WireSandbox) -> None:
    sandbox.speakers["openai"].play("rate:4", "rate:5", "rate:6")
    observer = run_photo(sandbox, "openai", "rate:7")
    waits = [call - end for end, call in zip(observer.ends, observer.calls[1:], strict=False)]
    assert [round(wait) for wait in waits] == [4, 5, 6, 7]
