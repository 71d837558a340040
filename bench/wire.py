"""What goes over the wire to the fake provider, and a picture to send. Floor and service share it, so that neither
does more work here than the other."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Awaitable, Callable, MutableMapping
from math import sqrt
from typing import Any

import httpx
from PIL import Image

# The shape of an ASGI application.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PICTURE_BYTES = 900_000


def asked(photo: bytes) -> bytes:
    return b'{"prompt": "a bench", "photo": "' + base64.b64encode(photo) + b'"}'


def answered(body: bytes) -> bytes:
    """The picture in the fake provider's answer."""
    return base64.b64decode(json.loads(body)["picture"])


def client() -> httpx.AsyncClient:
    """Without httpx's own limit of 100 connections: who may call how often is the queue's business."""
    return httpx.AsyncClient(timeout=70, limits=httpx.Limits(max_connections=None, max_keepalive_connections=100))


def noise(size: int) -> bytes:
    """A JPEG of about `size` bytes, the same each time. Noise compresses evenly, so its size follows its area."""
    sample = _jpeg(256)
    return _jpeg(round(256 * sqrt(size / len(sample))))


def _jpeg(side: int) -> bytes:
    out = io.BytesIO()
    pixels = random.Random(side).randbytes(side * side * 3)
    Image.frombytes("RGB", (side, side), pixels).save(out, "JPEG", quality=85)
    return out.getvalue()
