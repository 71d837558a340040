"""A client of the API that checks every response against the published document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import yaml
from django.conf import settings
from django.test import Client
from jsonschema import Draft202012Validator, FormatChecker

from photoslot.bootstrap import get_permission
from staff.api.base import SCOPES
from tests.admin_client import PASSWORD, make_staff_user

FORMATS = FormatChecker()
JSON = "application/json"
# Headers of HTTP and for browsers, which the document leaves out. (DRF sends Allow with every response.)
UNDOCUMENTED_HEADERS = {
    *("content-type", "content-length", "cache-control", "vary", "allow", "date", "server", "connection", "expires"),
    *("content-language", "set-cookie"),
    *("x-content-type-options", "x-frame-options", "referrer-policy", "cross-origin-opener-policy"),
    *("content-security-policy", "strict-transport-security"),
}


@FORMATS.checks("date-time", ValueError)  # type: ignore[untyped-decorator]
def _has_time_zone(value: Any) -> bool:
    """jsonschema checks times itself only if another library is installed."""
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@cache
def load_document() -> dict[str, Any]:
    """The committed one: `make check`, and a test, compare it with the code."""
    loaded: dict[str, Any] = yaml.safe_load(Path(settings.BASE_DIR, "openapi.yaml").read_text())
    return loaded


def list_operations() -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each."""
    return [(method, path, each) for path, about in load_document()["paths"].items() for method, each in about.items()]


def check_response(method: str, path: str, status: int, headers: Mapping[str, str], body: Any) -> None:
    """Raises `AssertionError` unless the document allows this response there. `body` is the parsed JSON, or None."""
    about = _find_path(path).get(method.lower().replace("head", "get"))
    if about is None:  # an unknown path or method
        assert status in (401, 404, 405), (method, path, status)
        response = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    else:
        assert str(status) in about["responses"], f"{method} {path}: {status} is not documented"
        response = get_responses(about)[str(status)]
    documented = response.get("headers", {})
    for name, header in documented.items():
        known = load_document()["components"]["headers"][name] if "$ref" in header else header
        assert name in headers or not known.get("required"), f"{method} {path}: {status} without {name}"
    unknown = {name.lower() for name in headers} - {name.lower() for name in documented} - UNDOCUMENTED_HEADERS
    assert about is None or not unknown, f"{method} {path}: {status} with {unknown}, which is not documented"
    kind = headers.get("Content-Type", "").partition(";")[0]
    assert kind in response.get("content", {kind}), f"{method} {path}: {status} as {kind!r} is not documented"
    if body is not None:
        make_validator(response["content"][kind].get("schema", {})).validate(body)


def make_validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema of the document, whose references it resolves."""
    whole = schema | {"components": load_document()["components"]}
    return Draft202012Validator(whole, format_checker=FORMATS)


def get_responses(about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """An operation's responses by status, with references resolved."""
    shared = load_document()["components"]["responses"]
    return {
        status: shared[response["$ref"].rpartition("/")[2]] if "$ref" in response else response
        for status, response in about["responses"].items()
    }


def _find_path(path: str) -> dict[str, Any]:
    """The matching path with the fewest parameters."""
    matching = [name for name in load_document()["paths"] if re.fullmatch(re.sub(r"{\w+}", "[^/]+", name), path)]
    return load_document()["paths"][min(matching, key=lambda name: name.count("{"))] if matching else {}


def request_checked(web: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
    """Sends a request and checks the response against the document."""
    response = web.request(method, path, **more)
    body = response.json() if response.headers.get("Content-Type", "") == JSON else None
    check_response(method, response.request.url.path, response.status_code, response.headers, body)
    return response


class Api:
    """Sends requests with the token, or without one. Checks every response against the document."""

    def __init__(self, token: str = "", **headers: str) -> None:
        self.headers = headers | ({"Authorization": f"Bearer {token}"} if token else {})
        self.client = Client(raise_request_exception=False)

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """`body` is sent as JSON; bytes are sent as they are."""
        more = {"content_type": "application/json"} | more
        more["headers"] = self.headers | more.get("headers", {})
        data = b"" if body is None else body
        response: Any = getattr(self.client, method.lower())(path, data, **more)
        kind = response.headers.get("Content-Type", "")
        has_json = kind == JSON and response.content
        content = response.json() if has_json else None
        headers = dict(response.headers) | {"X-Correlation-Id": "set by the server, which the test client bypasses"}
        check_response(method, path.partition("?")[0], response.status_code, headers, content)
        assert response.headers["Cache-Control"] == "no-store"
        return response


def get_token(username: str, password: str = PASSWORD) -> str:
    """Logs in through the API."""
    response = Api()("post", "/api/login", {"username": username, "password": password})
    assert response.status_code == 200, response.content
    token: str = response.json()["access_token"]
    return token


def make_api(*scopes: str) -> Api:
    """An `Api` with the token of a new member of staff, who has these scopes and no other."""
    user = make_staff_user()
    user.user_permissions.set(get_permission(name) for scope in scopes for name in SCOPES[scope])
    return Api(get_token(user.username))


def check_refusal(response: Any, status: int, code: str) -> Any:
    """Raises `AssertionError` unless the response is this refusal. Returns its details."""
    assert response.status_code == status, response.content
    error = response.json()["error"]
    assert error["code"] == code
    assert error["message"]
    return error["details"]
