"""The paid providers in one sandbox, for tests of their accounts. Named in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sandbox.gemini import Gemini
from tests.sandbox.openai import OpenAI
from tests.sandbox.turbotext import TurbotextSpeaker
from tests.sandbox.wire import WireSandbox


@pytest.fixture(scope="session")
def wire_server() -> Iterator[WireSandbox]:
    with WireSandbox([Gemini, OpenAI, TurbotextSpeaker]).run() as running:
        yield running


@pytest.fixture
def wires(wire_server: WireSandbox) -> Iterator[WireSandbox]:
    """The providers, with a clean journal."""
    wire_server.reset()
    yield wire_server
    wire_server.let_go()
