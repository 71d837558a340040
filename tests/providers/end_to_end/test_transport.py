"""Faults of the transport to and from each provider, as seen by the booth and in the recorded calls."""

from __future__ import annotations

from functools import partial

import pytest

from ingest.models import IngestSettings
from jobs.models import Job
from providers.models import ProviderAccount
from tests.conftest import in_background, set_slot
from tests.ingest.helpers import eventually, refusal
from tests.providers.end_to_end.harness import (
    PHOTO,
    PROMPT,
    PROVIDERS,
    SETTINGS,
    Harness,
    check,
    check_secrets,
    steps,
    summarize_calls,
)

pytestmark = pytest.mark.e2e

# The scenario, and the calls of Gemini, OpenAI and Turbotext. A paid call whose response was lost may have been billed,
# so it is not repeated; for a queue, a gateway's error is classified by whether the job may have been queued.
ODD_BUT_WHOLE = ["slow_headers:0.5", "drip:0.5", "chunked", "http10", "gzip", "bom", "wrong_type", "duplicate_headers"]
FAULTS: list[tuple[str, str, str, str]] = [
    ("reset", "ambiguous:slow", "ambiguous:slow", "ambiguous:slow"),
    ("truncated", "ambiguous:slow", "ambiguous:slow", "ambiguous:slow"),
    ("lost", "ambiguous:slow", "ambiguous:slow", "ambiguous:slow"),
    ("html_200", "ambiguous:no_image", "ambiguous:no_image", "ambiguous:overloaded"),
    ("empty", "ambiguous:no_image", "ambiguous:no_image", "ambiguous:overloaded"),
    ("bad_utf8", "ambiguous:no_image", "ambiguous:no_image", "ambiguous:overloaded"),
    ("html_502", "failed:overloaded made$", "failed:overloaded made$", "failed:overloaded made"),
    ("html_504", "failed:slow made$", "failed:slow made$", "ambiguous:slow"),
    ("moved:/elsewhere", "failed:overloaded made$", "failed:overloaded made$", "failed:bad_settings"),
    ("redirect:/elsewhere", "failed:overloaded made$", "failed:overloaded made$", "failed:bad_settings"),
]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("scenario", ODD_BUT_WHOLE)
def test_an_answer_may_travel_oddly(harness: Harness, provider: str, scenario: str) -> None:
    check(harness, provider, harness.post(provider, scenario), 200, "made" if provider == "turbotext" else "made$")


@pytest.mark.parametrize(
    ("provider", "scenario", "expected"),
    [(provider, row[0], row[number]) for row in FAULTS for number, provider in enumerate(PROVIDERS, 1)],
)
def test_a_fault_of_the_wire(harness: Harness, provider: str, scenario: str, expected: str) -> None:
    reply = harness.post(provider, scenario)
    check(harness, provider, reply, 200 if "made" in expected else 502, expected)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_connection_that_was_closed_meanwhile_costs_nothing(harness: Harness, provider: str) -> None:
    assert harness.post(provider, "keep_alive_closed").status == 200
    assert harness.post(provider).status == 200
    assert summarize_calls().count("made") == len(harness.paid_requests(provider)) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("address", ["https://nowhere.invalid", "http://127.0.0.1:9", "https://{sandbox}"])
def test_an_unreachable_provider(harness: Harness, provider: str, address: str) -> None:
    """An unknown host name, a closed port, and a port without TLS."""
    harness.set_address(provider, address.format(sandbox=harness.wire.url.removeprefix("http://")))
    reply = harness.post(provider)
    check(harness, provider, reply, 502, " ".join(["failed:overloaded"] * 5), posts=0)
    assert ProviderAccount.objects.get(pk=provider).open_reason == "overloaded"  # the next photo is refused at once


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_wrong_key(harness: Harness, provider: str) -> None:
    account = ProviderAccount.objects.get(pk=provider)
    account.set_key("sk-bad-key-of-somebody")
    account.save()
    check(harness, provider, harness.post(provider), 502, "failed:auth")


# A synchronous call may take until the deadline; a queue has five seconds to accept a job.
SILENT = {
    "slot-001": ("gemini", "hold", 504),
    "slot-002": ("openai", "hold", 504),
    "slot-003": ("turbotext", "forever", 504),
    "slot-004": ("turbotext", "hold", 502),
}


def test_no_booth_waits_for_ever(harness: Harness) -> None:
    IngestSettings.objects.update(sync_response_seconds=10)
    replies = {}
    for slot, (provider, scenario, _) in SILENT.items():
        settings_json = SETTINGS[provider] | {"prompt": f"{PROMPT} [[{scenario}]]"}
        set_slot(slot, provider_id=provider, operation_id="image_edit", settings_json=settings_json)
        replies[slot] = in_background(partial(harness.booth.post, PHOTO, slot))
    for slot, (_, _, status) in SILENT.items():
        code = "sync_timeout" if status == 504 else "provider_error"
        assert refusal(replies[slot](), status, code)["reason"] == "slow"
        assert Job.objects.get(slot_id=slot).failure_reason == ("timeout" if status == 504 else "provider_error")
    assert eventually(lambda: sorted(summarize_calls().split()) == ["ambiguous:slow", "late", "late", "late"])
    harness.wire.wait_for(lambda: len(harness.wire.hung_up) == 3)  # the connections were closed
    assert [len(harness.paid_requests(provider)) for provider in PROVIDERS] == [1, 1, 2]
    assert steps().count("timeout") == 3
    assert eventually(harness.has_no_leftovers)
    for provider in PROVIDERS:
        check_secrets(provider)
