"""`GET /public/files/{token}`: the bytes, whole or in part, for whoever has the signed link."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from jobs.models import Job
from jobs.storage.links import THUMBNAIL, file_url
from tests.conftest import Booth, jpeg
from tests.jobs.results import age, make_picture, result_file, thumbnail_file
from tests.sandbox.server import developed

pytestmark = pytest.mark.contract

PICTURE = developed(jpeg())
SIZE = len(PICTURE)


@pytest.fixture
def job(booth: Booth) -> Job:
    return make_picture(booth)


@pytest.fixture
def get(job: Job, web: httpx.Client) -> Callable[..., httpx.Response]:
    """Requests the picture's file with the given headers."""
    return lambda method="GET", **headers: web.request(
        method, file_url(job), headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


Get = Callable[..., httpx.Response]


def test_the_whole_file(get: Get, job: Job) -> None:
    response = get()
    assert response.status_code == 200
    assert response.content == PICTURE
    assert response.headers["Content-Length"] == str(SIZE)
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["ETag"] == f'"{job.result_checksum}"'
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Disposition"] == f'inline; filename="slot-001-{job.pk}.jpg"'
    assert re.fullmatch(r"private, max-age=2591\d\d", response.headers["Cache-Control"])


def test_head_says_the_same_without_the_bytes(get: Get) -> None:
    head, whole = get("HEAD"), get()
    assert head.status_code == 200
    assert head.content == b""
    for name in ("Content-Length", "Content-Type", "ETag", "Accept-Ranges", "Content-Disposition", "Expires"):
        assert head.headers[name] == whole.headers[name]
    assert get("HEAD", Range="bytes=0-9").status_code == 200  # a range is GET's alone


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=100-199", 100, 199),
        ("bytes=-10", SIZE - 10, SIZE - 1),
        ("bytes=100-", 100, SIZE - 1),
        (f"bytes=0-{SIZE * 2}", 0, SIZE - 1),
        (f"bytes=-{SIZE * 2}", 0, SIZE - 1),
        (f"bytes={SIZE - 1}-{SIZE - 1}", SIZE - 1, SIZE - 1),
    ],
)
def test_one_range(get: Get, wanted: str, first: int, last: int) -> None:
    response = get(Range=wanted)
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert response.headers["Content-Length"] == str(last - first + 1)
    assert response.content == PICTURE[first : last + 1]


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}", "bytes=-0"])
def test_a_range_beyond_the_end(get: Get, wanted: str) -> None:
    response = get(Range=wanted)
    assert response.status_code == 416
    assert response.json()["error"]["code"] == "range_not_satisfiable"
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "wanted", ["bytes=0-1,5-9", "bytes=9-5", "bytes=-", "bytes=a-b", "lines=0-1", "bytes", f"bytes={'9' * 5000}-"]
)
def test_what_is_no_single_range_gets_the_whole(get: Get, wanted: str) -> None:
    response = get(Range=wanted)
    assert response.status_code == 200
    assert response.content == PICTURE


def test_if_range(get: Get, job: Job) -> None:
    etag = f'"{job.result_checksum}"'
    assert get(Range="bytes=0-9", If_Range=etag).status_code == 206
    for other in ('"another"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert get(Range="bytes=0-9", If_Range=other).content == PICTURE


@pytest.mark.parametrize("known", ['"{0}"', 'W/"{0}"', '"other", "{0}"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_known_is_not_sent_again(get: Get, job: Job, method: str, known: str) -> None:
    response = get(method, If_None_Match=known.format(job.result_checksum))
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["ETag"] == f'"{job.result_checksum}"'
    assert response.headers["Cache-Control"].startswith("private, max-age=")


def test_another_etag_is_sent_the_file(get: Get) -> None:
    assert get(If_None_Match='"other"').content == PICTURE


def test_a_link_that_was_tampered_with_is_unknown(job: Job, web: httpx.Client) -> None:
    link = file_url(job)
    other = link.replace(job.pk.hex, f"{job.pk.int ^ 1:032x}")
    thumbnail = link.replace("/files/r", "/files/t")
    for forged in (link[:-1], f"{link}x", other, thumbnail, link.partition(":")[0], "/public/files/x:y"):
        response = web.get(forged)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "result_not_found")


def test_the_thumbnail_has_a_link_of_its_own(job: Job, web: httpx.Client) -> None:
    thumbnail_file(job).parent.mkdir(exist_ok=True)
    thumbnail_file(job).write_bytes(b"small")
    response = web.get(file_url(job, THUMBNAIL))
    assert response.content == b"small"
    assert response.headers["Content-Type"] == "image/jpeg"
    assert response.headers["ETag"] != web.get(file_url(job)).headers["ETag"]


def test_a_file_that_is_gone_early_is_gone(get: Get, job: Job, web: httpx.Client) -> None:
    result_file(job).unlink()
    for response in (get(), get("GET", Range="bytes=0-1"), get(If_None_Match=f'"{job.result_checksum}"')):
        assert (response.status_code, response.json()["error"]["code"]) == (410, "result_expired")
    assert get("HEAD").status_code == 410
    assert web.get(f"/public/results/{job.pk}", follow_redirects=True).status_code == 410


def test_nothing_is_served_past_its_time(get: Get, job: Job) -> None:
    age(job, 72)
    for response in (get("HEAD"), get(), get(Range="bytes=0-1"), get(If_None_Match="*")):
        assert response.status_code == 410


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_is_only_read(get: Get, method: str) -> None:
    assert get(method).status_code == 405
