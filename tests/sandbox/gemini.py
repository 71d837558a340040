"""Gemini, as the sandbox speaks it: `generateContent`, the list of models and the Files API, on /v1 and /v1beta.

Scenarios, beside those of `wire.common`: `finish:<REASON>`, `block:<REASON>`, `recorded_refusal`, `no_candidates`,
`no_parts`, `text_only`, `drafts`, `only_thoughts`, `two_images`, `same`, `no_usage`, `error_200`, `picture:<name>` and
`base64:<name>` of `pictures`, and the errors of `gemini_errors.named`.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from PIL import Image

from tests.sandbox import gemini_errors as errors
from tests.sandbox.gemini_files import FileStore, build_no_file
from tests.sandbox.gemini_pictures import SIZES, SIZES_OF_2_5, blob, draw, open_image, size_of
from tests.sandbox.gemini_request import GENERATE, read
from tests.sandbox.pictures import BASE64, ODD, encode
from tests.sandbox.wire import Received, Reply, Speaker, WireSandbox, common

KEY = "sandbox-gemini-key"
PATH = re.compile(r"(/upload)?/v1(?:beta)?(/.*)")
MAX_INLINE, MAX_BODY = 20 * 1024 * 1024, 100 * 1024 * 1024
MIME_TYPES = {"image/jpeg", "image/png", "image/webp", "image/heic", "image/heif"}
DATA_FIELDS = {"text", "inline_data", "file_data"}
STANDARD_TO_URL_SAFE = str.maketrans("+/", "-_")
SIGNATURE = base64.b64encode(b"the sandbox thought of this").decode()


@dataclass(frozen=True)
class Model:
    sizes: tuple[str, ...]
    levels: tuple[str, ...]
    window: int  # tokens
    ratios: dict[str, tuple[int, int]] = field(default_factory=lambda: SIZES)
    image_format: str = "PNG"
    drafts: bool = False  # sends its drafts as thoughts


_TEN = {ratio: size for ratio, size in SIZES.items() if ratio not in {"1:4", "4:1", "1:8", "8:1"}}
MODELS = {
    "gemini-nano-banana-2.1": Model(("1K", "2K", "4K"), ("MINIMAL", "MEDIUM", "HIGH"), 131_072, image_format="JPEG"),
    "gemini-3-pro-image": Model(("1K", "2K", "4K"), (), 65_536, _TEN, drafts=True),
    "nano-banana-pro-preview": Model(("1K", "2K", "4K"), (), 65_536, _TEN, drafts=True),
    "gemini-3.1-flash-lite-image": Model((), ("MINIMAL", "HIGH"), 65_536),
    "gemini-2.5-flash-image": Model((), (), 32_768, SIZES_OF_2_5),
}
IMAGE_TOKENS = {"512": 747, "1K": 1120, "2K": 1680, "4K": 3780}
# As recorded by BerriAI/litellm in issue 20357, with another support code.
RECORDED_REFUSAL = {
    "candidates": [
        {
            "content": {"role": "model"},
            "finishReason": "IMAGE_PROHIBITED_CONTENT",
            "finishMessage": "Unable to show the generated image. Support codes: 15236754",
            "index": 0,
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 1119,
        "totalTokenCount": 1359,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 61}, {"modality": "IMAGE", "tokenCount": 1058}],
        "thoughtsTokenCount": 240,
    },
    "modelVersion": "gemini-3-pro-image",
    "responseId": "1PODaYeFKI-GkdUPx_S5mQs",
}


class Refused(Exception):
    """Stops the request with this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


@dataclass
class Call:
    """A request for a picture that passed all checks."""

    model_id: str
    model: Model
    images: list[Image.Image]
    raw: list[bytes]
    prompt: str
    config: dict[str, Any]  # generation_config

    def picture(self) -> Image.Image:
        wish = self.config.get("image_config", {})
        ratio, size = wish.get("aspect_ratio"), wish.get("image_size")
        pixels = size_of(ratio, size, self.images[0].size if self.images else (1, 1), self.model.ratios)
        inputs = self.images or [Image.new("RGB", pixels, "grey")]
        return draw(inputs, pixels, f"{ratio or 'auto'} {size or '1K'} {len(self.images)} images")

    def usage(self, candidates: int | None) -> dict[str, Any]:
        text, images = len(self.prompt) // 4 + 1, 560 * len(self.images)
        details = [{"modality": "TEXT", "tokenCount": text}, {"modality": "IMAGE", "tokenCount": images}]
        usage: dict[str, Any] = {
            "promptTokenCount": text + images,
            "promptTokensDetails": details,
            "totalTokenCount": text + images + (candidates or 0) + 120,
            "thoughtsTokenCount": 120,
            "serviceTier": "standard",
        }
        if candidates is not None:
            usage["candidatesTokenCount"] = candidates
            usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": candidates}]
        return usage


class Gemini(Speaker):
    prefix = "gemini"

    def __init__(self, sandbox: WireSandbox) -> None:
        super().__init__(sandbox)
        self.keys = {KEY}
        self.files = FileStore(lambda: f"{sandbox.url}/{self.prefix}")
        self._numbers = itertools.count(1)

    def reset(self) -> None:
        super().reset()
        self.files.reset()

    def answer(self, request: Received) -> Reply:
        try:
            return self._route(request)
        except Refused as refusal:
            return refusal.reply

    def describe_parts(self, request: Received) -> list[tuple[str, str | None]]:
        if "upload_id" in request.query:
            return [("file", sha256(request.body).hexdigest())]
        try:
            parts = [part for content in json.loads(request.body)["contents"] for part in content["parts"]]
        except (ValueError, LookupError, TypeError):
            return []
        return [(name, _digest(value)) for part in parts for name, value in part.items()]

    def _route(self, request: Received) -> Reply:
        found = PATH.fullmatch(request.path)
        path = f"{found[1] or ''}{found[2]}" if found else ""
        if request.method == "POST" and (model := re.fullmatch(r"/models/([^/:]+):generateContent", path)):
            return self._generate(request, model[1])  # reads the request before it looks at the key
        if request.method == "POST" and path == "/upload/files" and "upload_id" in request.query:
            return self.files.data(request, self._json)
        self._authenticate(request)
        match request.method, path.split("/")[1:]:
            case "POST", ["upload", "files"]:
                reply = self.files.start(request)
            case "GET", ["files", identity]:
                reply = self.files.get(identity, self._json)
            case "DELETE", ["files", identity]:
                reply = self.files.delete(identity)
            case "GET", ["models"]:
                reply = self._models(request)
            case _:
                reply = errors.error_reply(404, "NOT_FOUND", "Requested entity was not found.")
        return reply

    def _authenticate(self, request: Received) -> None:
        key = request.headers.get("x-goog-api-key") or request.query.get("key", [""])[0]
        if not key:
            raise Refused(errors.build_no_key())
        if key not in self.keys:
            raise Refused(errors.build_bad_key())

    def _models(self, request: Received) -> Reply:
        count = int(request.query.get("pageSize", ["50"])[0])
        described = [{"name": f"models/{name}", "supportedGenerationMethods": ["generateContent"]} for name in MODELS]
        return self._json({"models": described[:count]})

    def _generate(self, request: Received, model_id: str) -> Reply:
        if len(request.body) > MAX_INLINE:
            too_large = f"Request payload size exceeds the limit: {MAX_INLINE} bytes."
            raise Refused(
                errors.error_reply(413 if len(request.body) > MAX_BODY else 400, "INVALID_ARGUMENT", too_large)
            )
        body, violations = read(GENERATE, request.body)
        if violations:
            raise Refused(errors.error_reply(400, "INVALID_ARGUMENT", violations=violations))
        self._authenticate(request)
        call = self._check(body, model_id)
        name, argument = self.scenario(call.prompt)
        return self._play(call, name, argument, request)

    def _check(self, body: dict[str, Any], model_id: str) -> Call:
        model = MODELS.get(model_id)
        if model is None:
            raise Refused(errors.error_reply(404, "NOT_FOUND", errors.MODEL_GONE.format(model_id)))
        config = body.get("generation_config", {})
        _check_config(model_id, model, config)
        parts = [part for content in body.get("contents", []) for part in content.get("parts", [])]
        if not parts:
            raise Refused(_build_invalid("contents", "contents is not specified"))
        raw = [data for number, part in enumerate(parts) if (data := self._image(part, number)) is not None]
        prompt = "\n".join(part["text"] for part in parts if "text" in part)
        try:
            images = [open_image(data) for data in raw]
        except Exception:  # noqa: BLE001 - any error of Pillow
            raise Refused(errors.error_reply(*errors.ERRORS["bad_image"])) from None
        call = Call(model_id, model, images, raw, prompt, config)
        if call.usage(None)["promptTokenCount"] > model.window:
            text = f"The input token count exceeds the maximum number of tokens allowed ({model.window})."
            raise Refused(errors.error_reply(400, "INVALID_ARGUMENT", text))
        return call

    def _image(self, part: dict[str, Any], number: int) -> bytes | None:
        where = f"contents[0].parts[{number}]"
        if len(DATA_FIELDS & part.keys()) != 1:
            raise Refused(_build_invalid(where, "must have one initialized field of data"))
        inline, file = part.get("inline_data"), part.get("file_data")
        source = inline or file
        if source is None:
            return None
        if source.get("mime_type") not in MIME_TYPES:
            raise Refused(
                errors.error_reply(400, "INVALID_ARGUMENT", f"Unsupported MIME type: {source.get('mime_type')}")
            )
        if inline is not None:
            return bytes(inline.get("data", b""))
        uri = str(source.get("file_uri"))
        stored = self.files.find_usable(uri)
        if stored is None:
            raise Refused(build_no_file(uri.rpartition("/")[2]))
        if stored.state() != "ACTIVE":
            raise Refused(errors.error_reply(400, "FAILED_PRECONDITION", "The File is not in an ACTIVE state."))
        return stored.data

    def _play(self, call: Call, name: str, argument: str, request: Received) -> Reply:
        if name in ANSWERS:
            return self._json(ANSWERS[name](self, call, argument))
        if error := errors.find_error(name, argument, request.headers.get("x-goog-api-key", "")):
            return error
        reply = self._json(self.build_success(call))
        return common(name, argument, reply) if name else reply

    def build_success(self, call: Call) -> dict[str, Any]:
        format = call.model.image_format
        picture = encode(call.picture(), format)
        parts = [{"inlineData": blob(picture, f"image/{format.lower()}"), "thoughtSignature": SIGNATURE}]
        if "TEXT" in call.config.get("response_modalities", ["TEXT", "IMAGE"]):
            parts.insert(0, {"text": "Here is your picture.", "thoughtSignature": SIGNATURE})
        if call.model.drafts:
            parts.insert(0, build_draft())
        return self.build_finished(call, parts)

    def build_finished(self, call: Call, parts: list[dict[str, Any]], reason: str = "STOP") -> dict[str, Any]:
        size = call.config.get("image_config", {}).get("image_size", "1K")
        candidate = {"content": {"role": "model", "parts": parts}, "finishReason": reason, "index": 0}
        return self.build_response(call, IMAGE_TOKENS[size], candidates=[candidate])

    def build_response(self, call: Call, candidate_tokens: int | None, **more: Any) -> dict[str, Any]:
        """`candidate_tokens` None: a refusal, which names none."""
        return more | {
            "usageMetadata": call.usage(candidate_tokens),
            "modelVersion": call.model_id,
            "responseId": f"sandbox-{next(self._numbers)}",
        }

    def _json(self, value: object) -> Reply:
        return Reply(200, json.dumps(value).encode(), "application/json; charset=UTF-8")


def _digest(value: Any) -> str | None:
    """Of a part's image, if that is in it."""
    data = value.get("data") if isinstance(value, dict) else None
    return sha256(base64.urlsafe_b64decode(data.translate(STANDARD_TO_URL_SAFE) + "==")).hexdigest() if data else None


def build_draft() -> dict[str, Any]:
    """A thought with a picture, in plain magenta."""
    return {"inlineData": blob(encode(Image.new("RGB", (256, 256), "magenta"), "PNG"), "image/png"), "thought": True}


def _build_invalid(field: str, description: str) -> Reply:
    text = f"* GenerateContentRequest.{field}: {description}\n"
    return errors.error_reply(400, "INVALID_ARGUMENT", text, violations=[{"field": field, "description": description}])


def _check_config(model_id: str, model: Model, config: dict[str, Any]) -> None:
    image, thinking = config.get("image_config", {}), config.get("thinking_config", {})
    checks = (
        ("image_config.aspect_ratio", image.get("aspect_ratio"), model.ratios),
        ("image_config.image_size", image.get("image_size"), model.sizes),
        ("thinking_config.thinking_level", thinking.get("thinking_level"), model.levels),
    )
    for name, value, allowed in checks:
        if value is not None and value not in allowed:
            text = f"{name.rpartition('.')[2]} '{value}' is not supported by {model_id}"
            raise Refused(_build_invalid(f"generation_config.{name}", text))
    if "IMAGE" not in config.get("response_modalities", ["IMAGE"]) and image:
        raise Refused(_build_invalid("generation_config.image_config", "needs the IMAGE modality"))


Body = dict[str, Any]


def _build_finish(speaker: Gemini, call: Call, argument: str) -> Body:
    candidate = {"content": {}, "finishReason": argument, "finishMessage": "As the sandbox was told.", "index": 0}
    return speaker.build_response(call, None, candidates=[candidate])


def _build_block(speaker: Gemini, call: Call, argument: str) -> Body:
    return speaker.build_response(call, None, promptFeedback={"blockReason": argument})


def _build_odd(speaker: Gemini, call: Call, argument: str) -> Body:
    return speaker.build_finished(call, [{"inlineData": blob(*ODD[argument](call.picture()))}])


def _build_base64(speaker: Gemini, call: Call, argument: str) -> Body:
    body = speaker.build_success(call)
    inline = body["candidates"][0]["content"]["parts"][-1]["inlineData"]
    inline["data"] = BASE64[argument](inline["data"])
    return body


def _build_several(*before: Callable[[], Body]) -> Callable[[Gemini, Call, str], Body]:
    """The usual answer, with these parts in front of the picture."""

    def answer(speaker: Gemini, call: Call, argument: str) -> Body:
        body = speaker.build_success(call)
        body["candidates"][0]["content"]["parts"][:0] = [make() for make in before]
        return body

    return answer


def _build_red() -> Body:
    return {"inlineData": blob(encode(Image.new("RGB", (256, 256), "red"), "PNG"), "image/png")}


def _build_thought() -> Body:
    return {"text": "I think of a border.", "thought": True}


def _build_without_usage(speaker: Gemini, call: Call, argument: str) -> Body:
    return {key: value for key, value in speaker.build_success(call).items() if key != "usageMetadata"}


def _build_same(speaker: Gemini, call: Call, argument: str) -> Body:
    """The photo of the request, unchanged."""
    format = Image.open(io.BytesIO(call.raw[0])).format or ""
    return speaker.build_finished(call, [{"inlineData": blob(call.raw[0], f"image/{format.lower()}")}])


ANSWERS: dict[str, Callable[[Gemini, Call, str], Body]] = {
    "finish": _build_finish,
    "block": _build_block,
    "recorded_refusal": lambda speaker, call, argument: RECORDED_REFUSAL,
    "no_candidates": lambda speaker, call, argument: speaker.build_response(call, None, candidates=[]),
    "no_parts": lambda speaker, call, argument: speaker.build_response(
        call, None, candidates=[{"content": {"role": "model"}, "finishReason": "STOP"}]
    ),
    "text_only": lambda speaker, call, argument: speaker.build_finished(call, [{"text": "What a fine photo!"}]),
    "only_thoughts": lambda speaker, call, argument: speaker.build_finished(call, [_build_thought(), build_draft()]),
    "drafts": _build_several(_build_thought, build_draft, build_draft),
    "two_images": _build_several(_build_red),
    "same": _build_same,
    "no_usage": _build_without_usage,
    "error_200": lambda speaker, call, argument: {"error": {"code": 500, "message": "?", "status": "INTERNAL"}},
    "picture": _build_odd,
    "base64": _build_base64,
}
