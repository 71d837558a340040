"""The sandbox's Files API: resumable upload, states, a life of 48 hours that a test may shorten (`FileStore.ahead`)."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.sandbox.gemini_errors import error_reply
from tests.sandbox.gemini_request import UPLOAD, read
from tests.sandbox.wire import Received, Reply

LIFE = dt.timedelta(hours=48)


@dataclass
class File:
    name: str
    uri: str
    mime_type: str
    size: int
    created: dt.datetime
    data: bytes = field(default=b"", repr=False)
    polls_until_active: int = 0
    is_failed: bool = False

    def state(self) -> str:
        if self.is_failed:
            return "FAILED"
        return "PROCESSING" if self.polls_until_active else "ACTIVE"

    def describe(self) -> dict[str, Any]:
        created = self.created.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        file = {
            "name": self.name,
            "mimeType": self.mime_type,
            "sizeBytes": str(self.size),
            "createTime": created,
            "updateTime": created,
            "expirationTime": (self.created + LIFE).strftime("%Y-%m-%dT%H:%M:%S.%f000Z"),
            "sha256Hash": base64.b64encode(hashlib.sha256(self.data).hexdigest().encode()).decode(),
            "uri": self.uri,
            "state": self.state(),
            "source": "UPLOADED",
        }
        return file | ({"error": {"code": 3, "message": "could not be processed"}} if self.is_failed else {})


class FileStore:
    """The uploaded files. `plays` has one fault for each of the next uploads: "" (none), "start_503", "not_final",
    "processing:<polls>", "failed", "hold"."""

    def __init__(self, base_url: Callable[[], str]) -> None:
        self.base_url = base_url
        self.reset()

    def reset(self) -> None:
        self.files: dict[str, File] = {}
        self.plays: deque[str] = deque()
        self.ahead = dt.timedelta()
        self._numbers = itertools.count(1)
        self._fault: dict[str, str] = {}

    def find_usable(self, uri: str) -> File | None:
        return next((f for f in self.files.values() if f.uri == uri and self._is_alive(f)), None)

    def photos(self) -> list[File]:
        """Uploads of booths' photos, which must be deleted. Template images are kept on purpose, for other photos."""
        return [file for file in self.files.values() if file.mime_type == "image/jpeg"]

    def start(self, request: Received) -> Reply:
        meta, violations = read(UPLOAD, request.body or b"{}")
        if violations:
            return error_reply(400, "INVALID_ARGUMENT", violations=violations)
        headers = request.headers
        size = headers.get("x-goog-upload-header-content-length", "")
        mime_type = headers.get("x-goog-upload-header-content-type") or meta.get("file", {}).get("mime_type")
        command = headers.get("x-goog-upload-protocol"), headers.get("x-goog-upload-command")
        if command != ("resumable", "start") or not size.isdigit() or not mime_type:
            return error_reply(400, "INVALID_ARGUMENT", "Invalid upload headers.")
        fault, _, polls = (self.plays.popleft() if self.plays else "").partition(":")
        if fault == "start_503":
            return error_reply(503, "UNAVAILABLE", "The service is currently unavailable.")
        identity = f"sandbox{next(self._numbers)}"
        uri = f"{self.base_url()}/v1beta/files/{identity}"
        file = File(f"files/{identity}", uri, mime_type, int(size), self._now(), polls_until_active=int(polls or 0))
        file.is_failed = fault == "failed"
        self.files[identity], self._fault[identity] = file, fault
        url = f"{self.base_url()}/upload/v1beta/files?upload_id={identity}&upload_protocol=resumable"
        return Reply(200, b"{}", headers={"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"})

    def data(self, request: Received, reply: Callable[[dict[str, Any]], Reply]) -> Reply:
        identity = request.query["upload_id"][0]
        file, command = self.files.get(identity), request.headers.get("x-goog-upload-command", "")
        if file is None or request.headers.get("x-goog-upload-offset") != str(len(file.data)):
            return error_reply(400, "INVALID_ARGUMENT", "The upload offset does not match.")
        file.data += request.body
        if "finalize" not in command:
            return Reply(200, b"", headers={"X-Goog-Upload-Status": "active"})
        if len(file.data) != file.size:
            return error_reply(400, "INVALID_ARGUMENT", "Fewer or more bytes than announced.")
        finished = reply({"file": file.describe()})
        if self._fault[identity] != "not_final":
            finished.headers["X-Goog-Upload-Status"] = "final"
        finished.fault = "hold" if self._fault[identity] == "hold" else ""
        return finished

    def get(self, identity: str, reply: Callable[[dict[str, Any]], Reply]) -> Reply:
        file = self.files.get(identity)
        if file is None or not self._is_alive(file):
            return build_no_file(identity)
        file.polls_until_active = max(0, file.polls_until_active - 1)
        return reply(file.describe())

    def delete(self, identity: str) -> Reply:
        return Reply(200, b"{}") if self.files.pop(identity, None) else build_no_file(identity)

    def _is_alive(self, file: File) -> bool:
        return self._now() < file.created + LIFE

    def _now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.ahead


def build_no_file(identity: str) -> Reply:
    text = f"You do not have permission to access the File {identity} or it may not exist."
    return error_reply(403, "PERMISSION_DENIED", text)
