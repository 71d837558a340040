"""Booths that post and wait, in a process of their own: `python -m bench.booths '<a plan as JSON>'`.

Prints one JSON list, a `Sample` for each post. The booths themselves take a good part of the two cores, beside
floor and service alike: compare figures only with those of booths that are built in the same way.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from bench.wire import make_jpeg

PASSWORD = "bench"  # noqa: S105 - of a database that lives for minutes
SLOTS = 15
TIMEOUT_SECONDS = 70  # above the longest deadline


@dataclass(frozen=True, slots=True)
class Plan:
    """`url` has `{slot}` where the target needs one; each booth posts `photos` times, one after the other."""

    url: str
    booths: int
    photo_bytes: int
    photos: int
    ramp: float = 0  # seconds over which the booths start, as at a party


class Sample(NamedTuple):
    """One post, in seconds since the start. `error` is empty where a picture came back."""

    began: float
    ended: float
    error: str


async def post_photos(plan: Plan) -> list[Sample]:
    assert urlsplit(plan.url).hostname == "127.0.0.1", "loopback only"
    loop = asyncio.get_running_loop()
    photo = make_jpeg(plan.photo_bytes)
    samples: list[Sample] = []
    start = loop.time()

    async def take_photos(number: int) -> None:
        await asyncio.sleep(plan.ramp * number / plan.booths)
        for photo_number in range(plan.photos):
            began = loop.time() - start
            error = await _post(client, plan.url, number, photo_number, photo)
            samples.append(Sample(began, loop.time() - start, error))

    limits = httpx.Limits(max_connections=plan.booths, max_keepalive_connections=plan.booths)
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits) as client:
        await asyncio.gather(*(take_photos(number) for number in range(plan.booths)))
    return samples


async def _post(client: httpx.AsyncClient, url: str, booth: int, number: int, photo: bytes) -> str:
    """Returns what went wrong; empty where a picture came back."""
    fields = {
        "password": PASSWORD,
        "id": f"{booth}-{number}",  # unique, because a repeated post would join the job before it
        "name": f"BOOTH-{booth}",
        "model": "Windows",
        "profile": "bench",
        "version": "3.30.2",
    }
    files = {"fileToUpload": ("bench.jpg", photo, "image/jpeg")}
    try:
        reply = await client.post(url.format(slot=f"slot-{booth % SLOTS + 1:03d}"), data=fields, files=files)
    except httpx.HTTPError as error:
        return type(error).__name__
    if reply.status_code != 200 or not reply.content.startswith(b"\xff\xd8"):
        return f"{reply.status_code} {reply.text[:200]}"
    return ""


if __name__ == "__main__":
    print(json.dumps(asyncio.run(post_photos(Plan(**json.loads(sys.argv[1]))))))
