"""A tour of the answers: each that the document names for an operation is got from it once, by the table in
`tests.response_coverage`; and each, like every line that is logged meanwhile, has the request's correlation id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any
from uuid import uuid4

import httpx
import pytest
from asgiref.sync import async_to_sync

from core.logs import CorrelationFilter
from photoslot.asgi import application
from tests.admin_client import person
from tests.api import JSON, Api, conforms, token_of
from tests.conftest import in_background
from tests.response_coverage import AT, GOOD, SPECIAL, WAITING, Answer, Asked, changed, documented

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]

KEPT = ("getResult", "getFile", "getGuestPage")  # a browser may keep the picture as long as we do
COME_AGAIN = {"queue_busy", "rate_limited", "budget_exhausted", "queue_unavailable", "provider_unavailable"}
TOUR = [pytest.param(answer, id=answer.name) for answer in documented()]
WITH_A_BODY = [
    pytest.param(answer, id=answer.name)
    for answer in documented()
    if answer.code == "invalid_payload" and answer.kind and "booth" not in answer.about["tags"]
]

READS = [
    pytest.param(answer, id=answer.name)
    for answer in documented()
    if answer.method == "get" and answer.status in (200, 307)
]


class InProcess(httpx.BaseTransport):
    """The service in the test's own process: its views run in the test's thread, on its connection."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return copy_context().run(async_to_sync(_answered), request)


async def _answered(request: httpx.Request) -> httpx.Response:
    answer = await httpx.ASGITransport(_service).handle_async_request(request)
    return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())


async def _service(scope: Any, receive: Any, send: Any) -> None:
    await application(scope | {"state": {}}, receive, send)


@pytest.fixture(scope="module")
def here() -> Iterator[httpx.Client]:
    with httpx.Client(transport=InProcess(), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """In this process, as a handler of the settings' would write it."""
    named = CorrelationFilter()
    caplog.handler.addFilter(named)
    yield caplog
    caplog.handler.removeFilter(named)


def test_the_table_has_each_operation_and_nothing_else() -> None:
    assert GOOD.keys() == {answer.about["operationId"] for answer in documented()}
    assert SPECIAL.keys() <= {(answer.about["operationId"], answer.code or answer.status) for answer in documented()}


@pytest.mark.parametrize("wanted", TOUR)
def test_each_answer_is_got_once(
    wanted: Answer, here: httpx.Client, web: httpx.Client, logged: pytest.LogCaptureFixture
) -> None:
    asked = wanted.asked()
    client = here if asked.pop("here", wanted.about["operationId"] not in WAITING) else web
    answer = got(wanted, asked, client, logged)
    assert (answer.status_code, code_of(answer)) == (wanted.status, wanted.code), answer.content
    kind = answer.headers.get("Content-Type", "")
    said = answer.json() if kind == JSON else None
    conforms(answer.request.method, wanted.path, wanted.status, answer.headers, said)
    kept = wanted.about["operationId"] in KEPT and wanted.status < 400
    assert ("private, max-age=" if kept else "no-store") in answer.headers["Cache-Control"]
    assert not wanted.code or ("Retry-After" in answer.headers) == (wanted.code in COME_AGAIN)
    name = answer.request.headers["X-Correlation-Id"]
    assert answer.headers["X-Correlation-Id"] == name
    assert {line.correlation_id for line in logged.records} <= {name}  # type: ignore[attr-defined]
    assert client is web or wanted.status < 400 or logged.records
    if wanted.code == "internal_error":
        assert answer.json()["error"]["details"]["correlation_id"] == name


@pytest.mark.parametrize("wanted", WITH_A_BODY)
def test_an_address_is_read_as_strictly_as_a_body(
    wanted: Answer, here: httpx.Client, logged: pytest.LogCaptureFixture
) -> None:
    asked = changed(GOOD[wanted.about["operationId"]](), {"params": {"nothing": "1"}})
    answer = got(wanted, asked, here, logged)
    assert (answer.status_code, code_of(answer)) == (400, "invalid_payload")
    assert answer.json()["error"]["details"].keys() == {"nothing"}


@pytest.mark.usefixtures("web")  # for its worker: it is ready
@pytest.mark.parametrize("wanted", READS)
def test_head_is_answered_wherever_get_is(wanted: Answer, here: httpx.Client, logged: pytest.LogCaptureFixture) -> None:
    asked = changed(GOOD[wanted.about["operationId"]](), {"method": "HEAD"})
    assert got(wanted, asked, here, logged).status_code == wanted.status


def got(wanted: Answer, asked: Asked, client: httpx.Client, logged: pytest.LogCaptureFixture) -> httpx.Response:
    meanwhile, within = asked.pop("meanwhile", None), asked.pop("within", nullcontext())
    request = request_of(wanted, asked, client)
    logged.clear()
    with within:
        if meanwhile is None:
            return client.send(request)
        answer = in_background(lambda: client.send(request))
        meanwhile()
        waited: httpx.Response = answer()
        return waited


def request_of(wanted: Answer, asked: Asked, client: httpx.Client) -> httpx.Request:
    path = wanted.path.format(**AT | asked.pop("at"))
    by = asked.pop("by", chief) if "security" in wanted.about else Api
    headers = {"X-Correlation-Id": uuid4().hex} | asked.pop("headers") | by().headers
    sent = {name: value for name, value in headers.items() if value is not None}
    return client.build_request(asked.pop("method", wanted.method), path, headers=sent, **asked)


def chief() -> Api:
    return Api(token_of(person(superuser=True).username))


def code_of(answer: httpx.Response) -> str:
    """The envelope's; empty where there is none."""
    body = answer.json() if answer.headers.get("Content-Type") == JSON else {}
    return body["error"]["code"] if body.keys() == {"error"} else ""
