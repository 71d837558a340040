"""Pictures that are not what they should be, made from the one that would have been answered.."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _changed(change: Callable[[Image.Image], Image.Image], format: str, **options: Any) -> Callable[[bytes], bytes]:
    return lambda picture: _saved(change(Image.open(io.BytesIO(picture)).convert("RGB")), format, **options)


def _same(image: Image.Image) -> Image.Image:
    return image


def _animated(picture: bytes) -> bytes:
    frame = Image.open(io.BytesIO(picture)).convert("RGB").resize((400, 300))
    return _saved(frame, "WEBP", save_all=True, append_images=[Image.new("RGB", frame.size, "red")], duration=100)


def _bomb(side: int = 20_000) -> bytes:
    """Half a gigabyte of black in half a megabyte of PNG."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = bytes(side // 8 + 1)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "jpeg_bytes": _changed(_same, "JPEG"),
    "png_bytes": _changed(_same, "PNG"),
    "webp_bytes": _changed(_same, "WEBP"),
    "no_bytes": lambda _: b"",
    "half_a_picture": lambda picture: picture[: len(picture) // 2],
    "bomb": lambda _: _bomb(),
    "huge": _changed(lambda image: image.resize((4096, 4096)), "JPEG"),
    "other_ratio": _changed(lambda image: image.resize((1000, 300)), "JPEG"),
    "turned": _changed(_same, "JPEG", exif=_turned()),
    "cmyk": _changed(lambda image: image.convert("CMYK"), "JPEG"),
    "sixteen_bits": _changed(
        lambda image: image.convert("L").convert("I").point(lambda v: v * 256).convert("I;16"), "PNG"
    ),
    "with_alpha": _changed(lambda image: image.convert("RGBA"), "PNG"),
    "animated": _animated,
    "gif": _changed(_same, "GIF"),
}
