"""Pictures of a bad day, the same for all speakers: each is made from the one that would have been answered.

`ODD` is asked for with `picture:<name>`; where pictures travel as base64 in JSON, `BASE64` with `base64:<name>`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image

Odd = tuple[bytes, str]  # the bytes, and the type they are called
HUGE = (4096, 3072)  # pixels: as a PNG that is not compressed 38 MB, in base64 50


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **({"compress_level": 1} if format == "PNG" else {}) | options)
    return out.getvalue()


def _honest(format: str, change: Callable[[Image.Image], Image.Image], **options: Any) -> Callable[[Image.Image], Odd]:
    return lambda image: (encoded(change(image), format, **options), f"image/{format.lower()}")


def _plain(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _turned(image: Image.Image) -> Odd:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(_plain(image).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif), "image/jpeg"


def _grey16(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("I").point(lambda value: value * 256).convert("I;16")


def _animated(format: str) -> Callable[[Image.Image], Odd]:
    def make(image: Image.Image) -> Odd:
        frame = _plain(image).resize((400, 300))
        last = Image.new("RGB", frame.size, "red")
        return encoded(frame, format, save_all=True, append_images=[last], duration=100), f"image/{format.lower()}"

    return make


@cache
def bomb() -> bytes:
    """Half a gigabyte of black in fifty kilobytes."""
    return encoded(Image.new("1", (20_000, 20_000)), "PNG", compress_level=9)


def _part(format: str, share: float) -> Callable[[Image.Image], Odd]:
    def make(image: Image.Image) -> Odd:
        whole = encoded(_plain(image), format)
        return whole[: int(len(whole) * share)], f"image/{format.lower()}"

    return make


ODD: dict[str, Callable[[Image.Image], Odd]] = {
    "jpeg": _honest("JPEG", _plain),
    "webp": _honest("WEBP", _plain),
    "jpeg_called_png": lambda image: (encoded(_plain(image), "JPEG"), "image/png"),
    "png_called_jpeg": lambda image: (encoded(_plain(image), "PNG"), "image/jpeg"),
    "turned": _turned,
    "cmyk": _honest("JPEG", lambda image: image.convert("CMYK")),
    "grey16": _honest("PNG", _grey16),
    "alpha": _honest("PNG", lambda image: image.convert("RGBA")),
    "animated_webp": _animated("WEBP"),
    "wrong_ratio": _honest("PNG", lambda image: _plain(image).resize((333, 77))),
    "huge": _honest("PNG", lambda image: _plain(image).resize(HUGE), compress_level=0),
    # No pictures that could be used.
    "gif": _animated("GIF"),
    "zero_bytes": lambda image: (b"", "image/png"),
    "cut_png": _part("PNG", 0.5),
    "cut_jpeg": _part("JPEG", 0.5),
    "cut_header": lambda image: (encoded(_plain(image), "PNG")[:20], "image/png"),
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
