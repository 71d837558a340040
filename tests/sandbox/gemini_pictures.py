"""What the sandbox's Gemini draws: the very photo, tinted, framed and stamped, in the exact size of the real one's
table. And the pictures of a bad day."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable
from typing import Any

import pillow_heif
from PIL import Image, ImageDraw, ImageOps

pillow_heif.register_heif_opener()

# Pixels at 1K; 2K is twice that, 4K four times, 512 half. The model before the third generation has sizes of its own.
SIZES = {
    "1:1": (1024, 1024), "2:3": (848, 1264), "3:2": (1264, 848), "3:4": (896, 1200), "4:3": (1200, 896),
    "4:5": (928, 1152), "5:4": (1152, 928), "9:16": (768, 1376), "16:9": (1376, 768), "21:9": (1584, 672),
    "1:4": (512, 2048), "4:1": (2048, 512), "1:8": (384, 3072), "8:1": (3072, 384),
}  # fmt: skip
SIZES_OF_2_5 = {
    "1:1": (1024, 1024), "2:3": (832, 1248), "3:2": (1248, 832), "3:4": (864, 1184), "4:3": (1184, 864),
    "4:5": (896, 1152), "5:4": (1152, 896), "9:16": (768, 1344), "16:9": (1344, 768), "21:9": (1536, 672),
}  # fmt: skip
TIMES = {"512": 0.5, "1K": 1, "2K": 2, "4K": 4}
BORDER = 12
TINT, EDGE = (255, 140, 0), (0, 120, 60)


def opened(data: bytes) -> Image.Image:
    """Raises what Pillow raises."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return ImageOps.exif_transpose(image).convert("RGB")


def size_of(
    ratio: str | None, size: str | None, photo: tuple[int, int], sizes: dict[str, tuple[int, int]]
) -> tuple[int, int]:
    """Without a wished ratio, the photo's."""
    if not ratio:
        wanted = photo[0] / photo[1]
        ratio = min(sizes, key=lambda name: abs(sizes[name][0] / sizes[name][1] - wanted))
    width, height = sizes[ratio]
    return round(width * TIMES[size or "1K"]), round(height * TIMES[size or "1K"])


def drawn(inputs: list[Image.Image], size: tuple[int, int], stamp: str) -> Image.Image:
    """The first image fills the picture; the others are shown along its lower edge, in their order."""
    picture = Image.blend(ImageOps.fit(inputs[0], size), Image.new("RGB", size, TINT), 0.25)
    picture = ImageOps.expand(ImageOps.crop(picture, BORDER), BORDER, EDGE)
    side = min(size) // 8
    for number, image in enumerate(inputs[1:]):
        picture.paste(ImageOps.fit(image, (side, side)), (BORDER + number * side, size[1] - BORDER - side))
    ImageDraw.Draw(picture).text((2 * BORDER, 2 * BORDER), stamp, fill="white", stroke_width=2, stroke_fill="black")
    return picture


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **({"compress_level": 1} if format == "PNG" else {}) | options)
    return out.getvalue()


def blob(data: bytes, mime_type: str) -> dict[str, str]:
    return {"mimeType": mime_type, "data": base64.b64encode(data).decode()}


def bomb() -> bytes:
    """A PNG of 20,000 × 20,000 pixels in half a megabyte."""
    head = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    data = b"IDAT" + zlib.compress(bytes(100_000), 1)
    chunks = [head, data, b"IEND"]
    framed = [(len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def _data_uri(image: Image.Image) -> dict[str, str]:
    made = blob(encoded(image, "JPEG"), "image/jpeg")
    return made | {"data": f"data:image/jpeg;base64,{made['data']}"}


def _url_safe(image: Image.Image) -> dict[str, str]:
    return {"mimeType": "image/png", "data": base64.urlsafe_b64encode(encoded(image, "PNG")).decode().rstrip("=")}


# By name: what `inlineData` holds instead of the usual picture.
ODD: dict[str, Callable[[Image.Image], dict[str, str]]] = {
    "jpeg_called_png": lambda image: blob(encoded(image, "JPEG"), "image/png"),
    "png_called_jpeg": lambda image: blob(encoded(image, "PNG"), "image/jpeg"),
    "webp": lambda image: blob(encoded(image, "WEBP"), "image/webp"),
    "turned": lambda image: blob(_turned(image), "image/jpeg"),
    "cmyk": lambda image: blob(encoded(image.convert("CMYK"), "JPEG"), "image/jpeg"),
    "grey16": lambda image: blob(encoded(image.convert("I;16"), "PNG"), "image/png"),
    "alpha": lambda image: blob(encoded(image.convert("RGBA"), "PNG"), "image/png"),
    "animated_webp": lambda image: blob(encoded(image, "WEBP", save_all=True, append_images=[image]), "image/webp"),
    "wrong_size": lambda image: blob(encoded(image.resize((333, 77)), "PNG"), "image/png"),
    "noisy": lambda image: blob(encoded(Image.effect_noise(image.size, 90).convert("RGB"), "PNG"), "image/png"),
    "data_uri": _data_uri,
    "url_safe": _url_safe,
    "zero_bytes": lambda image: blob(b"", "image/png"),
    "cut_header": lambda image: blob(encoded(image, "PNG")[:20], "image/png"),
    "bomb": lambda image: blob(bomb(), "image/png"),
    "gif": lambda image: blob(encoded(image, "GIF"), "image/gif"),
    "html": lambda image: blob(b"<html>so sorry</html>", "image/png"),
    "not_base64": lambda image: {"mimeType": "image/png", "data": "!!! not base64 !!!"},
}
