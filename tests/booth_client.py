"""A booth for the tests: posts a photo as DSLR Remote Pro 3.30 does.

The field set and `Expect: 100-continue` are those of a recorded request; no User-Agent and no Accept are sent.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from urllib.parse import urlsplit

CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes
    body_was_sent: bool  # the server said 100 and so asked for the photo


def fields(password: str, photo: bytes) -> dict[str, str]:
    """What the booth sends beside the photo. `hash` is no digest of the file, whatever it looks like."""
    return {
        "time": str(int(time.time())),
        "user_id": "Booth",
        "id": f"CANON-{hashlib.sha256(photo).hexdigest()[:8]}.",
        "profile": r"C:\Booth\profiles\party.xml",
        "status": r"C:\Booth\temp\preview.jpg",
        "hash": secrets.token_hex(20),
        "name": "BOOTH-1",
        "model": "Windows",
        "version": "3.30.2",
        "password": password,
    }


def post_photo(
    url: str, photo: bytes, form: Mapping[str, str], filename: str = "IMG_0003.JPG", timeout: float = 70
) -> Reply:
    """Posts and waits for the answer. The body is sent only once the server asks for it. Raises `OSError`."""
    boundary = "-" * 20 + str(secrets.randbelow(10**12))
    body = _build_multipart(boundary, form, filename, photo)
    parts = urlsplit(url)
    assert parts.hostname
    with socket.create_connection((parts.hostname, parts.port or 80), timeout) as connection:
        connection.sendall(_build_head(parts.path, parts.netloc, boundary, len(body)))
        if is_body_wanted := _read_continue(connection):
            connection.sendall(body)
        response = HTTPResponse(connection, method="POST")
        response.begin()
        return Reply(response.status, dict(response.getheaders()), response.read(), is_body_wanted)


def _read_continue(connection: socket.socket) -> bool:
    """Whether the first thing that the server says is 100; if so, that is taken off the stream."""
    head = connection.recv(CHUNK, socket.MSG_PEEK)
    if not head.startswith(b"HTTP/1.1 100"):
        return False
    connection.recv(head.index(b"\r\n\r\n") + 4)
    return True


def _build_head(path: str, host: str, boundary: str, length: int) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        f"Content-Length: {length}",
        "Expect: 100-continue",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _build_multipart(boundary: str, form: Mapping[str, str], filename: str, photo: bytes) -> bytes:
    text = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in form.items()
    )
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="fileToUpload"; filename="{filename}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return text.encode() + head.encode() + photo + f"\r\n--{boundary}--\r\n".encode()
