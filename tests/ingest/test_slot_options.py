"""The options of a slot (contract §8), as a booth sees them."""

from __future__ import annotations

import email.policy
import io
import json
from email import message_from_bytes
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import pytest
from PIL import Image

from core import images
from ingest.models import IngestSettings
from jobs.lifecycle import cancel_job
from jobs.models import Job
from providers.models import ProviderAccount, ProviderCall
from slots.models import Slot, TemplateBinding, TemplateMedia
from stats.models import HourlyCounter, ProcessingLog
from tests.conftest import Booth, in_background, jpeg, stored_files, use_sandbox
from tests.ingest.helpers import eventually
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.contract

NEGATIVE: dict[str, Any] = {"provider_id": "instant", "operation_id": "image_edit", "settings_json": {"scenario": "ok"}}
ORIGINAL = {"on_failure": "original"}


def make_rotated_photo() -> bytes:
    """Wider than high as it is stored, higher than wide as it is meant."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


def list_steps(job_id: UUID) -> list[str]:
    return [step.status for step in ProcessingLog.objects.filter(job_id=job_id).order_by("id")]


def set_deadline(seconds: int) -> None:
    IngestSettings.objects.update(sync_response_seconds=seconds)


# fallback


@pytest.mark.parametrize("scenario", ["refuses", "bad_key", "not_an_image", "lost"])
def test_a_fallback_makes_the_picture_when_the_provider_fails_for_good(booth: Booth, scenario: str) -> None:
    use_sandbox("queued" if scenario == "refuses" else "instant", scenario, fallback=NEGATIVE)
    photo = jpeg()
    reply = booth.post(photo)
    assert (reply.status, reply.headers["x-outcome"], reply.body) == (200, "fallback", developed(photo))
    job = Job.objects.get()
    assert (job.failure_reason, job.used_fallback) == (None, True)
    assert list_steps(job.pk) == ["received", "dispatched", "provider_responded", "provider_responded", "succeeded"]


def test_without_a_failure_the_fallback_is_not_called(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", fallback=NEGATIVE)
    assert booth.post(jpeg()).headers["x-outcome"] == "made"
    assert len(sandbox.journal) == 1


def test_when_the_fallback_fails_too_its_reason_is_the_answer(booth: Booth) -> None:
    use_sandbox("instant", "bad_key", fallback=NEGATIVE | {"settings_json": {"scenario": "refuses"}})
    reply = booth.post(jpeg())
    assert (reply.status, json.loads(reply.body)["error"]["details"]["reason"]) == (502, "refused")


def test_a_fallback_takes_the_slots_output(booth: Booth) -> None:
    use_sandbox("instant", "refuses", fallback=NEGATIVE, output={"format": "png", "width": 64, "height": 64})
    header = images.probe(booth.post(jpeg()).body)
    assert (header.mime_type, header.width, header.height) == ("image/png", 64, 64)


def test_a_provider_that_is_off_is_no_hindrance_with_a_fallback(booth: Booth, sandbox: Sandbox) -> None:
    ProviderAccount.objects.create(provider_id="queued", is_enabled=False)
    use_sandbox("queued", fallback=NEGATIVE)
    assert booth.post(jpeg()).headers["x-outcome"] == "fallback"
    assert [call.path for call in sandbox.journal] == ["/instant"]


# on_failure: original


@pytest.mark.parametrize(("scenario", "reason"), [("refuses", "refused"), ("bad_key", "auth"), ("lost", "slow")])
def test_the_photo_comes_back_and_the_job_records_the_failure(booth: Booth, scenario: str, reason: str) -> None:
    use_sandbox("instant", scenario, **ORIGINAL)
    photo = jpeg()
    reply = booth.post(photo)
    assert (reply.status, reply.headers["x-outcome"], reply.body) == (200, "original", photo)
    assert "x-result-url" not in reply.headers
    job = Job.objects.get()
    assert (str(job.pk), job.failure_reason, job.error_reason) == (reply.headers["x-job-id"], "provider_error", reason)
    assert eventually(lambda: stored_files() == [])
    assert eventually(lambda: Job.objects.get().payload_path is None)


def test_at_the_deadline_the_photo_comes_back_in_time(booth: Booth, sandbox: Sandbox) -> None:
    set_deadline(10)
    use_sandbox("instant", "hold", **ORIGINAL)
    reply = booth.post(make_rotated_photo())
    header = images.probe(reply.body)
    assert (reply.status, reply.headers["x-outcome"]) == (200, "original")
    assert (header.width, header.height, header.is_plain) == (240, 320, True)
    assert Job.objects.get().failure_reason == "timeout"


def test_the_photo_comes_back_in_the_slots_frame_and_size(booth: Booth) -> None:
    frame = TemplateMedia.objects.create(mime_type="image/png", size_bytes=1, checksum="c", file="templates/frame.png")
    out = io.BytesIO()
    border = Image.new("RGBA", (100, 100), "gold")
    border.paste((0, 0, 0, 0), (10, 10, 90, 90))
    border.save(out, "PNG")
    frame.file.storage.save("templates/frame.png", io.BytesIO(out.getvalue()))
    TemplateBinding.objects.create(slot=Slot.objects.get(pk="slot-001"), setting_key="border", media=frame)
    use_sandbox("instant", "refuses", frame="border", output={"width": 100, "height": 100}, **ORIGINAL)
    picture = images.decode(booth.post(jpeg()).body).convert("RGB")
    assert picture.size == (100, 100)
    corner = picture.getpixel((3, 3))
    assert isinstance(corner, tuple)
    assert corner == pytest.approx((255, 215, 0), abs=12)


def test_a_cancelled_photo_does_not_come_back(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold", **ORIGINAL)
    reply = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1)
    assert cancel_job(Job.objects.get().pk, "serg")
    assert reply().status == 503


def test_with_the_provider_off_the_photo_comes_back(booth: Booth) -> None:
    ProviderAccount.objects.create(provider_id="instant", is_enabled=False)
    use_sandbox("instant", **ORIGINAL)
    assert booth.post(jpeg()).headers["x-outcome"] == "original"
    assert Job.objects.get().error_reason == "overloaded"


# finish_late


def test_a_picture_that_is_late_is_under_the_public_link(booth: Booth, sandbox: Sandbox, web: httpx.Client) -> None:
    set_deadline(10)
    use_sandbox("instant", "hold", finish_late=True)
    photo = jpeg()
    reply = booth.post(photo)
    assert reply.status == 504
    job_id = json.loads(reply.body)["error"]["details"]["job_id"]
    assert web.get(f"/public/results/{job_id}").status_code == 404
    sandbox.let_go()
    assert eventually(lambda: web.get(f"/public/results/{job_id}").status_code == 307)
    assert web.get(f"/public/results/{job_id}", follow_redirects=True).content == developed(photo)
    job = Job.objects.get()
    assert job.failure_reason == "timeout"
    assert ProviderCall.objects.get().outcome == "made"


# daily_budget


def spend(usd: str | None, slot_id: str = "slot-001") -> None:
    call = ProviderCall.objects.create(provider_id="instant", slot_id=slot_id, job_id=Job().pk, cost_usd=usd)
    ProviderCall.objects.filter(pk=call.pk).update(ended_at=call.at, outcome="made")


@pytest.mark.parametrize(("spent", "status"), [("4.99", 200), ("5.00", 429), (None, 200)])
def test_when_the_budget_is_used_up_photos_are_refused(booth: Booth, spent: str | None, status: int) -> None:
    spend(spent)
    use_sandbox("instant", daily_budget=5)
    reply = booth.post(jpeg())
    assert reply.status == status
    if status == 429:
        assert json.loads(reply.body)["error"]["code"] == "budget_exhausted"
        assert 0 < int(reply.headers["retry-after"]) <= 24 * 60 * 60
        assert not Job.objects.exists()
        assert stored_files() == []


@pytest.mark.parametrize("refusal", ["budget", "provider off"])
def test_posting_again_joins_the_job_under_way_whatever_has_come_between(
    booth: Booth, sandbox: Sandbox, refusal: str
) -> None:
    use_sandbox("instant", "hold", daily_budget=5)
    first = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1)
    if refusal == "budget":
        spend("5.00")
    else:
        ProviderAccount.objects.create(provider_id="instant", is_enabled=False)
    second = in_background(lambda: booth.post(jpeg()))
    assert eventually(lambda: ProcessingLog.objects.filter(status="received").count() == 2)
    sandbox.let_go()
    assert (first().status, second().status) == (200, 200)
    assert len(sandbox.journal) == 1


def test_another_slots_money_is_no_matter(booth: Booth) -> None:
    spend("9.00", "slot-002")
    use_sandbox("instant", daily_budget=5)
    assert booth.post(jpeg()).status == 200


def test_with_the_budget_used_up_the_photo_comes_back_if_the_slot_wants_it(booth: Booth, sandbox: Sandbox) -> None:
    spend("5.00")
    use_sandbox("instant", daily_budget=5, **ORIGINAL)
    assert booth.post(jpeg()).headers["x-outcome"] == "original"
    assert sandbox.journal == []
    job = Job.objects.get()
    assert job.error_reason == "quota"
    assert list_steps(job.pk) == ["received", "dispatched", "failed"]
    assert HourlyCounter.objects.get().attempts == 0  # no provider was called


# max_concurrent


def test_a_slot_has_no_more_jobs_at_once_than_it_says(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold", max_concurrent=1)
    use_sandbox("instant", "hold", slot_id="slot-002")
    replies = [in_background(partial(booth.post, jpeg(colour=colour))) for colour in ("red", "green", "blue")]
    other = in_background(lambda: booth.post(jpeg(), "slot-002"))
    sandbox.wait_for_calls(2)
    assert Job.objects.filter(slot_id="slot-001", status="processing").count() == 1
    sandbox.let_go()
    assert [reply().status for reply in (*replies, other)] == [200] * 4


# reply: multipart


def test_json_and_picture_as_two_parts(booth: Booth) -> None:
    use_sandbox("instant", reply="multipart")
    photo = jpeg()
    reply = booth.post(photo)
    head = f"Content-Type: {reply.headers['content-type']}\r\n\r\n".encode()
    about, picture = message_from_bytes(head + reply.body, policy=email.policy.default).iter_parts()
    metadata = json.loads(about.get_content())
    assert metadata["job_id"] == reply.headers["x-job-id"]
    assert (metadata["outcome"], metadata["result_url"]) == ("made", reply.headers["x-result-url"])
    assert picture.get_content_type() == "image/jpeg"
    assert developed(photo) in reply.body
    assert eventually(lambda: Job.objects.get().delivered_at)
