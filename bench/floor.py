"""The floor, a minimal proxy: form in, JSON to the provider, picture out. Nothing is checked, queued or stored, so no
real gateway can be faster."""

from __future__ import annotations

import os
from typing import Any

from bench import wire
from bench.wire import Receive, Send

PROVIDER_URL = os.environ["BENCH_PROVIDER_URL"]
provider = wire.make_client()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    pieces = []
    more = True
    while more:
        message = await receive()
        pieces.append(message["body"])
        more = message["more_body"]
    response = await provider.post(
        PROVIDER_URL,
        params={"seconds": scope["path"].rpartition("/")[2]},
        content=wire.encode_request(_extract_photo(b"".join(pieces))),
        headers={"Content-Type": "application/json"},
    )
    picture = wire.decode_response(response.content)
    headers = [(b"content-type", b"image/jpeg"), (b"content-length", str(len(picture)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": picture})


def _extract_photo(form: bytes) -> bytes:
    """The part fileToUpload, which is the form's last."""
    begin = form.index(b"\r\n\r\n", form.index(b'name="fileToUpload"')) + 4
    return form[begin : form.rindex(b"\r\n--")]
