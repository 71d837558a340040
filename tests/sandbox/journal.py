"""`GET /journal`: the sandbox's requests as JSON, newest last, without keys, prompts and pictures."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from tests.sandbox.wire import Received, Reply, Speaker


class Journal(Speaker):
    prefix = "journal"

    def answer(self, request: Received) -> Reply:
        entries = [self._entry(entry) for entry in self.sandbox.journal if entry.provider in self.sandbox.speakers]
        return Reply(
            200, json.dumps([entry for entry in entries if entry["provider"] != self.prefix], indent=2).encode()
        )

    def _entry(self, request: Received) -> dict[str, Any]:
        parts = self.sandbox.speakers[request.provider].describe_parts(request)
        return {
            "at": (datetime.now(UTC) - timedelta(seconds=monotonic() - request.at)).isoformat(timespec="milliseconds"),
            "provider": request.provider,
            "method": request.method,
            "path": request.path,
            "headers": sorted(request.headers),
            "parts": [name for name, _ in parts],
            "images": [digest for _, digest in parts if digest],
            "bytes": len(request.body),
        }
