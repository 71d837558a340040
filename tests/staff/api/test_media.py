"""`POST /api/media/register`: a picture with a public link, for a short while."""

from __future__ import annotations

from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4
from zlib import crc32

import httpx
import pytest
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db.models.functions import Now
from django.test import Client
from django.test.client import MULTIPART_CONTENT
from PIL import Image

from core import images
from ingest.models import IngestSettings
from jobs.models import MediaObject
from jobs.retention.purge import purge
from tests.api import Api, check_refusal, make_api
from tests.conftest import Booth, in_background, jpeg, stored_files, use_sandbox
from tests.jobs.test_admin import job, made
from tests.providers.test_prepare import JPEG, PNG, SECRETS, WEBP, exif
from tests.sandbox.server import Sandbox
from tests.staff.api.test_template_media import heic

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

REGISTER = "/api/media/register"


@pytest.fixture
def api() -> Api:
    return make_api("slots:write")


def register(api: Api, data: bytes | None = None, **more: Any) -> Any:
    file = SimpleUploadedFile("any.gif", jpeg() if data is None else data, "text/plain")
    form = {"file": file} | more
    given = {name: value for name, value in form.items() if value is not None}
    return api("post", REGISTER, given, content_type=MULTIPART_CONTENT)


def registered(api: Api, data: bytes | None = None, **more: Any) -> dict[str, Any]:
    answer = register(api, data, **more)
    assert answer.status_code == 201, answer.content
    told: dict[str, Any] = answer.json()
    return told


def fetched(told: dict[str, Any]) -> Any:
    return Client().get(told["public_url"].removeprefix(settings.PUBLIC_BASE_URL))


def nothing_is_kept() -> bool:
    return stored_files() == [] and not MediaObject.objects.exists() and not LogEntry.objects.exists()


def test_anybody_who_has_the_link_gets_the_picture(api: Api) -> None:
    answer = register(api)
    told, media = answer.json(), MediaObject.objects.get()
    assert told == {
        "id": str(media.pk),
        "public_url": f"{settings.PUBLIC_BASE_URL}/public/media/{media.pk}",
        "expires_at": told["expires_at"],
        "mime": "image/jpeg",
        "size_bytes": media.size_bytes,
        "job_id": None,
    }
    assert answer.headers["Location"] == f"/public/media/{media.pk}"
    there = fetched(told)
    assert (there.status_code, there.headers["Content-Type"]) == (200, "image/jpeg")
    assert len(there.content) == told["size_bytes"]
    assert stored_files() == [f"media/{media.pk}.jpg"]
    assert LogEntry.objects.get().object_id == str(media.pk)


@pytest.mark.parametrize("seconds", [10, 48])
def test_the_link_lasts_as_long_as_a_booth_waits(api: Api, seconds: int) -> None:
    IngestSettings.objects.update(sync_response_seconds=seconds)
    told = registered(api)
    media = MediaObject.objects.get()
    assert media.expires_at - media.created_at == timedelta(seconds=seconds)
    assert datetime.fromisoformat(told["expires_at"]) == media.expires_at


@pytest.mark.parametrize("left", [5, 300])
def test_of_a_job_it_ends_with_its_time_at_the_latest(api: Api, left: int) -> None:
    under_way = job(expires_at=Now() + timedelta(seconds=left))
    under_way.refresh_from_db()
    told = registered(api, job_id=str(under_way.pk))
    media = MediaObject.objects.get()
    assert told["job_id"] == str(under_way.pk)
    ends = [under_way.expires_at, media.created_at + timedelta(seconds=48)]
    assert media.expires_at == min(ends) == ends[left > 48]


def test_after_its_time_the_link_is_gone_and_then_the_file(api: Api) -> None:
    told = registered(api)
    MediaObject.objects.update(expires_at=Now())
    assert fetched(told).status_code == 410
    purge(["media"])
    assert stored_files() == []
    assert fetched(told).status_code == 404


@pytest.mark.e2e
def test_the_end_of_its_job_does_not_end_it(api: Api, booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("queued", "hold")
    reply = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1, "GET")
    (job_id,) = [path.split("/")[1].split(".")[0] for path in stored_files() if path.startswith("payloads/")]
    told = registered(api, job_id=job_id)
    sandbox.let_go()
    assert reply().status == 200
    assert fetched(told).status_code == 200


@pytest.mark.parametrize("state", ["made", "cancelled", "past its time"])
def test_a_job_that_is_over_takes_none(api: Api, state: str) -> None:
    now = datetime.now().astimezone()
    changes: dict[str, Any] = {
        "made": {},
        "cancelled": {"is_finalized": True, "finalized_at": now, "failure_reason": "cancelled"},
        "past its time": {"created_at": now - timedelta(seconds=48), "expires_at": Now()},
    }[state]
    over = job(**changes) if changes else made()
    check_refusal(register(api, job_id=str(over.pk)), 409, "job_finalized")
    assert nothing_is_kept()


def test_a_job_that_is_not_there_takes_none(api: Api) -> None:
    check_refusal(register(api, job_id=str(uuid4())), 404, "not_found")
    assert nothing_is_kept()


@pytest.mark.parametrize("data", [JPEG, PNG, WEBP], ids=["jpeg", "png", "webp"])
def test_what_is_public_tells_nothing_but_the_picture(api: Api, data: bytes) -> None:
    told = registered(api, data)
    there = fetched(told).content
    assert not [secret for secret in SECRETS if secret in there]
    assert told["mime"] == images.probe(data).mime_type
    assert len(there) == told["size_bytes"] < len(data)


def test_a_picture_that_lies_on_its_side_stands_upright(api: Api) -> None:
    out = BytesIO()
    Image.new("RGB", (300, 200)).save(out, "JPEG", exif=exif(6))
    assert Image.open(BytesIO(fetched(registered(api, out.getvalue())).content)).size == (200, 300)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "invalid_payload"),
        (b"<html>", 400, "invalid_payload"),
        (jpeg()[:-200], 400, "invalid_payload"),
        (heic(), 415, "unsupported_media_type"),
    ],
    ids=["empty", "no image", "cut short", "HEIC"],
)
def test_what_is_no_such_picture_is_refused(api: Api, data: bytes, status: int, code: str) -> None:
    details = check_refusal(register(api, data), status, code)
    assert details == {"allowed": [*images.FORMATS]} if status == 415 else details.keys() == {"file"}
    assert nothing_is_kept()


def test_what_is_too_large_is_refused(api: Api, settings: Any) -> None:
    limit = 1024 * 1024
    settings.INGEST_MAX_FILE_BYTES = limit
    assert check_refusal(register(api, jpeg() + bytes(limit)), 413, "payload_too_large") == {"limit_bytes": limit}
    settings.INGEST_MAX_PIXELS = 10_000
    assert check_refusal(register(api), 413, "payload_too_large") == {"limit_bytes": limit}
    assert nothing_is_kept()


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_what_is_longer_than_any_jpeg_is_refused(api: Api, mode: str) -> None:
    out = BytesIO()
    Image.new(mode, (66_000, 6)).save(out, "PNG")
    answer = register(api, out.getvalue())
    check_refusal(answer, 413, "payload_too_large")
    assert "65500" in answer.json()["error"]["message"]
    assert nothing_is_kept()


def test_what_is_never_made_ready_for_a_provider_is_not_taken_either(api: Api, settings: Any) -> None:
    settings.INGEST_MAX_PIXELS = 1_000_000_000
    data = images.encode(Image.new("RGB", (8, 8)), "png")
    header = b"IHDR" + (20_000).to_bytes(4) * 2 + data[24:29]  # the sides that it promises
    wide = data[:12] + header + crc32(header).to_bytes(4) + data[33:]
    check_refusal(register(api, wide), 413, "payload_too_large")


@pytest.mark.parametrize(
    ("more", "status", "named"),
    [
        ({"file": None}, 400, "file"),
        ({"file": "text"}, 400, "file"),
        ({"colour": "red"}, 400, "colour"),
        ({"job_id": "7"}, 422, "job_id"),
        ({"job_id": ""}, 422, "job_id"),
    ],
)
def test_a_form_that_is_not_as_it_must_be_is_refused_by_name(
    api: Api, more: dict[str, Any], status: int, named: str
) -> None:
    code = {400: "invalid_payload", 422: "validation_failed"}[status]
    assert list(check_refusal(register(api, **more), status, code)) == [named]
    assert nothing_is_kept()


def test_a_body_that_is_no_form_is_refused(api: Api) -> None:
    assert check_refusal(api("post", REGISTER, {}), 415, "unsupported_media_type") == {
        "allowed": ["multipart/form-data"]
    }
    check_refusal(api("post", REGISTER, b"x", content_type="multipart/form-data; boundary=y"), 400, "invalid_payload")
    check_refusal(api("post", f"{REGISTER}?job_id={uuid4()}", {}), 400, "invalid_payload")


def test_a_file_that_cannot_be_kept_leaves_no_link(api: Api) -> None:
    Path(settings.MEDIA_ROOT, "media").write_bytes(b"")  # where the folder should be
    try:
        check_refusal(register(api), 500, "internal_error")
    finally:
        Path(settings.MEDIA_ROOT, "media").unlink()
    assert nothing_is_kept()


@pytest.mark.e2e
def test_the_real_server_takes_it_and_gives_it_to_anybody(web: httpx.Client, api: Api) -> None:
    answer = web.post(REGISTER, files={"file": jpeg()}, headers=api.headers)
    assert answer.status_code == 201, answer.text
    there = web.get(answer.json()["public_url"].removeprefix(settings.PUBLIC_BASE_URL))
    assert (there.status_code, there.headers["Content-Type"]) == (200, "image/jpeg")
