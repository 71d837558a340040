"""`POST /api/media/register`: a picture with a temporary public link."""

from __future__ import annotations

from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
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
from tests.jobs.test_admin import make_job, make_picture_job
from tests.providers.test_prepare import JPEG, PNG, SECRETS, WEBP, exif
from tests.sandbox.server import Sandbox
from tests.staff.api.test_template_media import make_heic
from tests.streams import read_body

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]

REGISTER = "/api/media/register"


@pytest.fixture
def api() -> Api:
    return make_api("slots:write")


def register(api: Api, data: bytes | None = None, **more: Any) -> Any:
    file = SimpleUploadedFile("any.gif", jpeg() if data is None else data, "text/plain")
    form = {"file": file} | more
    fields = {name: value for name, value in form.items() if value is not None}
    return api("post", REGISTER, fields, content_type=MULTIPART_CONTENT)


def register_media(api: Api, data: bytes | None = None, **more: Any) -> dict[str, Any]:
    response = register(api, data, **more)
    assert response.status_code == 201, response.content
    media_json: dict[str, Any] = response.json()
    return media_json


def fetch(media_json: dict[str, Any]) -> SimpleNamespace:
    response: Any = Client().get(media_json["public_url"].removeprefix(settings.PUBLIC_BASE_URL))
    return SimpleNamespace(status_code=response.status_code, headers=response.headers, content=read_body(response))


def nothing_is_stored() -> bool:
    return stored_files() == [] and not MediaObject.objects.exists() and not LogEntry.objects.exists()


def test_anybody_who_has_the_link_gets_the_picture(api: Api) -> None:
    response = register(api)
    media_json, media = response.json(), MediaObject.objects.get()
    assert media_json == {
        "id": str(media.pk),
        "public_url": f"{settings.PUBLIC_BASE_URL}/public/media/{media.pk}",
        "expires_at": media_json["expires_at"],
        "mime": "image/jpeg",
        "size_bytes": media.size_bytes,
        "job_id": None,
    }
    assert response.headers["Location"] == f"/public/media/{media.pk}"
    fetched = fetch(media_json)
    assert (fetched.status_code, fetched.headers["Content-Type"]) == (200, "image/jpeg")
    assert len(fetched.content) == media_json["size_bytes"]
    assert stored_files() == [f"media/{media.pk}.jpg"]
    assert LogEntry.objects.get().object_id == str(media.pk)


@pytest.mark.parametrize("seconds", [10, 48])
def test_the_link_lasts_as_long_as_a_booth_waits(api: Api, seconds: int) -> None:
    IngestSettings.objects.update(sync_response_seconds=seconds)
    media_json = register_media(api)
    media = MediaObject.objects.get()
    assert media.expires_at - media.created_at == timedelta(seconds=seconds)
    assert datetime.fromisoformat(media_json["expires_at"]) == media.expires_at


@pytest.mark.parametrize("left", [5, 300])
def test_with_a_job_it_expires_at_its_deadline_at_the_latest(api: Api, left: int) -> None:
    under_way = make_job(expires_at=Now() + timedelta(seconds=left))
    under_way.refresh_from_db()
    media_json = register_media(api, job_id=str(under_way.pk))
    media = MediaObject.objects.get()
    assert media_json["job_id"] == str(under_way.pk)
    ends = [under_way.expires_at, media.created_at + timedelta(seconds=48)]
    assert media.expires_at == min(ends) == ends[left > 48]


def test_after_it_expires_the_link_is_gone_and_then_the_file(api: Api) -> None:
    media_json = register_media(api)
    MediaObject.objects.update(expires_at=Now())
    assert fetch(media_json).status_code == 410
    purge(["media"])
    assert stored_files() == []
    assert fetch(media_json).status_code == 404


@pytest.mark.e2e
def test_the_end_of_its_job_does_not_end_it(api: Api, booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("queued", "hold")
    reply = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1, "GET")
    (job_id,) = [path.split("/")[1].split(".")[0] for path in stored_files() if path.startswith("payloads/")]
    media_json = register_media(api, job_id=job_id)
    sandbox.let_go()
    assert reply().status == 200
    assert fetch(media_json).status_code == 200


@pytest.mark.parametrize("state", ["made", "cancelled", "past its deadline"])
def test_a_job_that_has_ended_is_refused(api: Api, state: str) -> None:
    now = datetime.now().astimezone()
    changes: dict[str, Any] = {
        "made": {},
        "cancelled": {"is_finalized": True, "finalized_at": now, "failure_reason": "cancelled"},
        "past its deadline": {"created_at": now - timedelta(seconds=48), "expires_at": Now()},
    }[state]
    ended_job = make_job(**changes) if changes else make_picture_job()
    check_refusal(register(api, job_id=str(ended_job.pk)), 409, "job_finalized")
    assert nothing_is_stored()


def test_an_unknown_job_is_refused(api: Api) -> None:
    check_refusal(register(api, job_id=str(uuid4())), 404, "not_found")
    assert nothing_is_stored()


@pytest.mark.parametrize("data", [JPEG, PNG, WEBP], ids=["jpeg", "png", "webp"])
def test_the_public_file_has_no_metadata(api: Api, data: bytes) -> None:
    media_json = register_media(api, data)
    fetched = fetch(media_json).content
    assert not [secret for secret in SECRETS if secret in fetched]
    assert media_json["mime"] == images.probe(data).mime_type
    assert len(fetched) == media_json["size_bytes"] < len(data)


def test_a_rotated_picture_is_stored_upright(api: Api) -> None:
    out = BytesIO()
    Image.new("RGB", (300, 200)).save(out, "JPEG", exif=exif(6))
    assert Image.open(BytesIO(fetch(register_media(api, out.getvalue())).content)).size == (200, 300)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "invalid_payload"),
        (b"<html>", 400, "invalid_payload"),
        (jpeg()[:-200], 400, "invalid_payload"),
        (make_heic(), 415, "unsupported_media_type"),
    ],
    ids=["empty", "no image", "cut short", "HEIC"],
)
def test_what_is_no_such_picture_is_refused(api: Api, data: bytes, status: int, code: str) -> None:
    details = check_refusal(register(api, data), status, code)
    assert details == {"allowed": [*images.FORMATS]} if status == 415 else details.keys() == {"file"}
    assert nothing_is_stored()


def test_what_is_too_large_is_refused(api: Api, settings: Any) -> None:
    limit = 1024 * 1024
    settings.INGEST_MAX_FILE_BYTES = limit
    assert check_refusal(register(api, jpeg() + bytes(limit)), 413, "payload_too_large") == {"limit_bytes": limit}
    settings.INGEST_MAX_PIXELS = 10_000
    assert check_refusal(register(api), 413, "payload_too_large") == {"limit_bytes": limit}
    assert nothing_is_stored()


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_what_is_longer_than_any_jpeg_is_refused(api: Api, mode: str) -> None:
    out = BytesIO()
    Image.new(mode, (66_000, 6)).save(out, "PNG")
    response = register(api, out.getvalue())
    check_refusal(response, 413, "payload_too_large")
    assert "65500" in response.json()["error"]["message"]
    assert nothing_is_stored()


def test_what_is_too_large_for_any_provider_is_refused(api: Api, settings: Any) -> None:
    settings.INGEST_MAX_PIXELS = 1_000_000_000
    data = images.encode(Image.new("RGB", (8, 8)), "png")
    header = b"IHDR" + (20_000).to_bytes(4) * 2 + data[24:29]  # the width and height that it claims
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
def test_an_invalid_form_is_refused_by_name(api: Api, more: dict[str, Any], status: int, named: str) -> None:
    code = {400: "invalid_payload", 422: "validation_failed"}[status]
    assert list(check_refusal(register(api, **more), status, code)) == [named]
    assert nothing_is_stored()


def test_a_body_that_is_no_form_is_refused(api: Api) -> None:
    assert check_refusal(api("post", REGISTER, {}), 415, "unsupported_media_type") == {
        "allowed": ["multipart/form-data"]
    }
    check_refusal(api("post", REGISTER, b"x", content_type="multipart/form-data; boundary=y"), 400, "invalid_payload")
    check_refusal(api("post", f"{REGISTER}?job_id={uuid4()}", {}), 400, "invalid_payload")


def test_a_file_that_cannot_be_stored_leaves_no_link(api: Api) -> None:
    Path(settings.MEDIA_ROOT, "media").write_bytes(b"")  # where the folder should be
    try:
        check_refusal(register(api), 500, "internal_error")
    finally:
        Path(settings.MEDIA_ROOT, "media").unlink()
    assert nothing_is_stored()


@pytest.mark.e2e
def test_the_real_server_takes_it_and_gives_it_to_anybody(web: httpx.Client, api: Api) -> None:
    response = web.post(REGISTER, files={"file": jpeg()}, headers=api.headers)
    assert response.status_code == 201, response.text
    fetched = web.get(response.json()["public_url"].removeprefix(settings.PUBLIC_BASE_URL))
    assert (fetched.status_code, fetched.headers["Content-Type"]) == (200, "image/jpeg")
