"""What holds for every endpoint of the staff API: permissions, and one envelope for every error."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.contrib.auth.models import User
from django.test import RequestFactory
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import force_authenticate

from photoslot.bootstrap import get_permission
from staff.api.base import BODY_BYTES, SCOPES, StaffView
from tests.admin_client import make_staff_user
from tests.api import Api, check_refusal, list_operations, make_api
from tests.conftest import jpeg
from tests.settings import LOGS

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

NAMED = {
    "provider_id": "studio",
    "slot_id": "slot-001",
    "media_id": "00000000-0000-4000-8000-000000000000",
    "job_id": "00000000-0000-4000-8000-000000000000",
}
IMAGE = "/api/template-media/{media_id}".format(**NAMED)
# Each operation that takes a login: what it needs, and what it answers to those who have it.
JOB = "/api/jobs/{job_id}".format(**NAMED)
OPERATIONS = [
    ("get", "/api/jobs", "stats:read", 200),
    ("get", JOB, "stats:read", 404),
    ("post", f"{JOB}/cancel", "slots:write", 404),
    ("post", "/api/media/cache/purge", "settings:write", 422),
    ("post", "/api/media/register", "slots:write", 415),
    ("get", "/api/providers", "slots:write", 200),
    ("get", "/api/providers/studio", "slots:write", 200),
    ("get", "/api/settings", "settings:read", 200),
    ("put", "/api/settings", "settings:write", 200),
    ("get", "/api/slots", "slots:write", 200),
    ("post", "/api/slots", "slots:write", 422),
    ("get", "/api/slots/slot-001", "slots:write", 200),
    ("put", "/api/slots/slot-001", "slots:write", 422),
    ("delete", "/api/slots/slot-001", "slots:write", 400),
    ("post", "/api/slots/slot-001/reset_stats", "slots:write", 204),
    ("get", "/api/stats/global", "stats:read", 200),
    ("get", "/api/stats/slot-001", "stats:read", 200),
    ("get", "/api/stats/slot-001/recent_results", "stats:read", 200),
    ("get", "/api/slots/slot-001/history", "slots:write", 200),
    ("post", "/api/slots/slot-001/test-run", "slots:write", 415),
    ("get", "/api/template-media", "slots:write", 200),
    ("post", "/api/template-media/register", "slots:write", 415),
    ("get", IMAGE, "slots:write", 404),
    ("delete", IMAGE, "slots:write", 404),
    ("get", f"{IMAGE}/preview", "slots:write", 404),
]
ASKED = [(method, path) for method, path, _, _ in OPERATIONS]
METHODS = ("get", "post", "put", "patch", "delete", "options")
OTHERS = [
    (method, path) for path in sorted({path for _, path in ASKED}) for method in METHODS if (method, path) not in ASKED
]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("method", "path", "needed", "status"), OPERATIONS)
def test_each_operation_takes_its_permission_and_no_other(
    method: str, path: str, needed: str, status: int, scope: str
) -> None:
    answer = make_api(scope)(method, path, body_of(method))
    assert answer.status_code == (status if scope == needed else 403)
    if scope != needed:
        check_refusal(answer, 403, "forbidden")


@pytest.mark.parametrize(("method", "path"), ASKED)
def test_each_operation_takes_a_token(method: str, path: str) -> None:
    check_refusal(Api()(method, path), 401, "invalid_credentials")
    check_refusal(Api("no.such.token")(method, path), 401, "invalid_credentials")


@pytest.mark.parametrize(("method", "path", "needed", "status"), OPERATIONS)
def test_a_superuser_may_all_and_plain_staff_nothing(method: str, path: str, needed: str, status: int) -> None:
    assert make_api(*SCOPES)(method, path, body_of(method)).status_code == status
    check_refusal(make_api()(method, path, body_of(method)), 403, "forbidden")


@pytest.mark.parametrize("missing", SCOPES["slots:write"])
def test_who_lacks_one_of_its_parts_has_no_permission(missing: str) -> None:
    api = make_api("slots:write")
    User.objects.get().user_permissions.remove(get_permission(missing))
    check_refusal(api("get", "/api/providers"), 403, "forbidden")


def body_of(method: str) -> Any:
    """The least that is JSON, where a body is taken."""
    return {} if method in ("put", "post") else None


class Forgotten(StaffView):
    def get(self, request: Request) -> Response:
        return Response({})


def test_a_method_that_names_no_permission_is_nobodys() -> None:
    request = RequestFactory().get("/")
    force_authenticate(request, user=make_staff_user(superuser=True))
    assert Forgotten.as_view()(request).status_code == 403


def test_the_table_has_every_operation_that_takes_a_token() -> None:
    there_are = {(method, path.format(**NAMED)) for method, path, each in list_operations() if "security" in each}
    assert there_are == set(ASKED)


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_another_method_is_told_which_there_are(method: str, path: str) -> None:
    answer = make_api(*SCOPES)(method, path)
    check_refusal(answer, 405, "method_not_allowed")
    there_are = {each.upper() for each, address in ASKED if address == path}
    assert set(answer.headers["Allow"].split(", ")) == there_are | ({"HEAD"} if "GET" in there_are else set())
    assert check_refusal(Api()(method, path), 401, "invalid_credentials") == {}


@pytest.mark.parametrize("path", ["/api/", "/api/nothing", "/api/providers/", "/api/login/", "/api/providers/a/b"])
def test_an_address_that_is_not_there_says_nothing_else(path: str) -> None:
    api = make_api(*SCOPES)
    answers = [api.client.get(path, headers=api.headers), Api().client.get(path)]
    assert {answer.status_code for answer in answers} == {404}
    assert answers[0].content == answers[1].content
    assert answers[0].json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"username": NaN}', b"\xff\xfe\xfd", b"[" * 100_000, b"1" * 5000, b'{"username": "a",}'],
    ids=["empty", "cut", "NaN", "no text", "too deep", "too long a number", "trailing comma"],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    check_refusal(Api()("post", "/api/login", body), 400, "invalid_payload")


def test_a_body_of_another_type_or_size_is_refused() -> None:
    form = Api()("post", "/api/login", b"username=serg", content_type="application/x-www-form-urlencoded")
    assert check_refusal(form, 415, "unsupported_media_type") == {"allowed": ["application/json"]}
    large = Api()("post", "/api/login", b" " * BODY_BYTES + b"{}")
    assert check_refusal(large, 413, "payload_too_large") == {"limit_bytes": BODY_BYTES}


def test_errors_speak_the_readers_language() -> None:
    answer = Api()("post", "/api/login", {}, headers={"Accept-Language": "ru"})
    assert check_refusal(answer, 400, "invalid_payload")["username"] == ["Обязательное поле."]


@pytest.mark.e2e
def test_the_real_server_names_each_answer_by_its_correlation_id(web: httpx.Client) -> None:
    name = uuid4().hex
    given = {"X-Correlation-Id": name}
    answers = [
        web.get("/api/providers", headers=given),
        web.get("/api/nothing", headers=given),
        web.post("/api/login", content=b"{", headers=given | {"Content-Type": "application/json"}),
        web.post("/api/login", json={"username": "nobody", "password": "x"}, headers=given),
    ]
    assert [answer.status_code for answer in answers] == [401, 404, 400, 401]
    for answer in answers:
        assert answer.headers["X-Correlation-Id"] == name
        assert answer.headers["Cache-Control"] == "no-store"
        assert json.loads(answer.content)["error"].keys() == {"code", "message", "details"}
    written = [line for path in LOGS.iterdir() for line in path.read_text().splitlines() if name in line]
    assert len([line for line in written if f"WARNING django.request [{name}]" in line]) == len(answers)


@pytest.mark.e2e
def test_a_body_may_come_in_chunks(web: httpx.Client) -> None:
    chunks = iter([b'{"username": "nobody", ', b'"password": "x"}'])
    assert web.post("/api/login", content=chunks, headers={"Content-Type": "application/json"}).status_code == 401
    form = {"slot_id": "slot-001", "setting_key": "evening"}
    asked = httpx.Request("POST", "http://any", data=form, files={"file": jpeg()})
    body, content_type = asked.read(), asked.headers["Content-Type"]
    headers = make_api("slots:write").headers | {"Content-Type": content_type}
    assert web.post("/api/template-media/register", content=iter([body]), headers=headers).status_code == 201
