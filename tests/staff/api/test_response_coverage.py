"""Each operation gives each response that the document names for it, to the requests of `tests.response_coverage`. Each
response, and every log record of the request, has the request's correlation id."""

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
from tests.admin_client import make_staff_user
from tests.api import JSON, Api, check_response, get_token
from tests.conftest import in_background
from tests.response_coverage import (
    NEEDS_WORKER,
    PATH_PARAMS,
    SPECIAL,
    VALID_REQUESTS,
    ExpectedResponse,
    RequestSpec,
    list_expected_responses,
    merge_specs,
)

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

CACHEABLE = ("getResult", "getFile", "getGuestPage")  # browsers may cache the picture as long as we store it
RETRYABLE = {"queue_busy", "rate_limited", "budget_exhausted", "queue_unavailable", "provider_unavailable"}
RESPONSES = list(list_expected_responses())
COVERAGE = [pytest.param(each, id=each.name) for each in RESPONSES]
WITH_BODY = [
    pytest.param(each, id=each.name)
    for each in RESPONSES
    if each.code == "invalid_payload" and each.body_type and "booth" not in each.operation["tags"]
]
READS = [pytest.param(each, id=each.name) for each in RESPONSES if each.method == "get" and each.status in (200, 307)]


class InProcess(httpx.BaseTransport):
    """The service in the test's own process: its views run in the test's thread, on its connection."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return copy_context().run(async_to_sync(_respond), request)


async def _respond(request: httpx.Request) -> httpx.Response:
    response = await httpx.ASGITransport(_service).handle_async_request(request)
    return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())


async def _service(scope: Any, receive: Any, send: Any) -> None:
    await application(scope | {"state": {}}, receive, send)


@pytest.fixture(scope="module")
def in_process() -> Iterator[httpx.Client]:
    with httpx.Client(transport=InProcess(), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def log_records(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log of this process, filtered as by the settings' handlers."""
    add_correlation_id = CorrelationFilter()
    caplog.handler.addFilter(add_correlation_id)
    yield caplog
    caplog.handler.removeFilter(add_correlation_id)


def test_the_table_has_each_operation_and_nothing_else() -> None:
    assert VALID_REQUESTS.keys() == {each.operation["operationId"] for each in RESPONSES}
    assert SPECIAL.keys() <= {(each.operation["operationId"], each.code or each.status) for each in RESPONSES}


@pytest.mark.parametrize("expected", COVERAGE)
def test_each_documented_response_is_given(
    expected: ExpectedResponse, in_process: httpx.Client, web: httpx.Client, log_records: pytest.LogCaptureFixture
) -> None:
    spec = expected.prepare_request()
    client = in_process if spec.pop("in_process", expected.operation["operationId"] not in NEEDS_WORKER) else web
    response = send(expected, spec, client, log_records)
    assert (response.status_code, get_code(response)) == (expected.status, expected.code), response.content
    body = response.json() if response.headers.get("Content-Type", "") == JSON else None
    check_response(response.request.method, expected.path, expected.status, response.headers, body)
    is_cacheable = expected.operation["operationId"] in CACHEABLE and expected.status < 400
    assert ("private, max-age=" if is_cacheable else "no-store") in response.headers["Cache-Control"]
    assert not expected.code or ("Retry-After" in response.headers) == (expected.code in RETRYABLE)
    correlation_id = response.request.headers["X-Correlation-Id"]
    assert response.headers["X-Correlation-Id"] == correlation_id
    assert {record.correlation_id for record in log_records.records} <= {correlation_id}  # type: ignore[attr-defined]
    assert client is web or expected.status < 400 or log_records.records
    if expected.code == "internal_error":
        assert response.json()["error"]["details"]["correlation_id"] == correlation_id


@pytest.mark.parametrize("expected", WITH_BODY)
def test_a_query_is_parsed_as_strictly_as_a_body(
    expected: ExpectedResponse, in_process: httpx.Client, log_records: pytest.LogCaptureFixture
) -> None:
    spec = merge_specs(VALID_REQUESTS[expected.operation["operationId"]](), {"params": {"nothing": "1"}})
    response = send(expected, spec, in_process, log_records)
    assert (response.status_code, get_code(response)) == (400, "invalid_payload")
    assert response.json()["error"]["details"].keys() == {"nothing"}


@pytest.mark.usefixtures("web")  # for its worker: /readyz needs one
@pytest.mark.parametrize("expected", READS)
def test_head_is_answered_wherever_get_is(
    expected: ExpectedResponse, in_process: httpx.Client, log_records: pytest.LogCaptureFixture
) -> None:
    spec = merge_specs(VALID_REQUESTS[expected.operation["operationId"]](), {"method": "HEAD"})
    assert send(expected, spec, in_process, log_records).status_code == expected.status


def send(
    expected: ExpectedResponse, spec: RequestSpec, client: httpx.Client, log_records: pytest.LogCaptureFixture
) -> httpx.Response:
    while_waiting, context = spec.pop("while_waiting", None), spec.pop("context", nullcontext())
    request = build_request(expected, spec, client)
    log_records.clear()
    with context:
        if while_waiting is None:
            return client.send(request)
        wait_for_response = in_background(lambda: client.send(request))
        while_waiting()
        response: httpx.Response = wait_for_response()
        return response


def build_request(expected: ExpectedResponse, spec: RequestSpec, client: httpx.Client) -> httpx.Request:
    path = expected.path.format(**PATH_PARAMS | spec.pop("path_params"))
    make_api = spec.pop("make_api", make_superuser_api) if "security" in expected.operation else Api
    headers = {"X-Correlation-Id": uuid4().hex} | spec.pop("headers") | make_api().headers
    headers = {name: value for name, value in headers.items() if value is not None}
    return client.build_request(spec.pop("method", expected.method), path, headers=headers, **spec)


def make_superuser_api() -> Api:
    return Api(get_token(make_staff_user(superuser=True).username))


def get_code(response: httpx.Response) -> str:
    """The code in the envelope; empty if the response has none."""
    body = response.json() if response.headers.get("Content-Type") == JSON else {}
    return body["error"]["code"] if body.keys() == {"error"} else ""
