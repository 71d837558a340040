"""OpenAI's images API, as far as an edit goes: `POST /v1/images/edits`, `GET /v1/models`.

The picture shows what it was made from: the first image's negative at the requested size, the other images as stamps
along its lower edge in their order, the prompt and the settings in a line of text.

Scenarios, beside those of `wire.common`: `ERRORS` and `BODIES` of `openai_faults`, `picture:<name>` of `pictures` and
`same`.
"""

from __future__ import annotations

import itertools
import time
from hashlib import sha256
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from tests.sandbox.openai_faults import BODIES, ERRORS, json_reply
from tests.sandbox.openai_form import DEFAULT_MODEL, FIXED_SIZE, Form, Refusal, parts, read_form
from tests.sandbox.pictures import ODD, base64_of, encode
from tests.sandbox.wire import Received, Reply, Speaker, WireSandbox, common

TOKENS = {"low": 196, "medium": 1667, "high": 7000, "xhigh": 9000, "max": 12000}  # of a square of 1024


KEY = "sk-sandbox-openai"  # or any other that begins with sk-


class OpenAI(Speaker):
    prefix = "openai"

    def __init__(self, sandbox: WireSandbox) -> None:
        super().__init__(sandbox)
        self._numbers = itertools.count(1)

    def answer(self, request: Received) -> Reply:
        try:
            _authorize(request)
            reply = self._route(request)
        except Refusal as refusal:
            reply = json_reply(refusal.status, {"error": refusal.error})
        reply.headers.setdefault("x-request-id", f"req_sandbox{next(self._numbers):06d}")
        return reply

    def describe_parts(self, request: Received) -> list[tuple[str, str | None]]:
        try:
            read = parts(request)
        except (Refusal, KeyError):
            return []
        return [(part.name, sha256(part.data).hexdigest() if part.filename else None) for part in read]

    def _route(self, request: Received) -> Reply:
        match request.method, request.path:
            case "GET", "/v1/models":
                return self._models()
            case "POST", "/v1/images/edits":
                return self._edit(request)
        raise Refusal(404, None, f"Invalid URL ({request.method} {request.path})")

    def _models(self) -> Reply:
        reply = json_reply(200, {"object": "list", "data": [_model(name) for name in (DEFAULT_MODEL, *FIXED_SIZE)]})
        scenario, argument = self.scenario()
        if scenario in ERRORS:
            return ERRORS[scenario](argument)
        return common(scenario, argument, reply) if scenario else reply

    def _edit(self, request: Received) -> Reply:
        form = read_form(request)
        scenario, argument = self.scenario(form.fields["prompt"])
        if scenario in ERRORS:
            return ERRORS[scenario](argument)
        body = _response(form, _picture(form, scenario, argument))
        if scenario in BODIES:
            BODIES[scenario](body, argument)
        reply = json_reply(200, body, **{"openai-processing-ms": "812", "openai-version": "2020-10-01"})
        plain = scenario in ("", "picture", "same", *BODIES)
        return reply if plain else common(scenario, argument, reply)


def _authorize(request: Received) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or not key:
        raise Refusal(401, None, "You didn't provide an API key.")
    if not key.startswith("sk-") or key.startswith("sk-bad"):
        raise Refusal(401, "invalid_api_key", f"Incorrect API key provided: {key[:6]}********{key[-4:]}.")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "system"}


def _picture(form: Form, scenario: str, argument: str) -> bytes:
    """The encoded picture in the requested format, unless the scenario changes it."""
    if scenario == "same":
        return encode(form.pictures[0], "PNG")
    if scenario == "picture":
        return ODD[argument](_draw(form))[0]
    format = form.get("output_format", "png")
    options = {} if format == "png" else {"quality": int(form.get("output_compression", "100"))}
    return encode(_draw(form), format.upper(), **options)


def _draw(form: Form) -> Image.Image:
    width, height = _size(form)
    first, *others = (ImageOps.exif_transpose(picture).convert("RGB") for picture in form.pictures)
    drawn = ImageOps.invert(ImageOps.fit(first, (width, height)))
    stamp = width // 16
    for number, other in enumerate(others):
        drawn.paste(ImageOps.fit(other, (stamp, stamp)), (number * stamp, height - stamp))
    text = f"{width}x{height} {form.get('quality')} {form.fields['prompt'][:60]}"
    ImageDraw.Draw(drawn).text((8, 8), text, fill="white", stroke_fill="black", stroke_width=2)
    if form.get("background") == "transparent":
        drawn.putalpha(Image.radial_gradient("L").resize(drawn.size).point(lambda value: 255 if value < 180 else 0))
    return drawn


def _size(form: Form) -> tuple[int, int]:
    size = form.get("size")
    if size == "auto":
        ratio = form.pictures[0].width / form.pictures[0].height
        size = "1536x1024" if ratio > 1.2 else "1024x1536" if ratio < 0.83 else "1024x1024"
    width, _, height = size.partition("x")
    return int(width), int(height)


def _quality(form: Form) -> str:
    quality = form.get("quality")
    return "medium" if quality == "auto" else quality


def _response(form: Form, picture: bytes) -> dict[str, Any]:
    width, height = _size(form)
    return {
        "created": int(time.time()),
        "background": "transparent" if form.get("background") == "transparent" else "opaque",
        "data": [{"b64_json": base64_of(picture)} for _ in range(int(form.get("n", "1")))],
        "output_format": form.get("output_format", "png"),
        "quality": _quality(form),
        "size": f"{width}x{height}",
        "usage": _usage(form, width * height),
    }


def _usage(form: Form, pixels: int) -> dict[str, Any]:
    text = 6 + len(form.fields["prompt"]) // 4
    images = sum(-(-picture.width // 32) * -(-picture.height // 32) for picture in form.pictures)
    output = TOKENS[_quality(form)] * pixels // 1024**2
    return {
        "input_tokens": text + images,
        "input_tokens_details": {"image_tokens": images, "text_tokens": text},
        "output_tokens": output,
        "output_tokens_details": {"image_tokens": output, "text_tokens": 0},
        "total_tokens": text + images + output,
    }
