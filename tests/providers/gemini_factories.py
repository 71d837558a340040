"""Sends one photo through the Gemini adapter, and reads the sandbox's journal of it."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from core import images
from photoslot.demo_scene import draw_scene
from providers.attempts import Deadline, make_picture
from providers.base import Account, Operation, Picture, ProviderError, Request, Usage
from providers.gemini import Gemini
from tests.providers.observers import Permissive, keep_picture
from tests.sandbox.gemini import KEY
from tests.sandbox.gemini import Gemini as Google
from tests.sandbox.wire import Received

PHOTO = Picture(images.encode(draw_scene(600, 400), "jpeg"), "image/jpeg")


class Recorder(Permissive):
    """An observer that records the error of each attempt."""

    def __init__(self) -> None:
        self.errors: list[ProviderError | None] = []

    async def on_accepted(self, reference: str) -> None:
        raise AssertionError("Gemini has no queue")

    def on_poll(self) -> None:
        raise AssertionError("Gemini has no queue")

    async def on_attempt(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> None:
        self.errors.append(error)


def make_account(google: Google, key: str = KEY) -> Account:
    return Account(key, f"{google.sandbox.url}/gemini")


def build_request(
    photo: Picture = PHOTO, templates: dict[str, Picture] | None = None, operation: str = "image_edit", **settings: Any
) -> Request:
    """With no pause between the attempts."""
    values = {"prompt": "As a watercolour", "retry": {"pause_seconds": 0}} | settings
    return Request(
        uuid.uuid4(), operation, find_operation(operation).settings.model_validate(values), photo, templates or {}
    )


def find_operation(operation: str) -> Operation:
    return next(o for o in Gemini.operations if o.id == operation)


async def make(gemini: Gemini, wanted: Request | None = None, recorder: Recorder | None = None, **more: Any) -> Picture:
    request, observer = wanted or build_request(**more), recorder or Recorder()
    return await make_picture(gemini, request, Deadline.after(30), observer, keep_picture)


async def fail(gemini: Gemini, **more: Any) -> list[ProviderError]:
    """The errors of all attempts; the last is what the job ends with."""
    recorder = Recorder()
    with pytest.raises(ProviderError) as raised:
        await make(gemini, None, recorder, **more)
    errors = [error for error in recorder.errors if error]
    assert errors[-1] is raised.value
    return errors


def generations(google: Google) -> list[Received]:
    return google.sandbox.calls("gemini", path=":generateContent")


def read_json(google: Google, number: int = -1) -> Any:
    """A request's JSON."""
    return json.loads(generations(google)[number].body)


def read_parts(google: Google, number: int = -1) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = read_json(google, number)["contents"][0]["parts"]
    return parts
