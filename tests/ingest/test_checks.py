"""The checks of admission (contract §4): each refusal's code and envelope, their order, and nothing left behind."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations
from typing import Any

import httpx
import pytest
from django.utils import timezone
from PIL import Image

from jobs.models import Job
from slots.models import Slot
from tests.conftest import Processes, jpeg, set_slot, stored_files, use_sandbox
from tests.ingest.helpers import (
    MEGABYTE,
    connect,
    eventually,
    fill_queue,
    form,
    gif,
    nothing_left,
    pad,
    refusal,
    serialize_post,
)

pytestmark = pytest.mark.contract

HALF = jpeg()[: len(jpeg()) // 2]
ONE_PIXEL_OVER = jpeg(1001, 1000)  # of INGEST_MAX_PIXELS=1000000

REFUSALS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no password": ({"password": None}, 401, "invalid_credentials"),
    "empty password": ({"password": ""}, 401, "invalid_credentials"),
    "wrong password": ({"password": "open sesame "}, 401, "invalid_credentials"),
    "no photo": ({"photo": None}, 400, "invalid_payload"),
    "empty photo": ({"photo": b""}, 400, "invalid_payload"),
    "half a photo": ({"photo": HALF}, 400, "invalid_payload"),
    "a text": ({"photo": b"<html>"}, 400, "invalid_payload"),
    "photo in another part": ({"part": "photo"}, 400, "invalid_payload"),
    "a GIF": ({"photo": gif()}, 415, "unsupported_media_type"),
    "65 fields": ({f"field{i}": "x" for i in range(65)}, 400, "invalid_payload"),
    "1001 fields": ({f"field{i}": "x" for i in range(1001)}, 400, "invalid_payload"),
    "a field of 5 KiB": ({"survey1": "x" * 5120}, 400, "invalid_payload"),
    "a field of 3 MiB": ({"survey1": "x" * 3 * MEGABYTE}, 400, "invalid_payload"),
}


@pytest.mark.parametrize(("wrong", "status", "code"), REFUSALS.values(), ids=REFUSALS)
def test_each_refusal_has_its_code_and_leaves_nothing(
    web: httpx.Client, wrong: dict[str, Any], status: int, code: str
) -> None:
    refusal(web.post("/ingest/slot-001", **form(**{"photo": jpeg()} | wrong)), status, code)
    assert nothing_left()


@pytest.mark.parametrize("path", ["/ingest/slot-001", "/api/ingest/slot-001"])
@pytest.mark.parametrize("part", ["fileToUpload", "file"])
def test_both_paths_and_both_parts_are_accepted(web: httpx.Client, path: str, part: str) -> None:
    assert web.post(path, **form(jpeg(), part=part)).status_code == 200


def test_both_paths_refuse_alike(web: httpx.Client) -> None:
    refusal(web.post("/api/ingest/slot-001", **form(jpeg(), password="wrong")), 401, "invalid_credentials")


MALFORMED: dict[str, tuple[str | None, bytes]] = {
    "JSON": ("application/json", b'{"password": "open sesame"}'),
    "urlencoded": ("application/x-www-form-urlencoded", b"password=open+sesame"),
    "the photo itself": ("image/jpeg", jpeg()),
    "no type": (None, jpeg()),
    "no boundary": ("multipart/form-data", b"--x\r\n\r\n--x--\r\n"),
    "empty boundary": ("multipart/form-data; boundary=", b"--\r\n\r\n----\r\n"),
    "endless boundary": ("multipart/form-data; boundary=" + "x" * 300, b"x"),
    "bad base64": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename=a\r\nContent-Transfer-Encoding: base64\r\n\r\na',
    ),
    "endless part header": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="' + b"n" * 5000 + b'"\r\n\r\nv\r\n--x--\r\n',
    ),
    "no body": ("multipart/form-data; boundary=x", b""),
    "no part": ("multipart/form-data; boundary=x", b"--x--\r\n"),
    "an empty part": ("multipart/form-data; boundary=x", b"--x\r\n\r\n--x--\r\n"),
    "parts behind another boundary": (
        "multipart/form-data; boundary=x",
        b'--y\r\nContent-Disposition: form-data; name="password"\r\n\r\nv\r\n--y--\r\n',
    ),
    "a charset that is no text": (
        "multipart/form-data; charset=rot13; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="password"\r\n\r\nv\r\n--x--\r\n',
    ),
}


@pytest.mark.parametrize(("mime_type", "body"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_form_is_malformed_before_all_else(web: httpx.Client, mime_type: str | None, body: bytes) -> None:
    headers = {"Content-Type": mime_type} if mime_type else {}
    refusal(web.post("/ingest/slot-999", content=body, headers=headers), 400, "invalid_payload")
    assert nothing_left()


def test_a_body_cut_inside_the_photo_is_refused(web: httpx.Client) -> None:
    whole = httpx.Request("POST", "http://booth", **form(jpeg(800, 600, quality=95)))
    content = whole.read()[:-2000]
    headers = {"Content-Type": whole.headers["Content-Type"]}
    refusal(web.post("/ingest/slot-001", content=content, headers=headers), 400, "invalid_payload")
    assert nothing_left()


def test_a_booth_that_breaks_off_while_sending_leaves_nothing(web: httpx.Client) -> None:
    whole = serialize_post(str(web.base_url).rstrip("/"), **form(pad(jpeg(), 4 * MEGABYTE)))
    with connect(str(web.base_url)) as connection:
        connection.sendall(whole[: 3 * MEGABYTE])
    assert eventually(nothing_left)


@pytest.mark.parametrize(
    "hide",
    [{"is_active": False}, {"archived_at": timezone.now()}, None],
    ids=["off", "archived", "unknown"],
)
def test_a_slot_that_is_not_there_for_booths_shows_no_difference(
    web: httpx.Client, hide: dict[str, Any] | None
) -> None:
    if hide is None:
        Slot.objects.filter(pk="slot-001").delete()
    else:
        set_slot("slot-001", **hide)
    reply = web.post("/ingest/slot-001", **form(jpeg()))
    assert refusal(reply, 404, "slot_not_found") == {}
    assert reply.json()["error"]["message"] == "There is no such slot, or it is off."
    assert nothing_left()


@pytest.mark.parametrize("slot", ["slot-1", "SLOT-001", "slot-001%00", "%00", "%FF", "слот", "x" * 5000, "'--"])
def test_odd_slot_names_are_unknown(web: httpx.Client, slot: str) -> None:
    refusal(web.post(f"/ingest/{slot}", **form(jpeg())), 404, "slot_not_found")


def test_without_the_password_an_unknown_slot_looks_like_a_known_one(web: httpx.Client) -> None:
    replies = [web.post(f"/ingest/{slot}", **form(jpeg(), password="no")) for slot in ("slot-001", "slot-999", "%00")]
    assert {refusal(reply, 401, "invalid_credentials") == {} for reply in replies} == {True}
    assert len({reply.content for reply in replies}) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_post_is_taken(web: httpx.Client, method: str) -> None:
    reply = web.request(method, "/ingest/slot-001")
    assert reply.status_code == 405
    assert reply.headers["Allow"] == "POST"
    if method != "HEAD":
        refusal(reply, 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/ingest/slot-001/", "/ingest/", "/ingest", "/", "/api/nothing"])
def test_other_addresses_have_the_envelope_too(web: httpx.Client, path: str) -> None:
    refusal(web.post(path, **form(jpeg())), 404, "not_found")


def test_a_host_that_cannot_be_has_the_envelope_too(web: httpx.Client) -> None:
    refusal(web.post("/ingest/slot-001", headers={"Host": "a/b"}, **form(jpeg())), 400, "invalid_payload")


def test_a_slot_may_lower_the_size(web: httpx.Client) -> None:
    set_slot(size_limit_mb=1)
    use_sandbox("instant")
    reply = web.post("/ingest/slot-001", **form(pad(jpeg())))
    assert refusal(reply, 413, "payload_too_large") == {"limit_bytes": MEGABYTE}
    assert nothing_left()
    assert web.post("/ingest/slot-001", **form(pad(jpeg(), MEGABYTE))).status_code == 200


def test_pixels_are_limited(processes: Processes) -> None:
    processes.web(INGEST_MAX_PIXELS="1000000")
    with httpx.Client(base_url=processes.url) as web:
        reply = web.post("/ingest/slot-001", **form(ONE_PIXEL_OVER))
    assert refusal(reply, 413, "payload_too_large") == {"limit_pixels": 1_000_000}
    assert nothing_left()


def test_a_side_is_no_longer_than_a_picture_can_have(web: httpx.Client) -> None:
    out = io.BytesIO()
    Image.new("L", (66_000, 6)).save(out, "PNG")
    answer = web.post("/ingest/slot-001", **form(out.getvalue()))
    assert refusal(answer, 413, "payload_too_large") == {"limit_side_pixels": 65_500}
    assert nothing_left()


def test_a_refusal_names_what_is_allowed(web: httpx.Client) -> None:
    allowed = refusal(web.post("/ingest/slot-001", **form(gif())), 415, "unsupported_media_type")["allowed"]
    assert allowed == ["image/heic", "image/heif", "image/jpeg", "image/png", "image/webp"]


def test_a_correlation_id_is_taken_over_once(web: httpx.Client) -> None:
    for wanted, reply_form in (("booth-0815", form(jpeg())), ("booth-0816", form(None))):
        reply = web.post("/ingest/slot-001", headers={"X-Correlation-Id": wanted}, **reply_form)
        assert reply.headers.get_list("X-Correlation-Id") == [wanted]
    reply = web.post("/ingest/slot-001", headers={"X-Correlation-Id": "a b"}, **form(None))
    assert reply.headers["X-Correlation-Id"] != "a b"


Post = dict[str, Any]
# In the contract's order; the last one, a full queue, needs nothing wrong with the post. Each changes a good post.
FAULTS: dict[str, tuple[Callable[[Post], Post], int, str]] = {
    "form": (lambda post: post | {f"field{i}": "x" for i in range(65)}, 400, "The form"),
    "password": (lambda post: post | {"password": "wrong"}, 401, "The ingest password"),
    "slot": (lambda post: post | {"slot": "slot-999"}, 404, "There is no such slot"),
    "photo": (lambda post: post | {"photo": HALF}, 400, "The file is not an image"),
    "type": (lambda post: post | {"photo": gif()}, 415, "Photos of this type"),
    "size": (lambda post: post | {"photo": pad(post["photo"])}, 413, "The photo is larger"),
    "queue": (lambda post: post, 429, "As many photos are under way"),
}
ORDER = ("form", "password", "slot", "photo", "size", "type", "queue")


def test_an_earlier_check_goes_before_a_later_one(processes: Processes) -> None:
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS="1")
    set_slot(size_limit_mb=1)
    fill_queue()
    with httpx.Client(base_url=processes.url, timeout=20) as web:
        for first, second in combinations(ORDER, 2):
            if (first, second) == ("photo", "type"):
                continue  # of a type that is refused anyway only the header is looked at
            post: Post = {"slot": "slot-001", "photo": jpeg()}
            for fault, (spoil, _, _) in FAULTS.items():
                post = spoil(post) if fault in (first, second) else post
            reply = web.post(f"/ingest/{post.pop('slot')}", **form(**post))
            _, status, message = FAULTS[first]
            assert (reply.status_code, first, second) == (status, first, second)
            assert reply.json()["error"]["message"].startswith(message), (first, second)
    assert Job.objects.count() == 1
    assert stored_files() == []


def test_a_full_queue_refuses_and_says_when_to_retry(processes: Processes) -> None:
    processes.web(QUEUE_MAX_IN_FLIGHT_JOBS="1")
    fill_queue()
    reply = httpx.post(f"{processes.url}/ingest/slot-001", **form(jpeg()))
    refusal(reply, 429, "queue_busy")
    assert int(reply.headers["Retry-After"]) > 0
    assert (Job.objects.count(), stored_files()) == (1, [])


def test_large_uploads_that_are_refused_leave_no_temporary_file(web: httpx.Client) -> None:
    refusal(web.post("/ingest/slot-001", **form(pad(HALF, 4 * MEGABYTE))), 400, "invalid_payload")
    eventually(nothing_left)
