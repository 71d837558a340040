"""The provider that was added by following CONTRIBUTING: it is short, and the service works with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from providers import base, registry
from providers.models import ProviderCall
from tests.admin_client import browser, errors_of, read_version
from tests.conftest import Booth, jpeg, set_slot, use_account
from tests.ingest.helpers import refusal
from tests.sandbox.server import developed
from tests.sandbox.wire import Received, Reply, Speaker, WireSandbox

pytestmark = pytest.mark.e2e

KEY = "example-key"
STATUS_OF = {"": 200, "refuses": 422, "overloaded": 503}


class Negatives(Speaker):
    """The service: `POST /negatives?strength=…` with a JPEG."""

    prefix = "example"

    def answer(self, request: Received) -> Reply:
        if request.headers["authorization"] != f"Bearer {KEY}":
            return Reply(401)
        if (request.method, request.path) == ("GET", "/account"):
            return Reply(200, b"well")
        assert (request.method, request.path, request.query) == ("POST", "/negatives", {"strength": ["80"]})
        status = STATUS_OF[self.scenario()[0]]
        return Reply(status, developed(request.body) if status == 200 else b"", "image/jpeg")


@pytest.fixture(scope="module")
def server() -> Iterator[WireSandbox]:
    with WireSandbox([Negatives]).run() as running:
        yield running


@pytest.fixture
def negatives(server: WireSandbox, database: None) -> Speaker:
    """The service, and a slot that uses it."""
    server.reset()
    use_account("example", f"{server.url}/example", KEY)
    set_slot(provider_id="example", operation_id="image_edit", settings_json={"strength": 80})
    return server.speakers["example"]


def test_it_takes_less_than_sixty_lines() -> None:
    path = Path(settings.BASE_DIR, "tests/providers/example_provider.py")
    assert len(path.read_text().splitlines()) < 60


def test_a_booth_gets_its_picture(negatives: Speaker, booth: Booth) -> None:
    reply = booth.post(jpeg())
    assert (reply.status, reply.body) == (200, developed(jpeg()))
    assert ProviderCall.objects.get().outcome == "made"


@pytest.mark.parametrize(
    ("scenarios", "status", "calls"),
    [(["overloaded"], 200, 2), (["overloaded"] * 5, 502, 5), (["refuses"], 502, 1)],
)
def test_its_errors_are_repeated_by_their_class(
    negatives: Speaker, booth: Booth, scenarios: list[str], status: int, calls: int
) -> None:
    negatives.play(*scenarios)
    assert booth.post(jpeg()).status == status
    assert len(negatives.sandbox.calls("example")) == calls


@pytest.mark.parametrize(
    ("key", "status", "code"), [("", 503, "provider_unavailable"), ("another-key", 502, "provider_error")]
)
def test_without_its_key_it_does_not_work(negatives: Speaker, booth: Booth, key: str, status: int, code: str) -> None:
    use_account("example", f"{negatives.sandbox.url}/example", key)
    refusal(booth.post(jpeg()), status, code)


@pytest.mark.parametrize(
    ("settings_json", "sentences"),
    [
        ({"strength": 80}, None),
        ({"strength": 101}, ["strength: Must be at most 100."]),
        ({"colour": "red"}, ["colour: This operation has no such setting."]),
    ],
)
def test_the_slots_form_knows_its_settings(
    negatives: Speaker, settings_json: dict[str, Any], sentences: list[str] | None
) -> None:
    admin: Client = browser(superuser=True)
    row = {"name": "x", "is_active": "on", "recipe": "example/image_edit", "settings_json": json.dumps(settings_json)}
    totals = {"bindings-TOTAL_FORMS": 0, "bindings-INITIAL_FORMS": 0}
    page = reverse("admin:slots_slot_change", args=["slot-001"])
    answer = admin.post(page, row | totals | read_version(admin.get(page)))
    assert answer.status_code == (302 if sentences is None else 200)
    assert sentences is None or errors_of(answer)["settings_json"] == sentences


@pytest.mark.parametrize(("key", "reason"), [(KEY, None), ("another-key", base.Reason.AUTH)])
async def test_its_account_can_be_tested(server: WireSandbox, key: str, reason: base.Reason | None) -> None:
    provider = registry.get_classes()["example"](base.Account(key, f"{server.url}/example"))
    try:
        await provider.check_account()
        found = None
    except base.PermanentError as error:
        found = error.reason
    await provider.aclose()
    assert found == reason
