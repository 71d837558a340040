"""Shared by the tests of ingest: posts of every kind, and what a refusal must look like."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPResponse
from typing import Any
from uuid import UUID, uuid4

import httpx
from django.contrib.auth.hashers import make_password
from django.utils import timezone
from PIL import Image

from ingest.models import IngestSettings
from jobs.lifecycle import cancel_job
from jobs.models import Job
from jobs.queue.records import NewJob
from stats.models import HourlyCounter, ProcessingLog
from tests.booth_client import Reply
from tests.conftest import PASSWORD, Processes, stored_files

MEGABYTE = 1024 * 1024
Part = tuple[str, bytes, str]


def form(
    photo: bytes | None, password: str | None = PASSWORD, part: str = "fileToUpload", **fields: str
) -> dict[str, Any]:
    """Keyword arguments that make `httpx` post the form; a plain field stands in for a photo that is not there."""
    files: dict[str, Any] = {"time": (None, "1")} if photo is None else {part: ("IMG_1.JPG", photo, "image/jpeg")}
    return {"data": fields if password is None else fields | {"password": password}, "files": files}


def gif() -> bytes:
    out = io.BytesIO()
    Image.new("P", (8, 8)).save(out, "GIF")
    return out.getvalue()


def pad(photo: bytes, size: int = MEGABYTE + 1) -> bytes:
    return photo + bytes(size - len(photo))


def fill_queue() -> Job:
    return Job.objects.create(
        slot_id="slot-002",
        provider_id="nobody",
        operation_id="none",
        settings_json={},
        payload_mime_type="image/jpeg",
        payload_digest=b"",
        expires_at=timezone.now() + timedelta(minutes=5),
    )


def refusal(reply: httpx.Response | Reply, status: int, code: str) -> dict[str, Any]:
    """The details of a refusal that looks as every refusal must."""
    found, body = (reply.status, reply.body) if isinstance(reply, Reply) else (reply.status_code, reply.content)
    assert found == status, body[:300]
    headers = httpx.Headers(dict(reply.headers))
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Correlation-Id"]
    envelope = json.loads(body)
    assert envelope.keys() == {"error"}
    assert envelope["error"].keys() == {"code", "message", "details"}
    assert envelope["error"]["code"] == code
    assert envelope["error"]["message"]
    details = envelope["error"]["details"]
    assert isinstance(details, dict)
    return details


def nothing_left() -> bool:
    rows = [model._default_manager.exists() for model in (Job, ProcessingLog, HourlyCounter)]
    return not any(rows) and stored_files() == []


def eventually(condition: Callable[[], Any], seconds: float = 15) -> Any:
    """Polls until the condition holds, for what follows a response; fails if it never does."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "what was waited for did not come"
        threading.Event().wait(0.01)
    return found


def serialize_post(url: str, slot: str = "slot-001", headers: Mapping[str, str] | None = None, **content: Any) -> bytes:
    """The bytes of a request, for tests that send it themselves."""
    return serialize_request(httpx.Request("POST", f"{url}/ingest/{slot}", headers=dict(headers or {}), **content))


def serialize_request(request: httpx.Request) -> bytes:
    lines = [f"POST {request.url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + request.read()


def connect(url: str, source: str = "127.0.0.1") -> socket.socket:
    address = httpx.URL(url)
    return socket.create_connection((address.host, address.port or 80), 70, source_address=(source, 0))


def read_reply(connection: socket.socket) -> Reply:
    response = HTTPResponse(connection, method="POST")
    response.begin()
    return Reply(response.status, dict(response.getheaders()), response.read(), body_was_sent=True)


def use_password(password: str, algorithm: str = "default") -> None:
    IngestSettings.objects.update(password_hash=make_password(password, hasher=algorithm))


def cancel(job_id: UUID) -> bool:
    """Cancels the job as staff do."""
    return cancel_job(job_id, "serg")


def new_job() -> NewJob:
    job_id = uuid4()
    return NewJob(
        id=job_id,
        slot_id="slot-001",
        provider_id="by hand",  # no worker claims it
        operation_id="none",
        settings_json={},
        template_media={},
        payload_path=f"payloads/{job_id}.jpg",
        payload_mime_type="image/jpeg",
        payload_digest=hashlib.sha256(job_id.bytes).digest(),
    )


@contextmanager
def without_worker(shared: Processes) -> Iterator[None]:
    """The shared worker is stopped meanwhile."""
    shared.stop_worker()
    try:
        yield
    finally:
        shared.start_worker()
