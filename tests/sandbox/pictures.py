"""Odd pictures, the same for all speakers: each is made from the picture of a success.

`picture:<name>` plays one of `ODD`; `base64:<name>` one of `BASE64`, for providers that send base64 in JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image

Odd = tuple[bytes, str]  # the bytes, and the declared type
HUGE = (4096, 3072)  # pixels: 38 MB as an uncompressed PNG, 50 MB in base64


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **({"compress_level": 1} if format == "PNG" else {}) | options)
    return out.getvalue()


def _build(format: str, change: Callable[[Image.Image], Image.Image], **options: Any) -> Callable[[Image.Image], Odd]:
    return lambda image: (encode(change(image), format, **options), f"image/{format.lower()}")


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _rotate(image: Image.Image) -> Odd:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(_to_rgb(image).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif), "image/jpeg"


def _to_grey16(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("I").point(lambda value: value * 256).convert("I;16")


def _animate(format: str) -> Callable[[Image.Image], Odd]:
    def make(image: Image.Image) -> Odd:
        frame = _to_rgb(image).resize((400, 300))
        last = Image.new("RGB", frame.size, "red")
        return encode(frame, format, save_all=True, append_images=[last], duration=100), f"image/{format.lower()}"

    return make


@cache
def bomb() -> bytes:
    """Half a gigabyte of black in fifty kilobytes."""
    return encode(Image.new("1", (20_000, 20_000)), "PNG", compress_level=9)


def _cut(format: str, share: float) -> Callable[[Image.Image], Odd]:
    def make(image: Image.Image) -> Odd:
        whole = encode(_to_rgb(image), format)
        return whole[: int(len(whole) * share)], f"image/{format.lower()}"

    return make


ODD: dict[str, Callable[[Image.Image], Odd]] = {
    "jpeg": _build("JPEG", _to_rgb),
    "webp": _build("WEBP", _to_rgb),
    "jpeg_called_png": lambda image: (encode(_to_rgb(image), "JPEG"), "image/png"),
    "png_called_jpeg": lambda image: (encode(_to_rgb(image), "PNG"), "image/jpeg"),
    "turned": _rotate,
    "cmyk": _build("JPEG", lambda image: image.convert("CMYK")),
    "grey16": _build("PNG", _to_grey16),
    "alpha": _build("PNG", lambda image: image.convert("RGBA")),
    "animated_webp": _animate("WEBP"),
    "wrong_ratio": _build("PNG", lambda image: _to_rgb(image).resize((333, 77))),
    "huge": _build("PNG", lambda image: _to_rgb(image).resize(HUGE), compress_level=0),
    # Unusable ones.
    "gif": _animate("GIF"),
    "zero_bytes": lambda image: (b"", "image/png"),
    "cut_png": _cut("PNG", 0.5),
    "cut_jpeg": _cut("JPEG", 0.5),
    "cut_header": lambda image: (encode(_to_rgb(image), "PNG")[:20], "image/png"),
    "bomb": lambda image: (bomb(), "image/png"),
    "html": lambda image: (b"<html>so sorry</html>", "image/png"),
}
UNUSABLE = list(ODD)[list(ODD).index("gif") :]

BASE64: dict[str, Callable[[str], str]] = {
    "url_safe": lambda text: text.translate(str.maketrans("+/", "-_")).rstrip("="),
    "data_uri": lambda text: f"data:image/png;base64,{text}",
    "invalid": lambda text: "!" + text[1:],
}


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
