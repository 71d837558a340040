"""`GET /r/{job_id}`: the page that a guest opens on a phone."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest

from tests.conftest import Booth, jpeg, use_sandbox
from tests.jobs.results import age, make_picture

pytestmark = pytest.mark.contract


def test_it_shows_the_picture_and_a_way_to_keep_it(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    response = web.get(f"/r/{job.pk}")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f'<img src="/public/results/{job.pk}"' in response.text
    assert f'<a href="/public/results/{job.pk}?download=1"' in response.text


def test_the_booths_answer_names_it(booth: Booth, web: httpx.Client) -> None:
    use_sandbox("instant")
    headers = httpx.Headers(dict(booth.post(jpeg()).headers))
    path = httpx.URL(headers["X-Result-Url"]).path
    assert web.get(path).status_code == 200


def test_its_headers_reveal_nothing(booth: Booth, web: httpx.Client) -> None:
    headers = web.get(f"/r/{make_picture(booth).pk}").headers
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"].startswith("private, max-age=")
    assert "Set-Cookie" not in headers


def test_a_page_shows_nothing_of_the_job_beside_its_picture(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    page = web.get(f"/r/{job.pk}").text
    for private in (job.slot_id, job.provider_id, job.booth_id, *job.metadata.values()):
        assert private not in page


@pytest.mark.parametrize("language", ["en", "ru"])
def test_it_speaks_the_guests_language(booth: Booth, web: httpx.Client, language: str) -> None:
    job = make_picture(booth)
    for path, status in ((f"/r/{job.pk}", 200), (f"/r/{uuid4()}", 404)):
        response = web.get(path, headers={"Accept-Language": f"{language};q=0.9, de;q=0.1"})
        assert response.status_code == status
        assert f'<html lang="{language}">' in response.text
        assert response.headers["Content-Language"] == language
        assert "Accept-Language" in response.headers["Vary"]


def test_past_its_time_it_is_an_honest_page(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    age(job, 72)
    response = web.get(f"/r/{job.pk}")
    assert response.status_code == 410
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert "limited time" in response.text
    assert str(job.pk) not in response.text


def test_of_an_unfinished_or_failed_job_there_is_none(booth: Booth, web: httpx.Client) -> None:
    use_sandbox("instant", "refuses")
    reply = booth.post(jpeg())
    assert reply.status == 502
    assert web.get(f"/r/{uuid4()}").text == web.get(f"/r/{uuid4()}").text
    assert (
        web.get(f"/r/{httpx.Response(502, content=reply.body).json()['error']['details']['job_id']}").status_code == 404
    )


def test_head_and_other_methods(booth: Booth, web: httpx.Client) -> None:
    path = f"/r/{make_picture(booth).pk}"
    assert (web.head(path).status_code, web.head(path).content) == (200, b"")
    assert web.post(path).status_code == 405
