"""A program at the API's door, which holds every answer it gets to the published document."""

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
from tests.admin_client import PASSWORD, person

FORMATS = FormatChecker()
JSON = "application/json"
# Headers that say nothing of the API: HTTP's own and the browsers'. (DRF sends Allow with every answer.)
NO_NEWS = {
    *("content-type", "content-length", "cache-control", "vary", "allow", "date", "server", "connection", "expires"),
    *("content-language", "set-cookie"),
    *("x-content-type-options", "x-frame-options", "referrer-policy", "cross-origin-opener-policy"),
}


@FORMATS.checks("date-time", ValueError)  # type: ignore[untyped-decorator]
def _has_a_zone(value: Any) -> bool:
    """jsonschema itself looks at times only where another library is installed."""
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@cache
def document() -> dict[str, Any]:
    """As it is committed: `make check`, and a test, say when the code has gone on."""
    loaded: dict[str, Any] = yaml.safe_load(Path(settings.BASE_DIR, "openapi.yaml").read_text())
    return loaded


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each."""
    return [(method, path, each) for path, about in document()["paths"].items() for method, each in about.items()]


def conforms(method: str, path: str, status: int, headers: Mapping[str, str], body: Any) -> None:
    """Raises unless the document says that this may be answered there. `body` is what JSON holds, or None."""
    about = _path(path).get(method.lower().replace("head", "get"))
    if about is None:  # an address, or a method of it, that is not there
        assert status in (401, 404, 405), (method, path, status)
        answer = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    else:
        assert str(status) in about["responses"], f"{method} {path}: {status} is not documented"
        answer = answers(about)[str(status)]
    told = answer.get("headers", {})
    for name, header in told.items():
        known = document()["components"]["headers"][name] if "$ref" in header else header
        assert name in headers or not known.get("required"), f"{method} {path}: {status} without {name}"
    untold = {name.lower() for name in headers} - {name.lower() for name in told} - NO_NEWS
    assert about is None or not untold, f"{method} {path}: {status} with {untold}, which is not documented"
    kind = headers.get("Content-Type", "").partition(";")[0]
    assert kind in answer.get("content", {kind}), f"{method} {path}: {status} as {kind!r} is not documented"
    if body is not None:
        validator(answer["content"][kind].get("schema", {})).validate(body)


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema of the document, with what it refers to."""
    whole = schema | {"components": document()["components"]}
    return Draft202012Validator(whole, format_checker=FORMATS)


def answers(about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """An operation's answers by status, with what they refer to."""
    shared = document()["components"]["responses"]
    return {
        status: shared[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
        for status, answer in about["responses"].items()
    }


def _path(path: str) -> dict[str, Any]:
    """The most literal of those that fit."""
    fitting = [name for name in document()["paths"] if re.fullmatch(re.sub(r"{\w+}", "[^/]+", name), path)]
    return document()["paths"][min(fitting, key=lambda name: name.count("{"))] if fitting else {}


def held(web: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
    """The answer, held to the document."""
    answer = web.request(method, path, **more)
    kind = answer.headers.get("Content-Type", "")
    conforms(
        method, answer.request.url.path, answer.status_code, answer.headers, answer.json() if kind == JSON else None
    )
    return answer


class Api:
    """Asks as the owner of the token, or as nobody. Every answer is held to the document."""

    def __init__(self, token: str = "", **headers: str) -> None:
        self.headers = headers | ({"Authorization": f"Bearer {token}"} if token else {})
        self.client = Client(raise_request_exception=False)

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """`body` goes as JSON; bytes go as they are."""
        more = {"content_type": "application/json"} | more
        more["headers"] = self.headers | more.get("headers", {})
        data = b"" if body is None else body
        answer: Any = getattr(self.client, method.lower())(path, data, **more)
        kind = answer.headers.get("Content-Type", "")
        has_json = kind == JSON and answer.content
        content = answer.json() if has_json else None
        headers = dict(answer.headers) | {"X-Correlation-Id": "the server's, which is not on the way here"}
        conforms(method, path.partition("?")[0], answer.status_code, headers, content)
        assert answer.headers["Cache-Control"] == "no-store"
        return answer


def token_of(username: str, password: str = PASSWORD) -> str:
    """Through the front door."""
    answer = Api()("post", "/api/login", {"username": username, "password": password})
    assert answer.status_code == 200, answer.content
    token: str = answer.json()["access_token"]
    return token


def may(*scopes: str) -> Api:
    """A member of staff with these permissions of the API, and no other."""
    user = person()
    user.user_permissions.set(get_permission(name) for scope in scopes for name in SCOPES[scope])
    return Api(token_of(user.username))


def envelope(answer: Any, status: int, code: str) -> Any:
    """The details of a refusal."""
    assert answer.status_code == status, answer.content
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    return error["details"]
