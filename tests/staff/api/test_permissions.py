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

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]

PARAMETERS = {
    "provider_id": "studio",
    "slot_id": "slot-001",
    "media_id": "00000000-0000-4000-8000-000000000000",
    "job_id": "00000000-0000-4000-8000-000000000000",
}
IMAGE = "/api/template-media/{media_id}".format(**PARAMETERS)
# Each operation that needs a token: its scope, and the status for a user who has the scope.
JOB = "/api/jobs/{job_id}".format(**PARAMETERS)
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
PROTECTED = [(method, path) for method, path, _, _ in OPERATIONS]
METHODS = ("get", "post", "put", "patch", "delete", "options")
OTHERS = [
    (method, path)
    for path in sorted({path for _, path in PROTECTED})
    for method in METHODS
    if (method, path) not in PROTECTED
]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("method", "path", "needed", "status"), OPERATIONS)
def test_each_operation_needs_its_scope_and_no_other(
    method: str, path: str, needed: str, status: int, scope: str
) -> None:
    response = make_api(scope)(method, path, make_body(method))
    assert response.status_code == (status if scope == needed else 403)
    if scope != needed:
        check_refusal(response, 403, "forbidden")


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_each_operation_needs_a_token(method: str, path: str) -> None:
    check_refusal(Api()(method, path), 401, "invalid_credentials")
    check_refusal(Api("no.such.token")(method, path), 401, "invalid_credentials")


@pytest.mark.parametrize(("method", "path", "needed", "status"), OPERATIONS)
def test_all_scopes_allow_everything_and_none_nothing(method: str, path: str, needed: str, status: int) -> None:
    assert make_api(*SCOPES)(method, path, make_body(method)).status_code == status
    check_refusal(make_api()(method, path, make_body(method)), 403, "forbidden")


@pytest.mark.parametrize("missing", SCOPES["slots:write"])
def test_a_scope_needs_all_of_its_permissions(missing: str) -> None:
    api = make_api("slots:write")
    User.objects.get().user_permissions.remove(get_permission(missing))
    check_refusal(api("get", "/api/providers"), 403, "forbidden")


def make_body(method: str) -> Any:
    """An empty object if the method takes a body."""
    return {} if method in ("put", "post") else None


class ViewWithoutScope(StaffView):
    def get(self, request: Request) -> Response:
        return Response({})


def test_a_method_without_a_scope_is_forbidden_to_everybody() -> None:
    request = RequestFactory().get("/")
    force_authenticate(request, user=make_staff_user(superuser=True))
    assert ViewWithoutScope.as_view()(request).status_code == 403


def test_the_table_has_every_operation_that_needs_a_token() -> None:
    documented = {(method, path.format(**PARAMETERS)) for method, path, each in list_operations() if "security" in each}
    assert documented == set(PROTECTED)


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_other_methods_are_refused_with_the_allowed_ones(method: str, path: str) -> None:
    response = make_api(*SCOPES)(method, path)
    check_refusal(response, 405, "method_not_allowed")
    allowed = {each.upper() for each, address in PROTECTED if address == path}
    assert set(response.headers["Allow"].split(", ")) == allowed | ({"HEAD"} if "GET" in allowed else set())
    assert check_refusal(Api()(method, path), 401, "invalid_credentials") == {}


@pytest.mark.parametrize("path", ["/api/", "/api/nothing", "/api/providers/", "/api/login/", "/api/providers/a/b"])
def test_an_unknown_path_is_a_404_with_or_without_a_token(path: str) -> None:
    api = make_api(*SCOPES)
    responses = [api.client.get(path, headers=api.headers), Api().client.get(path)]
    assert {response.status_code for response in responses} == {404}
    assert responses[0].content == responses[1].content
    assert responses[0].json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"username": NaN}', b"\xff\xfe\xfd", b"[" * 100_000, b"1" * 5000, b'{"username": "a",}'],
    ids=["empty", "cut", "NaN", "no text", "too deep", "too long a number", "trailing comma"],
)
def test_invalid_json_is_malformed(body: bytes) -> None:
    check_refusal(Api()("post", "/api/login", body), 400, "invalid_payload")


def test_a_body_of_another_type_or_size_is_refused() -> None:
    form = Api()("post", "/api/login", b"username=serg", content_type="application/x-www-form-urlencoded")
    assert check_refusal(form, 415, "unsupported_media_type") == {"allowed": ["application/json"]}
    large = Api()("post", "/api/login", b" " * BODY_BYTES + b"{}")
    assert check_refusal(large, 413, "payload_too_large") == {"limit_bytes": BODY_BYTES}


def test_errors_speak_the_readers_language() -> None:
    response = Api()("post", "/api/login", {}, headers={"Accept-Language": "ru"})
    assert check_refusal(response, 400, "invalid_payload")["username"] == ["Обязательное поле."]


@pytest.mark.e2e
def test_the_real_server_returns_and_logs_the_correlation_id(web: httpx.Client) -> None:
    correlation_id = uuid4().hex
    headers = {"X-Correlation-Id": correlation_id}
    responses = [
        web.get("/api/providers", headers=headers),
        web.get("/api/nothing", headers=headers),
        web.post("/api/login", content=b"{", headers=headers | {"Content-Type": "application/json"}),
        web.post("/api/login", json={"username": "nobody", "password": "x"}, headers=headers),
    ]
    assert [response.status_code for response in responses] == [401, 404, 400, 401]
    for response in responses:
        assert response.headers["X-Correlation-Id"] == correlation_id
        assert response.headers["Cache-Control"] == "no-store"
        assert json.loads(response.content)["error"].keys() == {"code", "message", "details"}
    logged = [line for path in LOGS.iterdir() for line in path.read_text().splitlines() if correlation_id in line]
    assert len([line for line in logged if f"WARNING django.request [{correlation_id}]" in line]) == len(responses)


@pytest.mark.e2e
def test_a_body_may_come_in_chunks(web: httpx.Client) -> None:
    chunks = iter([b'{"username": "nobody", ', b'"password": "x"}'])
    assert web.post("/api/login", content=chunks, headers={"Content-Type": "application/json"}).status_code == 401
    form = {"slot_id": "slot-001", "setting_key": "evening"}
    request = httpx.Request("POST", "http://any", data=form, files={"file": jpeg()})
    body, content_type = request.read(), request.headers["Content-Type"]
    headers = make_api("slots:write").headers | {"Content-Type": content_type}
    assert web.post("/api/template-media/register", content=iter([body]), headers=headers).status_code == 201
