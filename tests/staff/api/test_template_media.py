"""`/api/template-media`: registering, listing, previewing and deleting the images for slots' settings."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, transaction
from django.test import Client
from django.test.client import MULTIPART_CONTENT
from django.utils import timezone
from PIL import Image

from core import images
from jobs.models import Job
from jobs.storage import files
from slots.models import Slot, TemplateBinding, TemplateMedia
from tests.api import Api, check_refusal, make_api
from tests.conftest import in_background, jpeg, set_slot, stored_files
from tests.photoslot.waiting import until
from tests.slots.factories import draw_frame, image

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

LIST = "/api/template-media"
UNKNOWN_ID = uuid4()


@pytest.fixture
def api() -> Api:
    return make_api("slots:write")


def register(api: Api, data: bytes | None = None, **more: Any) -> Any:
    file = SimpleUploadedFile("any.gif", jpeg() if data is None else data, "text/plain")
    form = {"file": file, "slot_id": "slot-001", "setting_key": "mood"} | more
    fields = {name: value for name, value in form.items() if value is not None}
    return api("post", f"{LIST}/register", fields, content_type=MULTIPART_CONTENT)


def register_image(api: Api, **more: Any) -> str:
    response = register(api, **more)
    assert response.status_code == 201, response.content
    media_id: str = response.json()["id"]
    return media_id


def bind(media_id: str, slot_id: str, key: str = "mood") -> None:
    TemplateBinding.objects.create(slot_id=slot_id, setting_key=key, media_id=media_id)


def make_use(slot_id: str = "slot-001", setting_key: str = "mood") -> dict[str, str]:
    return {"slot_id": slot_id, "setting_key": setting_key}


def delete(api: Api, media_id: object, **query: Any) -> Any:
    return api("delete", f"{LIST}/{media_id}?" + "&".join(f"{name}={value}" for name, value in query.items()))


def make_heic() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "HEIF")
    return out.getvalue()


def nothing_is_stored() -> bool:
    return stored_files() == [] and not TemplateMedia.objects.exists() and not LogEntry.objects.exists()


def test_an_image_is_stored_under_its_key_with_the_type_of_its_bytes(api: Api) -> None:
    response = register(api, jpeg(colour="red"), label="Evening")
    media_json = response.json()
    media = TemplateMedia.objects.get()
    assert media_json.pop("created_at").endswith("Z")
    assert media_json == make_use() | {
        "id": str(media.pk),
        "label": "Evening",
        "checksum": files.checksum(jpeg(colour="red")),
        "mime": "image/jpeg",
        "size_bytes": len(jpeg(colour="red")),
        "uploaded_by": User.objects.get().username,
    }
    assert response.headers["Location"] == f"{LIST}/{media.pk}"
    assert stored_files() == [f"templates/{media.pk}.jpg"]
    assert LogEntry.objects.get().object_id == str(media.pk)


def test_a_slots_settings_can_then_point_to_it(api: Api) -> None:
    register_image(api)
    values = {
        "name": "x",
        "provider_id": "studio",
        "operation_id": "style_transfer",
        "settings_json": {"style": "mood"},
    }
    assert api("put", "/api/slots/slot-001", values, headers={"If-Match": "*"}).status_code == 200


def test_a_frame_is_not_replaced_by_an_image_that_cannot_be_one(api: Api) -> None:
    set_slot(settings_json={"look": "noir", "frame": "mood"})
    assert register(api, draw_frame()).status_code == 201
    details = check_refusal(register(api, jpeg(), replace="true"), 400, "invalid_payload")
    assert "no transparent part" in details["file"][0]
    assert TemplateMedia.objects.count() == 1
    assert register(api, draw_frame(80, 60), replace="true").status_code == 201


def test_an_image_that_could_not_be_previewed_is_refused(api: Api) -> None:
    out = io.BytesIO()
    Image.new("RGB", (66_000, 6)).save(out, "PNG")
    check_refusal(register(api, out.getvalue()), 413, "payload_too_large")
    assert nothing_is_stored()


def test_it_is_previewed_though_the_limit_for_new_ones_is_lower_now(api: Api, settings: Any) -> None:
    media_id = register_image(api)
    settings.INGEST_MAX_PIXELS = 1000
    assert api("get", f"{LIST}/{media_id}/preview").status_code == 200


@pytest.mark.parametrize("replace", [None, "false"])
def test_a_key_that_is_taken_stays(api: Api, replace: str | None) -> None:
    first = register_image(api)
    before = stored_files()
    assert check_refusal(register(api, jpeg(colour="red"), replace=replace), 409, "key_taken") == {
        "setting_key": "mood"
    }
    assert TemplateBinding.objects.get().media_id == TemplateMedia.objects.get(pk=first).pk
    assert stored_files() == before


def test_replace_binds_another_image_to_the_key(api: Api) -> None:
    first = register_image(api)
    second = register_image(api, data=jpeg(colour="red"), replace="true")
    assert str(TemplateBinding.objects.get().media_id) == second
    assert len(stored_files()) == 2  # jobs under way still use the first
    listed = api("get", LIST).json()["data"]
    assert [(each["id"], each["slot_id"]) for each in listed] == [(second, "slot-001"), (first, None)]
    assert delete(api, first).status_code == 204


def test_a_key_that_is_taken_meanwhile_leaves_no_file(api: Api) -> None:
    """Two concurrent requests: neither binds its image before both have checked that the key is free."""

    def other() -> int:
        response = register(api)
        connection.close()
        return int(response.status_code)

    with transaction.atomic():
        Slot.objects.filter(pk="slot-001").update(size_limit_mb=None)  # holds the row
        waiting = [in_background(other) for _ in range(2)]
        until(lambda: len(list(Path(settings.MEDIA_ROOT, "templates").glob("*.jpg"))) == 2)
    assert sorted(wait() for wait in waiting) == [201, 409]
    assert len(stored_files()) == TemplateMedia.objects.count() == 1


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "invalid_payload"),
        (b"GIF89a" + bytes(100), 400, "invalid_payload"),
        (jpeg(800, 600)[:3000], 400, "invalid_payload"),
        (b"", 400, "invalid_payload"),
        pytest.param(make_heic(), 415, "unsupported_media_type", id="HEIC"),
        pytest.param(bytes(20 * 1024 * 1024 + 1), 413, "payload_too_large", id="too large"),
    ],
)
def test_what_is_no_whole_image_is_refused_and_not_stored(api: Api, data: bytes, status: int, code: str) -> None:
    check_refusal(register(api, data), status, code)
    assert nothing_is_stored()


def test_an_image_of_too_many_pixels_is_refused(api: Api, settings: Any) -> None:
    settings.INGEST_MAX_PIXELS = 1_000_000
    data = images.encode(Image.new("RGB", (1001, 1000)), "png")
    assert check_refusal(register(api, data), 413, "payload_too_large") == {"limit_bytes": 20 * 1024 * 1024}
    assert nothing_is_stored()


@pytest.mark.parametrize(
    ("more", "status", "named"),
    [
        ({"file": None}, 400, "file"),
        ({"file": "text"}, 400, "file"),
        ({"colour": "red"}, 400, "colour"),
        ({"slot_id": None}, 422, "slot_id"),
        ({"slot_id": "booth-1"}, 422, "slot_id"),
        ({"setting_key": None}, 422, "setting_key"),
        ({"setting_key": "Mood"}, 422, "setting_key"),
        ({"setting_key": "m" * 65}, 422, "setting_key"),
        ({"setting_key": "mo\0od"}, 422, "setting_key"),
        ({"label": "x" * 121}, 422, "label"),
        ({"replace": "1"}, 422, "replace"),
    ],
)
def test_an_invalid_form_is_refused_by_name(api: Api, more: dict[str, Any], status: int, named: str) -> None:
    code = {400: "invalid_payload", 422: "validation_failed"}[status]
    assert list(check_refusal(register(api, **more), status, code)) == [named]
    assert nothing_is_stored()


def test_unknown_slots_and_images_are_not_found(api: Api) -> None:
    check_refusal(register(api, slot_id="slot-099"), 404, "not_found")
    check_refusal(delete(api, UNKNOWN_ID), 404, "not_found")
    check_refusal(api("get", f"{LIST}/{UNKNOWN_ID}"), 404, "not_found")
    check_refusal(api("get", f"{LIST}/{UNKNOWN_ID}/preview"), 404, "not_found")
    assert nothing_is_stored()


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{}", "application/json", 415, "unsupported_media_type"),
        (b"x", "multipart/form-data", 400, "invalid_payload"),
        (b"x", "multipart/form-data; boundary=y", 400, "invalid_payload"),
        (
            b'--y\r\nContent-Disposition: form-data; name="label"\r\n\r\n' + b"x" * 3_000_000 + b"\r\n--y--\r\n",
            "multipart/form-data; boundary=y",
            400,
            "invalid_payload",
        ),
    ],
    ids=["JSON", "no boundary", "no parts", "a field of megabytes"],
)
def test_a_body_that_is_no_such_form_is_refused(
    api: Api, body: bytes, content_type: str, status: int, code: str
) -> None:
    response = api("post", f"{LIST}/register", body, content_type=content_type)
    details = check_refusal(response, status, code)
    assert status != 415 or details == {"allowed": ["multipart/form-data"]}


@pytest.mark.e2e
def test_the_real_server_takes_an_upload_and_gives_its_preview(web: httpx.Client, api: Api) -> None:
    form = {"slot_id": "slot-001", "setting_key": "mood"}
    response = web.post(f"{LIST}/register", data=form, files={"file": jpeg()}, headers=api.headers)
    assert response.status_code == 201, response.text
    preview = web.get(f"{LIST}/{response.json()['id']}/preview", headers=api.headers)
    assert (preview.status_code, images.probe(preview.content).mime_type) == (200, "image/jpeg")
    refused = web.post(
        f"{LIST}/register", data=form | {"replace": "true"}, files={"file": b"no image"}, headers=api.headers
    )
    assert refused.json()["error"]["details"].keys() == {"file"}


def test_the_list_has_a_row_for_each_use(api: Api) -> None:
    media_id = register_image(api, label="Evening")
    bind(media_id, "slot-002", "style")
    image("Unused")
    response = api("get", LIST).json()
    assert response["meta"] == {"page": 1, "page_size": 20, "total": 3}
    rows = [(each["label"], each["slot_id"], each["setting_key"]) for each in response["data"]]
    assert rows == [("Unused", None, None), ("Evening", "slot-001", "mood"), ("Evening", "slot-002", "style")]
    assert [each["setting_key"] for each in api("get", f"{LIST}?slot_id=slot-002").json()["data"]] == ["style"]
    assert api("get", f"{LIST}?slot_id=slot-003").json()["meta"]["total"] == 0
    assert len(api("get", f"{LIST}?page=2&page_size=2").json()["data"]) == 1


def test_one_says_where_it_is_used(api: Api) -> None:
    media_id = register_image(api)
    bind(media_id, "slot-002", "style")
    one = api("get", f"{LIST}/{media_id}").json()
    assert one.pop("used_by") == [make_use(), make_use("slot-002", "style")]
    assert one in api("get", LIST).json()["data"]


def test_the_preview_is_small_and_for_staff_with_a_token_only(api: Api) -> None:
    media_id = register_image(api, data=jpeg(3000, 2000))
    url = api("get", f"{LIST}/{media_id}").json()["preview_url"].removeprefix(settings.PUBLIC_BASE_URL)
    response = api("get", url, headers={"Accept": "image/*"})
    assert (response.headers["Content-Type"], images.probe(response.content).width < 800) == ("image/jpeg", True)
    check_refusal(Api()("get", url), 401, "invalid_credentials")
    check_refusal(make_api("stats:read")("get", url), 403, "forbidden")
    Path(settings.MEDIA_ROOT, *stored_files()).unlink()
    check_refusal(api("get", url), 404, "not_found")


def test_no_response_reveals_the_path_of_the_file(api: Api) -> None:
    media_id = register_image(api)
    (path,) = stored_files()
    for address in (LIST, f"{LIST}/{media_id}", "/api/slots/slot-001"):
        assert path not in api("get", address).content.decode()
    for address in (f"/{path}", f"/media/{path}", f"/public/media/{media_id}", f"/public/files/{path}"):
        assert Client().get(address).status_code == 404


@pytest.mark.parametrize("query", [{}, {"slot_id": "slot-001", "setting_key": "mood", "force": "true"}])
def test_an_unused_image_is_deleted_with_its_file(api: Api, query: dict[str, str]) -> None:
    media_id = register_image(api) if query else str(image().pk)
    assert delete(api, media_id, **query).status_code == 204
    assert stored_files() == []
    assert not TemplateMedia.objects.exists()
    check_refusal(delete(api, media_id), 404, "not_found")


def test_the_named_use_is_deleted_too(api: Api) -> None:
    assert delete(api, register_image(api), **make_use()).status_code == 204
    assert not TemplateBinding.objects.exists()


@pytest.mark.parametrize(
    "others", [[("slot-002", "mood")], [("slot-001", "style")], [("slot-003", "a"), ("slot-004", "b")]]
)
def test_an_image_that_is_used_elsewhere_stays_unless_forced(api: Api, others: list[tuple[str, str]]) -> None:
    media_id = register_image(api)
    for other in others:
        bind(media_id, *other)
    refused = check_refusal(delete(api, media_id, **make_use()), 409, "template_in_use")
    assert refused == {"used_by": [make_use(*other) for other in others]}
    assert TemplateBinding.objects.count() == 1 + len(others)
    assert len(stored_files()) == 1
    assert delete(api, media_id, **make_use(), force="true").status_code == 204
    assert not TemplateBinding.objects.exists()
    assert stored_files() == []


def test_without_a_named_use_every_use_prevents_deletion(api: Api) -> None:
    media_id = register_image(api)
    assert check_refusal(delete(api, media_id), 409, "template_in_use") == {"used_by": [make_use()]}
    assert delete(api, media_id, force="true").status_code == 204


@pytest.mark.parametrize("is_fallback", [False, True])
def test_a_slot_whose_settings_point_to_it_prevents_deletion(api: Api, is_fallback: bool) -> None:
    media_id = register_image(api)
    style: dict[str, Any] = {"operation_id": "style_transfer", "settings_json": {"style": "mood"}}
    fallback = {
        "operation_id": "image_edit",
        "settings_json": {"look": "noir", "fallback": style | {"provider_id": "studio"}},
    }
    set_slot(**(fallback if is_fallback else style))
    assert check_refusal(delete(api, media_id, **make_use()), 409, "template_in_use") == {"used_by": [make_use()]}
    assert delete(api, media_id, **make_use(), force="true").status_code == 204


def test_an_image_that_jobs_under_way_need_stays_unless_forced(api: Api) -> None:
    media_id = register_image(api)
    now = timezone.now()
    values = {"settings_json": {}, "template_media": {"mood": media_id}, "payload_digest": bytes(32)}
    Job.objects.create(slot_id="slot-001", created_at=now, expires_at=now + timedelta(seconds=48), **values)
    assert check_refusal(delete(api, media_id, **make_use()), 409, "jobs_under_way") == {"jobs": 1}
    other = register_image(api, setting_key="other")
    assert delete(api, other, **make_use(setting_key="other")).status_code == 204
    assert delete(api, media_id, **make_use(), force="true").status_code == 204


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"slot_id": "slot-002", "setting_key": "mood"}, 404),
        ({"slot_id": "slot-001", "setting_key": "style"}, 404),
        ({"slot_id": "slot-001"}, 422),
        ({"setting_key": "mood"}, 422),
        ({"force": "1"}, 422),
        ({"forse": "true"}, 400),
    ],
)
def test_an_unknown_or_incomplete_use_removes_nothing(api: Api, query: dict[str, str], status: int) -> None:
    media_id = register_image(api)
    assert delete(api, media_id, **query).status_code == status
    assert TemplateBinding.objects.count() == len(stored_files()) == 1


def test_an_image_whose_file_is_missing_can_be_deleted(api: Api) -> None:
    media_id = register_image(api)
    Path(settings.MEDIA_ROOT, *stored_files()).unlink()
    assert delete(api, media_id, **make_use()).status_code == 204
