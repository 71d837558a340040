"""The pictures of the sandbox's Gemini: the photo of the request, tinted, framed and stamped, in the exact size of the
real service's table."""

from __future__ import annotations

import io

import pillow_heif
from PIL import Image, ImageDraw, ImageOps

from tests.sandbox.pictures import base64_of

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


def open_image(data: bytes) -> Image.Image:
    """An upright RGB image. Raises Pillow's errors."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return ImageOps.exif_transpose(image).convert("RGB")


def size_of(
    ratio: str | None, size: str | None, photo: tuple[int, int], sizes: dict[str, tuple[int, int]]
) -> tuple[int, int]:
    """The picture's size; without a `ratio`, the one nearest to the photo's."""
    if not ratio:
        wanted = photo[0] / photo[1]
        ratio = min(sizes, key=lambda name: abs(sizes[name][0] / sizes[name][1] - wanted))
    width, height = sizes[ratio]
    return round(width * TIMES[size or "1K"]), round(height * TIMES[size or "1K"])


def draw(inputs: list[Image.Image], size: tuple[int, int], stamp: str) -> Image.Image:
    """The first image fills the picture; the others are shown along its lower edge, in their order."""
    picture = Image.blend(ImageOps.fit(inputs[0], size), Image.new("RGB", size, TINT), 0.25)
    picture = ImageOps.expand(ImageOps.crop(picture, BORDER), BORDER, EDGE)
    side = min(size) // 8
    for number, image in enumerate(inputs[1:]):
        picture.paste(ImageOps.fit(image, (side, side)), (BORDER + number * side, size[1] - BORDER - side))
    ImageDraw.Draw(picture).text((2 * BORDER, 2 * BORDER), stamp, fill="white", stroke_width=2, stroke_fill="black")
    return picture


def blob(data: bytes, mime_type: str) -> dict[str, str]:
    return {"mimeType": mime_type, "data": base64_of(data)}
