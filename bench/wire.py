"""The fake provider's wire format, and a picture to send. Floor and service share it, so that neither does more work
here than the other."""

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


def encode_request(photo: bytes) -> bytes:
    return b'{"prompt": "a bench", "photo": "' + base64.b64encode(photo) + b'"}'


def decode_response(body: bytes) -> bytes:
    """The picture in the fake provider's response."""
    return base64.b64decode(json.loads(body)["picture"])


def make_client() -> httpx.AsyncClient:
    """Without httpx's own limit of 100 connections: the queue limits concurrency."""
    return httpx.AsyncClient(timeout=70, limits=httpx.Limits(max_connections=None, max_keepalive_connections=100))


def make_jpeg(size: int) -> bytes:
    """A JPEG of about `size` bytes, the same each time. Noise compresses evenly, so its size follows its area."""
    sample = _encode_noise(256)
    return _encode_noise(round(256 * sqrt(size / len(sample))))


def _encode_noise(side: int) -> bytes:
    out = io.BytesIO()
    pixels = random.Random(side).randbytes(side * side * 3)
    Image.frombytes("RGB", (side, side), pixels).save(out, "JPEG", quality=85)
    return out.getvalue()
