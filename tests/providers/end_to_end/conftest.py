"""End to end: a booth posts to the running service, whose worker calls a paid provider, which is the sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.providers.end_to_end.harness")

from providers.models import ProviderAccount  # noqa: E402
from tests.conftest import Booth  # noqa: E402
from tests.providers.end_to_end.harness import KEYS, SPEAKERS, Harness  # noqa: E402
from tests.sandbox.turbotext import TurbotextSpeaker  # noqa: E402
from tests.sandbox.wire import WireSandbox  # noqa: E402


@pytest.fixture(scope="session")
def wire_server() -> Iterator[WireSandbox]:
    with WireSandbox(SPEAKERS).run() as running:
        yield running


@pytest.fixture
def wire(wire_server: WireSandbox) -> Iterator[WireSandbox]:
    """The three providers, with a clean journal."""
    wire_server.reset()
    turbotext = wire_server.speakers["turbotext"]
    assert isinstance(turbotext, TurbotextSpeaker)
    turbotext.reconnects = 0
    yield wire_server
    wire_server.let_go()


@pytest.fixture
def harness(booth: Booth, wire: WireSandbox) -> Harness:
    for provider, key in KEYS.items():
        account = ProviderAccount(provider_id=provider, base_url=f"{wire.url}/{provider}")
        account.set_key(key)
        account.save()
    ProviderAccount.objects.filter(pk="openai").update(base_url=f"{wire.url}/openai/v1")
    return Harness(booth, wire)
