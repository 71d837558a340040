"""A tour of the answers of slots and template images: each status that the document names for an operation, once."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.client import MULTIPART_CONTENT

from photoslot.api import BODY_BYTES
from slots.models import TemplateBinding
from tests.api import operations
from tests.conftest import jpeg
from tests.photoslot.test_refusals import FAULTS, HEADERS, caller, failing
from tests.slots.images import image

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

TOUR = [
    pytest.param(method, path, about, int(status), id=f"{about['operationId']}-{status}")
    for method, path, about in operations()
    for status in about["responses"]
    if {"slots", "template media"} & {*about["tags"]}
]
NOBODY = "00000000-0000-4000-8000-000000000000"
NOIR = {"name": "Noir", "provider_id": "studio", "operation_id": "image_edit", "settings_json": {"look": "noir"}}
BODIES: dict[str, dict[int, Any]] = {
    "createSlot": {409: NOIR | {"id": "slot-001"}, 422: {}},
    "changeSlot": {409: NOIR | {"updated_at": "2026-11-25T12:00:00Z"}, 422: {}},
}
FORMS = {409: {"setting_key": "mood"}, 404: {"slot_id": "slot-099"}, 422: {"setting_key": "Mood"}}
QUERIES = {
    "listSlots": {422: "?page=0"},
    "archiveSlot": {422: "?force=1"},
    "listSlotHistory": {422: "?page=0"},
    "listTemplateMedia": {422: "?page=0"},
    "deleteTemplateMedia": {422: "?force=1"},
}
LARGE = {"createSlot": b" " * BODY_BYTES + b"{}", "changeSlot": b" " * BODY_BYTES + b"{}"}


@pytest.mark.parametrize(("method", "path", "about", "status"), TOUR)
def test_each_status_is_got_once(method: str, path: str, about: dict[str, Any], status: int) -> None:
    operation_id = about["operationId"]
    media = image()
    if status == 409 or operation_id == "getTemplateMedia":
        TemplateBinding.objects.create(slot_id="slot-001", setting_key="mood", media=media)
    ids = (
        {"slot_id": "slot-099", "media_id": NOBODY} if status == 404 else {"slot_id": "slot-001", "media_id": media.pk}
    )
    query = "?colour=red" if status == 400 else QUERIES.get(operation_id, {}).get(status, "")
    more = sent(operation_id, status)
    api = caller(status, takes_a_token=True)
    with connection.execute_wrapper(failing(FAULTS.get(status))):
        answer = api(method, path.format(**ids) + query, **more)  # held to the document there
    assert answer.status_code == status


def sent(operation_id: str, status: int) -> dict[str, Any]:
    """What goes with the request: all that is right, but for what makes the status."""
    tag = '"an old one"' if (operation_id, status) == ("archiveSlot", 409) else "*"
    headers = {"If-Match": tag} | HEADERS.get(status, {})
    if status == 415:
        return {"body": b"<xml/>", "content_type": "text/xml", "headers": headers}
    if operation_id == "registerTemplateMedia":
        file = SimpleUploadedFile("x.jpg", bytes(20 * 1024 * 1024 + 1) if status == 413 else jpeg())
        form = {"file": file, "slot_id": "slot-001", "setting_key": "style"} | FORMS.get(status, {})
        return {"body": form, "content_type": MULTIPART_CONTENT, "headers": headers}
    if operation_id in BODIES:
        body = LARGE[operation_id] if status == 413 else BODIES[operation_id].get(status, NOIR)
        return {"body": body, "headers": headers}
    return {"headers": headers}
