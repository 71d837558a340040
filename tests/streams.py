"""The bytes of a response that Django's test client got from a view of this process."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync


def read_body(response: Any) -> bytes:
    """All of it; a file that is streamed is closed when it has been read."""

    async def read() -> bytes:
        return b"".join([piece async for piece in response])

    body: bytes = async_to_sync(read)() if response.streaming else response.content
    return body
