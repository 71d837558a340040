"""The booth's form fields in the prompts that are sent to providers."""

from __future__ import annotations

from urllib.parse import unquote_plus

import pytest

from tests.conftest import set_slot
from tests.providers.end_to_end.harness import PHOTO, PROVIDERS, Harness, open_picture

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("provider", PROVIDERS)
def test_placeholders_are_filled_with_the_booths_fields(harness: Harness, provider: str) -> None:
    settings = {"prompt": "A poster for {survey1_text_2} from {name}{username}"}
    set_slot(provider_id=provider, operation_id="image_edit", settings_json=settings)
    open_picture(harness.booth.post(PHOTO, survey1_text_2="Zoe & Jim"))
    (sent,) = harness.paid_requests(provider)
    assert "A poster for Zoe & Jim from BOOTH-1" in unquote_plus(sent.body.decode("latin-1"))
