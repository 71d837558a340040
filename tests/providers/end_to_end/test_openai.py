"""Each of OpenAI's own errors, end to end; those of transport and pictures are in their own modules."""

from __future__ import annotations

import pytest

from tests.providers.end_to_end.harness import Harness, check

pytestmark = pytest.mark.e2e

FAULTS = [
    ("moderation_input", "refused:refused"),
    ("moderation_output", "refused:refused"),
    ("safety_violations", "refused:refused"),
    ("content_policy", "refused:refused"),
    ("safety_words", "refused:refused"),
    ("invalid_image", "failed:bad_photo"),
    ("too_large", "failed:bad_photo"),
    ("media_type", "failed:bad_photo"),
    ("invalid_value", "failed:bad_settings"),
    ("unknown_parameter", "failed:bad_settings"),
    ("model_gone", "failed:bad_settings"),
    ("billing_limit", "failed:quota"),
    ("billing_inactive", "failed:quota"),
    ("insufficient_quota", "failed:quota"),
    ("bad_key", "failed:auth"),
    ("not_verified", "failed:auth"),
    ("country", "failed:auth"),
    ("server:503:false", "failed:overloaded"),
    ("should_retry:false", "failed:bad_settings"),
    ("rate:121", "failed:overloaded"),
    ("rate_date:121", "failed:overloaded"),
    ("server:500", 5 * "failed:overloaded "),
    ("no_data", "ambiguous:no_image$"),
    ("null_data", "ambiguous:no_image$"),
    ("empty_data", "ambiguous:no_image$"),
    ("null_picture", "ambiguous:no_image$"),
    ("url_picture", "ambiguous:no_image$"),
]
PASSING = [
    ("rate:0", "failed:overloaded made$"),
    ("rate:0.2", "failed:overloaded made$"),
    ("rate_ms:200", "failed:overloaded made$"),
    ("rate_date:0", "failed:overloaded made$"),
    ("rate_text:200ms", "failed:overloaded made$"),
    ("rate_silent", "failed:overloaded made$"),
    ("server:500", "failed:overloaded made$"),
    ("server:503", "failed:overloaded made$"),
    ("server:503:true", "failed:overloaded made$"),
    ("server:504", "failed:slow made$"),
    ("server:408", "failed:slow made$"),
    ("server:409", "failed:overloaded made$"),
    ("should_retry:true", "failed:bad_settings made$"),
    ("error_text", "failed:overloaded made$"),
    ("error_list", "failed:overloaded made$"),
    ("plain_usage", "made$"),
    ("no_usage", "made"),
    ("bad_usage", "made"),
]


@pytest.mark.parametrize(("scenario", "expected"), FAULTS)
def test_a_fault(harness: Harness, scenario: str, expected: str) -> None:
    check(harness, "openai", harness.post("openai", (scenario,) * 5), 502, expected.strip())


@pytest.mark.parametrize(("scenario", "expected"), PASSING)
def test_a_fault_that_passes(harness: Harness, scenario: str, expected: str) -> None:
    check(harness, "openai", harness.post("openai", scenario), 200, expected)
