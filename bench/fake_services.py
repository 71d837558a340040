"""Gemini, OpenAI and Turbotext as far as one photo goes, each taking exactly as long as its address says:

    http://127.0.0.1:<port>/<seconds>/gemini    /<seconds>/openai/v1    /<seconds>/turbotext

`tests/sandbox` is strict and draws its pictures; this one checks nothing and costs next to no processor time.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from typing import Any
from urllib.parse import parse_qs

from bench import wire
from bench.wire import PICTURE_BYTES, Receive, Send, noise

PICTURE = noise(PICTURE_BYTES)
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
ANSWERS = {name: json.dumps(answer).encode() for name, answer in (("gemini", GEMINI), ("openai", OPENAI))}
fetching = wire.client()
numbers = itertools.count(1)
done_at: dict[str, float] = {}  # Turbotext's queue: when each job's picture is there


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    _, seconds, provider, *path = scope["path"].split("/")
    begun = asyncio.get_running_loop().time()
    body = await _body(receive)
    if provider == "turbotext":
        answer = PICTURE if scope["method"] == "GET" else await _queue(body, path[-1], scope, begun + float(seconds))
    else:
        await asyncio.sleep(begun + float(seconds) - asyncio.get_running_loop().time())
        answer = ANSWERS[provider]
    kind = b"image/jpeg" if answer is PICTURE else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _body(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _queue(body: bytes, method: str, scope: dict[str, Any], done: float) -> bytes:
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    if form["do"] == "create_queue":
        (await fetching.get(form["url"])).raise_for_status()
        queued = str(next(numbers))
        done_at[queued] = done
        return json.dumps({"success": True, "queueid": queued}).encode()
    if asyncio.get_running_loop().time() < done_at[form["queueid"]]:
        return b'{"action": "reconnect"}'
    del done_at[form["queueid"]]
    host = dict(scope["headers"])[b"host"].decode()
    link = f"http://{host}/0/turbotext/download.php?f={method}.jpg"
    return json.dumps({"success": True, "uploaded_image": link, "data": {}}).encode()
