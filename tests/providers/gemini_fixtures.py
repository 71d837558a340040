"""Fixtures of Gemini's tests: the sandbox on a real socket and the real adapter. Named in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from providers.gemini import Gemini
from tests.providers.gemini_factories import make_account
from tests.sandbox.gemini import Gemini as Google
from tests.sandbox.wire import WireSandbox


@pytest.fixture(scope="session")
def google_server() -> Iterator[WireSandbox]:
    with WireSandbox([Google]).run() as running:
        yield running


@pytest.fixture
def google(google_server: WireSandbox) -> Iterator[Google]:
    """The provider, with a clean journal."""
    google_server.reset()
    speaker = google_server.speakers["gemini"]
    assert isinstance(speaker, Google)
    yield speaker
    google_server.let_go()


@pytest.fixture
async def gemini(google: Google) -> AsyncIterator[Gemini]:
    adapter = Gemini(make_account(google))
    yield adapter
    await adapter.aclose()
