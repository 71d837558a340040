"""What a booth sends beside the photo: kept as it came, and never a reason to refuse unless there is too much of it."""

from __future__ import annotations

import httpx
import pytest

from jobs.models import Job
from tests.booth_client import fields
from tests.conftest import PASSWORD, Booth, jpeg
from tests.ingest.helpers import form, refusal

pytestmark = pytest.mark.contract

BREEZE = {
    "time": "1700000000",
    "status": r"C:\Booth\temp\preview.jpg",
    "model": "Windows",
    "name": "BOOTH-1",
    "username": "guest",
    "user_id": "Booth",
    "profile": r"C:\Booth\profiles\party.xml",
    "version": "3.30.2",
    "id": "CANON-1.",
    "eventkitesessionid": "s-1",
    "eventkitegalleryid": "g-1",
    "survey1_type_id": "Ja, gern – 好的 🎉",
    "qr1": "https://example.com/?a=b&c=d",
    "qr2": "",
}


def read_metadata() -> dict[str, str]:
    metadata: dict[str, str] = Job.objects.get().metadata
    return metadata


def test_all_fields_are_kept_but_the_password(web: httpx.Client) -> None:
    assert web.post("/ingest/slot-001", **form(jpeg(), **BREEZE)).status_code == 200
    assert read_metadata() == BREEZE
    assert Job.objects.get().booth_id == "CANON-1."


def test_what_the_booth_program_really_sends_is_kept(booth: Booth) -> None:
    assert booth.post(jpeg()).status == 200
    assert read_metadata().keys() == fields("", jpeg()).keys() - {"password"}


@pytest.mark.parametrize("name", ["hash", "hash_hex"])
@pytest.mark.parametrize("value", ["", "0" * 64, "not hex", "x" * 4096])
def test_no_hash_is_a_reason_to_refuse(web: httpx.Client, name: str, value: str) -> None:
    assert web.post("/ingest/slot-001", **form(jpeg(), **{name: value})).status_code == 200
    assert read_metadata() == {name: value}


def test_nul_bytes_are_left_out(web: httpx.Client) -> None:
    request = httpx.Request("POST", "http://booth", **form(jpeg(), id="CANON\0\0", NAME="\0"))
    body = request.read().replace(b'"NAME"', b'"na\0me"')
    headers = {"Content-Type": request.headers["Content-Type"]}
    assert web.post("/ingest/slot-001", content=body, headers=headers).status_code == 200
    assert read_metadata() == {"id": "CANON", "name": ""}


def test_bytes_that_are_no_text_do_no_harm(web: httpx.Client) -> None:
    files = {"fileToUpload": ("a.jpg", jpeg()), "name": (None, b"caf\xe9 \xff")}
    assert web.post("/ingest/slot-001", data={"password": PASSWORD}, files=files).status_code == 200
    assert read_metadata() == {"name": "caf\ufffd \ufffd"}


def test_a_field_given_twice_keeps_both_values(web: httpx.Client) -> None:
    data = {"password": PASSWORD, "survey2_type_id": ["red", "green"]}
    assert web.post("/ingest/slot-001", data=data, files={"file": ("a.jpg", jpeg())}).status_code == 200
    assert read_metadata() == {"survey2_type_id": "red, green"}


def test_exactly_the_limits_are_allowed(web: httpx.Client) -> None:
    most = {f"survey{i}_type_id": "x" * 4096 for i in range(64)}
    assert web.post("/ingest/slot-001", **form(jpeg(), hash="1", hash_hex="2", **most)).status_code == 200
    assert len(read_metadata()) == 66


def test_bytes_are_counted_not_letters(web: httpx.Client) -> None:
    refusal(web.post("/ingest/slot-001", **form(jpeg(), qr1="é" * 2049)), 400, "invalid_payload")


def test_a_very_long_booth_id_is_kept_whole(web: httpx.Client) -> None:
    assert web.post("/ingest/slot-001", **form(jpeg(), id="x" * 1000)).status_code == 200
    assert read_metadata() == {"id": "x" * 1000}


def test_further_files_are_not_kept(web: httpx.Client) -> None:
    files = {"fileToUpload": ("a.jpg", jpeg()), "video": ("b.mp4", b"\0" * 100), "file": ("c.jpg", b"no photo")}
    assert web.post("/ingest/slot-001", data={"password": PASSWORD}, files=files).status_code == 200
    assert read_metadata() == {}
