"""Parses and validates a request for an edit as strictly as OpenAI documents.

The rules are written independently of the adapter's catalogue.
"""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from PIL import Image

from tests.sandbox.wire import Received

FREE_SIZE = re.compile(r"gpt-image-2(\.[56]-(flare|sunburst))?(-\d{4}-\d\d-\d\d)?")
FIXED_SIZE = {"gpt-image-1.5", "gpt-image-1-mini", "chatgpt-image-latest"}
RETIRED = {"gpt-image-1", "dall-e-2", "dall-e-3"}
DEFAULT_MODEL = "gpt-image-2.5-sunburst"
STANDARD_SIZES = {"1024x1024", "1536x1024", "1024x1536"}
PARAMETERS = {
    "prompt", "model", "n", "size", "quality", "background", "moderation", "output_format", "output_compression",
    "input_fidelity", "complexity", "user", "safety_identifier",
}  # fmt: skip
ONE_OF = {
    "background": {"auto", "opaque", "transparent"},
    "moderation": {"auto", "low"},
    "output_format": {"png", "jpeg", "webp"},
}
IMAGE_TYPES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
MAX_IMAGE_BYTES = 50 * 1000 * 1000


class Refusal(Exception):
    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        param: str | None = None,
        type: str = "invalid_request_error",  # noqa: A002 - the field's name
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": type, "param": param, "code": code} | more


@dataclass(slots=True)
class Part:
    name: str
    filename: str | None
    content_type: str | None
    data: bytes = field(repr=False)


@dataclass(slots=True)
class Form:
    fields: dict[str, str]
    pictures: list[Image.Image]

    def get(self, name: str, default: str = "auto") -> str:
        return self.fields.get(name, default)


def read_form(request: Received) -> Form:
    """Raises `Refusal`."""
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("application/json"):
        fields, images = _read_json(request.body)
    elif content_type.startswith("multipart/form-data"):
        fields, images = _read_multipart(parts(request))
    else:
        raise Refusal(400, None, f"Unsupported content type: '{content_type}'.")
    if unknown := sorted(set(fields) - PARAMETERS):
        raise Refusal(400, "unknown_parameter", f"Unknown parameter: '{unknown[0]}'.", unknown[0])
    if not fields.get("prompt"):
        raise Refusal(400, "missing_required_parameter", "Missing required parameter: 'prompt'.", "prompt")
    masks = [part for part in images if part.name == "mask"]
    pictures = [_open(part, n) for n, part in enumerate([part for part in images if part.name != "mask"])]
    _check_pictures(pictures)
    for mask in masks:
        _check_mask(mask, pictures[0])
    form = Form(fields, pictures)
    _check(form)
    return form


def parts(request: Received) -> list[Part]:
    """The parts of a multipart body, which must be well-formed."""
    boundary = re.search(r'boundary="?([^";]+)', request.headers["content-type"])
    if boundary is None:
        raise Refusal(400, None, "Could not parse multipart form")
    separator = b"\r\n--" + boundary[1].encode()
    chunks = (b"\r\n" + request.body).split(separator)
    if chunks[0] or chunks[-1] not in (b"--\r\n", b"--"):
        raise Refusal(400, None, "Could not parse multipart form")
    return [_part(chunk) for chunk in chunks[1:-1]]


def _part(chunk: bytes) -> Part:
    head, _, data = chunk.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    headers = {}
    for line in head.decode().split("\r\n"):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    disposition = headers.get("content-disposition", "")
    values = dict(re.findall(r'; (name|filename)="([^"]*)"', disposition))
    if not disposition.startswith("form-data") or "name" not in values:
        raise Refusal(400, None, "Could not parse multipart form")
    return Part(values["name"], values.get("filename"), headers.get("content-type"), data)


def _read_multipart(read: list[Part]) -> tuple[dict[str, str], list[Part]]:
    fields: dict[str, str] = {}
    images: list[Part] = []
    for part in read:
        is_image = part.name in ("image", "image[]", "mask")
        if is_image and part.filename is None:
            raise Refusal(400, "invalid_type", f"Invalid type for '{part.name}': expected a file.", part.name)
        if part.name in fields or (part.name != "image[]" and part.name in [image.name for image in images]):
            words = f"Duplicate parameter: '{part.name}'. Use the array syntax instead e.g. '{part.name}[]=<value>'."
            raise Refusal(400, "duplicate_parameter", words, part.name)
        if is_image:
            images.append(part)
        else:
            fields[part.name] = part.data.decode()
    if {"image", "image[]"} <= {image.name for image in images}:
        raise Refusal(400, "duplicate_parameter", "Duplicate parameter: 'image'.", "image")
    return fields, images


def _read_json(body: bytes) -> tuple[dict[str, str], list[Part]]:
    try:
        fields: dict[str, Any] = json.loads(body)
        urls = [image["image_url"] for image in fields.pop("images", [])]
    except (ValueError, LookupError, TypeError):
        raise Refusal(400, None, "We could not parse the JSON body of your request.") from None
    images = []
    for url in urls:
        found = re.fullmatch(r"data:(image/\w+);base64,(.+)", url)
        if found is None or len(url) > 20_971_520:
            raise Refusal(400, "invalid_image_url", "Invalid image_url: expected a data URL.", "images")
        images.append(Part("image[]", "inline", found[1], base64.b64decode(found[2])))
    return {name: str(value) for name, value in fields.items()}, images


def _open(part: Part, number: int) -> Image.Image:
    if part.content_type not in IMAGE_TYPES:
        words = f"Invalid file '{part.name}': unsupported mimetype ('{part.content_type}')."
        raise Refusal(400, "unsupported_file_mimetype", words, "image")
    if len(part.data) >= MAX_IMAGE_BYTES:
        raise Refusal(413, None, "Maximum content size limit exceeded.", "image")
    try:
        picture = Image.open(io.BytesIO(part.data), formats=[IMAGE_TYPES[part.content_type]])
        picture.load()
    except Exception:  # noqa: BLE001 - any error of a decoder means that the file is bad
        words = f"Invalid image file or mode for image {number + 1}, please check your image file."
        raise Refusal(400, "invalid_image_file", words, "image") from None
    return picture


def _check_pictures(pictures: list[Image.Image]) -> None:
    if not pictures:
        raise Refusal(400, "missing_required_parameter", "Missing required parameter: 'image'.", "image")
    if len(pictures) > 16:
        words = f"Invalid 'image': array too long. Expected maximum length 16, but got length {len(pictures)} instead."
        raise Refusal(400, "array_above_max_length", words, "image")


def _check_mask(mask: Part, first: Image.Image) -> None:
    picture = _open(mask, 0)
    kind = "image_generation_user_error"
    if picture.format != "PNG" or "A" not in picture.getbands():
        raise Refusal(400, "invalid_mask_image_format", "The mask needs an alpha channel.", "mask", kind)
    if picture.size != first.size:
        words = "Invalid mask image format - mask size does not match image size"
        raise Refusal(400, "invalid_mask_image_format", words, "mask", kind)


# The rules


def _check(form: Form) -> None:
    if len(form.fields["prompt"]) > 32_000:
        raise Refusal(400, "string_above_max_length", "Invalid 'prompt': string too long.", "prompt")
    model = form.get("model", DEFAULT_MODEL)
    if model in RETIRED:
        raise Refusal(404, "model_not_found", f"The model `{model}` has been deprecated.", "model")
    if model not in FIXED_SIZE and not FREE_SIZE.fullmatch(model):
        raise Refusal(404, "model_not_found", f"The model `{model}` does not exist.", "model")
    for name, known in ONE_OF.items():
        if form.fields.get(name, next(iter(known))) not in known:
            _invalid(name, form.fields[name], "Supported values are: " + ", ".join(sorted(known)))
    _check_size(form.get("size"), model)
    _check_quality(form.get("quality"), model)
    _check_output(form, model)
    if "input_fidelity" in form.fields and model not in FIXED_SIZE:
        _invalid("input_fidelity", form.fields["input_fidelity"], f"'{model}' does not take it.")
    _check_number(form, "n", 1, 10)


def _invalid(name: str, value: str, words: str) -> NoReturn:
    raise Refusal(400, "invalid_value", f"Invalid value for '{name}': '{value}'. {words}", name)


def _check_number(form: Form, name: str, least: int, most: int) -> None:
    text = form.fields.get(name)
    if text is not None and not (text.isdecimal() and least <= int(text) <= most):
        _invalid(name, text, f"Expected an integer from {least} to {most}.")


def _check_quality(quality: str, model: str) -> None:
    known = {"auto", "low", "medium", "high"}
    if ".5-" in model or ".6-" in model:
        known |= {"xhigh", "max"}
    if quality not in known:
        _invalid("quality", quality, "Supported values are: " + ", ".join(sorted(known)))


def _check_size(size: str, model: str) -> None:
    if size == "auto":
        return
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if found is None:
        _invalid("size", size, "Expected WIDTHxHEIGHT or auto.")
    width, height = int(found[1]), int(found[2])
    if model in FIXED_SIZE:
        if size not in STANDARD_SIZES:
            _invalid("size", size, "Supported values are: auto, " + ", ".join(sorted(STANDARD_SIZES)))
    elif width % 16 or height % 16:
        _invalid("size", size, "Width and height must both be divisible by 16.")
    elif max(width, height) > 3840:
        _invalid("size", size, "The longest edge must be at most 3840.")
    elif max(width, height) > 3 * min(width, height):
        _invalid("size", size, "The aspect ratio must be between 1:3 and 3:1.")
    elif not 655_360 <= width * height <= 8_294_400:
        _invalid("size", size, "Outside of the current pixel budget.")


def _check_output(form: Form, model: str) -> None:
    format = form.get("output_format", "png")
    _check_number(form, "output_compression", 0, 100)
    if format == "png" and form.get("output_compression", "100") != "100":
        words = "Compression less than 100 is not supported for PNG output format"
        raise Refusal(400, "invalid_png_output_compression", words, "output_compression")
    if form.get("background") == "transparent":
        if format == "jpeg":
            _invalid("background", "transparent", "Transparent background is not supported for JPEG output format.")
        if model in ("gpt-image-2", "gpt-image-2-2026-04-21"):
            _invalid("background", "transparent", "Transparent background is not supported for this model.")
