"""`GET /public/results/{job_id}`: where the picture is, as long as there is one to show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from uuid import UUID

import httpx
import pytest

from jobs.models import Job
from tests.conftest import Booth, in_background, jpeg, use_sandbox
from tests.jobs.results import age, make_picture, result_file
from tests.sandbox.server import Sandbox, developed

pytestmark = pytest.mark.contract


def get_error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_it_leads_to_the_very_picture(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    response = web.get(f"/public/results/{job.pk}")
    assert response.status_code == 307
    assert response.headers["Location"].startswith("/public/files/")
    picture = web.get(response.headers["Location"])
    assert picture.content == developed(jpeg())
    assert picture.headers["Content-Type"] == "image/jpeg"


def test_it_may_be_kept_exactly_as_long_as_the_result(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    headers = web.get(f"/public/results/{job.pk}").headers
    assert job.result_expires_at
    left = (job.result_expires_at - datetime.now(UTC)).total_seconds()
    private, age_limit = headers["Cache-Control"].split(", max-age=")
    assert private == "private"
    assert left - 5 < int(age_limit) <= left + 5
    assert abs(parsedate_to_datetime(headers["Expires"]) - job.result_expires_at) < timedelta(seconds=1)
    assert datetime.fromisoformat(headers["PhotoChanger-Result-Expires-At"]) == job.result_expires_at
    assert job.finalized_at == job.result_expires_at - timedelta(hours=72)


@pytest.mark.parametrize(
    ("query", "disposition"),
    [("", "inline"), ("?download=1", "attachment"), ("?download=0", "inline"), ("?download=%0d%0aX:1", "inline")],
)
def test_download_reaches_the_file(booth: Booth, web: httpx.Client, query: str, disposition: str) -> None:
    job = make_picture(booth)
    response = web.get(f"/public/results/{job.pk}{query}", follow_redirects=True)
    assert response.headers["Content-Disposition"] == f'{disposition}; filename="slot-001-{job.pk}.jpg"'


def test_head_is_answered_like_get(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    head, get = web.head(f"/public/results/{job.pk}"), web.get(f"/public/results/{job.pk}")
    assert head.status_code == 307
    assert head.headers["Location"] == get.headers["Location"]
    assert web.head(head.headers["Location"]).status_code == 200


@pytest.mark.parametrize("path", [f"/public/results/{UUID(int=4)}", "/public/results/42", "/public/results/"])
def test_an_unknown_job_is_404(web: httpx.Client, path: str) -> None:
    assert web.get(path).status_code == 404
    assert web.get(path).json()["error"]["details"] == {}


def test_an_unfinished_job_is_404(booth: Booth, web: httpx.Client, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    reply = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1)
    assert get_error(web.get(f"/public/results/{Job.objects.get().pk}")) == (404, "result_not_found")
    sandbox.let_go()
    assert reply().status == 200


def test_a_failed_job_is_404(booth: Booth, web: httpx.Client) -> None:
    use_sandbox("instant", "refuses")
    assert booth.post(jpeg()).status == 502
    assert get_error(web.get(f"/public/results/{Job.objects.get().pk}")) == (404, "result_not_found")


def test_a_test_run_of_staff_is_not_public(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    location = web.get(f"/public/results/{job.pk}").headers["Location"]
    Job.objects.update(source=Job.Source.TEST)
    assert get_error(web.get(f"/public/results/{job.pk}")) == (404, "result_not_found")
    assert get_error(web.get(location)) == (404, "result_not_found")


def test_past_its_time_it_is_gone_though_the_file_is_there(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    location = web.get(f"/public/results/{job.pk}").headers["Location"]
    age(job, 71.9)
    assert web.get(f"/public/results/{job.pk}").status_code == 307
    age(job, 0.1)
    for path in (f"/public/results/{job.pk}", f"/public/results/{job.pk}?download=1", location):
        response = web.get(path)
        assert get_error(response) == (410, "result_expired")
        assert response.headers["Cache-Control"] == "no-store"
    assert result_file(job).exists()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_is_only_read(booth: Booth, web: httpx.Client, method: str) -> None:
    job = make_picture(booth)
    response = web.request(method, f"/public/results/{job.pk}")
    assert get_error(response) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "GET, HEAD"
