"""The Turbotext sandbox itself is as strict as the real service. No SDK exists to verify it against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.sandbox.turbotext import KEY
from tests.sandbox.turbotext_helpers import Harness, run_sandbox
from tests.sandbox.wire import Received, Reply, Speaker, WireSandbox

pytestmark = pytest.mark.integration
EDIT = "generate_image2image"


class Hooked(Speaker):
    """The receiver of a webhook."""

    prefix = "hook"

    def answer(self, request: Received) -> Reply:
        return Reply(200)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[WireSandbox]:
    with run_sandbox(Hooked) as started:
        yield started


@pytest.fixture
def harness(sandbox: WireSandbox) -> Harness:
    sandbox.reset()
    return Harness(sandbox)


def post(harness: Harness, method: str, **form: Any) -> Any:
    response = httpx.post(
        f"{harness.account().base_url}/api_ai/{method}", data=form, headers={"Authorization": f"Bearer {KEY}"}
    )
    assert response.status_code == 200
    return response.json()


def create(harness: Harness, method: str = EDIT, **form: Any) -> Any:
    media = f"{harness.sandbox.url}/media"
    return post(harness, method, do="create_queue", **({"url": f"{media}/photo", "content": "x"} | form))


def test_a_job_from_queue_to_picture_once(harness: Harness) -> None:
    assert create(harness) == {"success": True, "queueid": 4001}
    assert post(harness, EDIT, do="get_result", queueid=4001) == {"action": "reconnect"}
    done = post(harness, EDIT, do="get_result", queueid=4001)
    assert done.keys() == {"success", "error", "data", "uploaded_image", "limits"}
    assert done["data"]["image"] == ["image/generate_image2image_id4001_0.png"]
    assert httpx.get(done["uploaded_image"]).headers["content-type"] == "image/png"
    assert httpx.get(done["uploaded_image"]).status_code == 404  # the link works only once


@pytest.mark.parametrize(
    "form",
    [
        {"content": ""},
        {"strength": "81"},
        {"strength": "4.5"},
        {"seed": "0"},
        {"seed": str(10**10 + 1)},
        {"scale": "0"},
        {"scale": "nan"},
        {"scale": "x"},
        {"negative_prompt": "word " * 81},
        {"original_language": "xx"},
        {"url_image_target": "http://x/"},
        {"model": "x"},
        {"do": "make"},
        {"do": ["create_queue", "create_queue"]},
    ],
)
def test_what_is_not_documented_is_refused(harness: Harness, form: dict[str, Any]) -> None:
    media = f"{harness.sandbox.url}/media"
    sent = {"do": "create_queue", "url": f"{media}/photo", "content": "x"} | form
    assert post(harness, EDIT, **sent) == {"success": False, "error": "params_error"}
    assert harness.turbotext.photo_attempts == 1000


@pytest.mark.parametrize("method", ["mix_images", "deepfake_photo"])
def test_two_pictures_are_needed(harness: Harness, method: str) -> None:
    assert post(harness, method, do="create_queue", url=f"{harness.sandbox.url}/media/photo")["error"] == "params_error"


@pytest.mark.parametrize("restored", ["true", "1", ""])
def test_truth_is_spelled_as_documented(harness: Harness, restored: str) -> None:
    links = {"url": f"{harness.sandbox.url}/media/photo", "url_image_target": f"{harness.sandbox.url}/media/face"}
    answer = post(harness, "deepfake_photo", do="create_queue", face_restore=restored, **links)
    assert answer == {"success": False, "error": "params_error"}


@pytest.mark.parametrize("path", ["text", "nowhere", "expired"])
def test_a_link_without_a_picture_is_refused(harness: Harness, path: str) -> None:
    assert create(harness, url=f"{harness.sandbox.url}/media/{path}") == {"success": False, "error": "url_error"}


@pytest.mark.parametrize("link", ["ftp://x/y", "no link", "http://127.0.0.1:1/x", "http://nowhere.invalid/x"])
def test_a_link_to_nowhere_is_refused(harness: Harness, link: str) -> None:
    assert create(harness, url=link)["error"] == "url_error"


def test_a_private_link_is_refused_if_configured(harness: Harness) -> None:
    harness.turbotext.allows_private = False
    assert create(harness)["error"] == "url_error"


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer other", KEY, f"Basic {KEY}"])
def test_the_key_is_checked_first(harness: Harness, key: str) -> None:
    response = httpx.post(f"{harness.account().base_url}/api_ai/{EDIT}", data={}, headers={"Authorization": key})
    assert response.status_code == 401


@pytest.mark.parametrize("body", [{"json": {"do": "create_queue"}}, {"files": {"file": b"x"}}, {"params": {"do": "x"}}])
def test_only_a_form_is_taken(harness: Harness, body: dict[str, Any]) -> None:
    url, headers = f"{harness.account().base_url}/api_ai/{EDIT}", {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(url, headers=headers, **body).json() == {"success": False, "error": "params_error"}


def test_a_method_of_another_name_is_not_found(harness: Harness) -> None:
    assert httpx.post(f"{harness.account().base_url}/api_ai/generate", data={}).status_code == 404
    assert httpx.get(f"{harness.account().base_url}/api_ai/{EDIT}").status_code == 404


@pytest.mark.parametrize(("method", "queueid"), [(EDIT, 4002), ("mix_images", 4001)])
def test_a_job_is_found_by_its_own_method_and_id_only(harness: Harness, method: str, queueid: int) -> None:
    create(harness)
    assert post(harness, method, do="get_result", queueid=queueid) == {"success": False, "error": "queue_error"}


def test_attempts_run_out(harness: Harness) -> None:
    harness.turbotext.photo_attempts = 1
    assert create(harness)["success"] is True
    assert create(harness) == {"success": False, "error": "LIMIT"}


@pytest.mark.parametrize(("scenario", "times"), [("webhook_late", 1), ("webhook_twice", 2)])
def test_a_webhook_is_called(harness: Harness, scenario: str, times: int) -> None:
    answer = create(harness, content=f"x [[{scenario}]]", webhook=f"{harness.sandbox.url}/hook/here")
    assert answer == {"success": True, "asyncid": 4001}
    harness.turbotext.deliver_late.set()
    harness.sandbox.wait_for(lambda: len(harness.sandbox.calls("hook")) == times)
    sent = json.loads(harness.sandbox.calls("hook")[0].body)
    assert (sent["asyncid"], sent["success"]) == (4001, True)
