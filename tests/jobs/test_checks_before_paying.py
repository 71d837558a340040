"""What can be known to fail fails before a provider is paid."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from core import images
from jobs.models import Job
from providers.models import ProviderCall
from tests.conftest import Booth, jpeg, use_sandbox
from tests.sandbox.server import Sandbox, developed
from tests.slots.factories import BAD_FRAMES, bind, draw_frame

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("fault", [*BAD_FRAMES, "file gone", "not bound"])
def test_a_frame_that_cannot_be_used_costs_nothing(booth: Booth, sandbox: Sandbox, fault: str) -> None:
    if fault != "not bound":
        bind(BAD_FRAMES.get(fault))
    use_sandbox("instant", frame="border")
    replies = [booth.post(jpeg(colour=colour)) for colour in ("red", "green", "blue")]
    assert [reply.status for reply in replies] == [502] * 3
    assert {json.loads(reply.body)["error"]["details"]["reason"] for reply in replies} == {"bad_template"}
    assert sandbox.journal == []
    assert not ProviderCall.objects.exists()
    assert {job.error_message for job in Job.objects.all()} != {""}


def test_a_good_frame_is_paid_for_and_used(booth: Booth, sandbox: Sandbox) -> None:
    bind(draw_frame())
    use_sandbox("instant", frame="border")
    reply = booth.post(jpeg())
    assert (reply.status, len(sandbox.journal)) == (200, 1)
    assert images.decode(reply.body).getpixel((2, 2)) == pytest.approx((255, 215, 0), abs=6)


@pytest.mark.parametrize("output", [{"width": 8192}, {"format": "webp", "height": 8192}])
def test_a_picture_that_would_be_too_large_is_as_large_as_can_be(
    booth: Booth, sandbox: Sandbox, output: dict[str, object]
) -> None:
    strip = jpeg(8, 300) if "width" in output else jpeg(700, 8)
    use_sandbox("instant", output=output)
    reply = booth.post(strip)
    assert (reply.status, len(sandbox.journal)) == (200, 1)
    with Image.open(io.BytesIO(reply.body)) as image:
        longest = max(image.size)
        with Image.open(io.BytesIO(developed(strip))) as made:
            assert image.width / image.height == pytest.approx(made.width / made.height, rel=0.1)
    assert 16_000 < longest <= images.MAX_SIDE
