"""Gemini, OpenAI and Turbotext for one photo each, taking exactly the seconds in their address:

    http://127.0.0.1:<port>/<seconds>/gemini    /<seconds>/openai/v1    /<seconds>/turbotext

`tests/sandbox` checks requests and draws its pictures; this one checks nothing and takes almost no processor time.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from typing import Any
from urllib.parse import parse_qs

from bench import wire
from bench.wire import PICTURE_BYTES, Receive, Send, make_jpeg

PICTURE = make_jpeg(PICTURE_BYTES)
IN_BASE64 = base64.b64encode(PICTURE).decode()
GEMINI = {
    "candidates": [
        {"content": {"parts": [{"inlineData": {"mimeType": "image/jpeg", "data": IN_BASE64}}]}, "finishReason": "STOP"}
    ],
    "usageMetadata": {"promptTokenCount": 260, "candidatesTokenCount": 1120, "totalTokenCount": 1380},
}
OPENAI = {
    "data": [{"b64_json": IN_BASE64}],
    "usage": {"input_tokens": 260, "output_tokens": 1120, "total_tokens": 1380},
}
RESPONSES = {name: json.dumps(answer).encode() for name, answer in (("gemini", GEMINI), ("openai", OPENAI))}
client = wire.make_client()
queue_ids = itertools.count(1)
done_at: dict[str, float] = {}  # Turbotext's queue: when each job's picture is ready


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    _, seconds, provider, *path = scope["path"].split("/")
    began = asyncio.get_running_loop().time()
    body = await _read_body(receive)
    if provider == "turbotext":
        answer = PICTURE if scope["method"] == "GET" else await _reply(body, path[-1], scope, began + float(seconds))
    else:
        await asyncio.sleep(began + float(seconds) - asyncio.get_running_loop().time())
        answer = RESPONSES[provider]
    kind = b"image/jpeg" if answer is PICTURE else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _read_body(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _reply(body: bytes, method: str, scope: dict[str, Any], done: float) -> bytes:
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    if form["do"] == "create_queue":
        (await client.get(form["url"])).raise_for_status()
        queue_id = str(next(queue_ids))
        done_at[queue_id] = done
        return json.dumps({"success": True, "queueid": queue_id}).encode()
    if asyncio.get_running_loop().time() < done_at[form["queueid"]]:
        return b'{"action": "reconnect"}'
    del done_at[form["queueid"]]
    host = dict(scope["headers"])[b"host"].decode()
    link = f"http://{host}/0/turbotext/download.php?f={method}.jpg"
    return json.dumps({"success": True, "uploaded_image": link, "data": {}}).encode()
