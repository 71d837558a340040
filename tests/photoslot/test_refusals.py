"""A tour of the answers: each status that the document names for an operation of the staff API is got from it once."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection

from photoslot.api import BODY_BYTES, SCOPES
from tests.api import Api, may, operations
from tests.jobs.test_admin import job, made
from tests.staff import person

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

TAGS = {"login", "providers", "settings", "jobs"}
TOUR = [
    pytest.param(method, path, about, int(status), id=f"{about['operationId']}-{status}")
    for method, path, about in operations()
    for status in about["responses"]
    if TAGS & {*about["tags"]} and status != "405" and not path.endswith("/schema")
]
# What makes an operation answer so, whichever it is.
HEADERS = {406: {"Accept": "text/html"}}
BODIES = {400: b"{", 413: b" " * BODY_BYTES + b"{}", 415: b"<xml/>", 422: {"ingest": {"sync_response_timeout_sec": 5}}}
QUERIES = {400: "?nothing=1", 422: "?page=0"}  # where there is no body
FAULTS = {500: RuntimeError("a fault of ours"), 503: OperationalError("the server closed the connection")}


@pytest.mark.parametrize(("method", "path", "about", "status"), TOUR)
def test_each_status_is_got_once(method: str, path: str, about: dict[str, Any], status: int) -> None:
    api = caller(status, "security" in about)
    body = None if method == "get" else BODIES.get(status, example_of(about))
    more = {"content_type": "text/xml" if status == 415 else "application/json", "headers": HEADERS.get(status, {})}
    address = path.replace("{provider_id}", "nobody" if status == 404 else "studio")
    address = address.replace("{job_id}", job_for(status)) + (QUERIES.get(status, "") if method == "get" else "")
    for _ in range(9 if status == 429 else 0):
        api(method, address, body, **more)
    with connection.execute_wrapper(failing(FAULTS.get(status))):
        answer = api(method, address, body, **more)  # held to the document there
    assert answer.status_code == status


def caller(status: int, takes_a_token: bool) -> Api:
    """Who asks: one who may, unless that is what is wrong."""
    if not takes_a_token:
        if status == 200:
            User.objects.filter(pk=person().pk).update(username="serg")  # of the document's example
        return Api()
    if status == 401:
        return Api()
    return may() if status == 403 else may(*SCOPES)


def job_for(status: int) -> str:
    """None for 404, one that is over for 409, else one that waits."""
    return str(uuid4() if status == 404 else made().pk if status == 409 else job().pk)


def example_of(about: dict[str, Any]) -> Any:
    """A good body, as the document shows it."""
    if "requestBody" not in about:
        return None
    examples = about["requestBody"]["content"]["application/json"]["examples"]
    return next(iter(examples.values()))["value"]


def failing(fault: Exception | None) -> Any:
    """A wrapper of the database's connection that raises, or lets all through."""

    def wrapper(execute: Any, *arguments: Any) -> Any:
        if fault:
            raise fault
        return execute(*arguments)

    return wrapper
