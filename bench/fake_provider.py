"""A provider that takes exactly the requested time: `POST /?seconds=0.5`, counted from the request's first byte."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import parse_qs

from bench.wire import PICTURE_BYTES, Receive, Send, make_jpeg

BODY = json.dumps({"picture": base64.b64encode(make_jpeg(PICTURE_BYTES)).decode()}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    loop = asyncio.get_running_loop()
    query = parse_qs(scope["query_string"].decode())
    respond_at = loop.time() + float(query["seconds"][0])
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(respond_at - loop.time())
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
