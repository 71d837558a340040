"""Image operations for looks: tone curves, colour tables, blurs, grain, light.

Lengths are in thousandths of the picture's longer side, so that a look is the same on a preview and on a print. All
operations are deterministic, noise included: the same photo gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import Final

from PIL import Image, ImageChops, ImageFilter

Colour = tuple[float, float, float]  # red, green, blue from 0 to 1

BICUBIC: Final = Image.Resampling.BICUBIC
_LATTICE: Final = 17  # points a side of a colour table: steps would only show with far stronger curves than ours
_GRAIN_SIDE: Final = 512  # pixels of the noise tile; at this size the repetition is not visible


def unit(image: Image.Image) -> float:
    """One thousandth of the longer side, in pixels."""
    return max(image.size) / 1000


def curve(*points: tuple[int, int]) -> list[int]:
    """A table of 256 tones through `points` (from, to), smooth in between."""
    straight = [_interpolate(points, value) for value in range(256)]
    return [round(_average_around(straight, value)) for value in range(256)]


def _interpolate(points: tuple[tuple[int, int], ...], value: int) -> float:
    for (left, low), (right, high) in pairwise(points):
        if value <= right:
            return low + (high - low) * (value - left) / (right - left)
    return points[-1][1]


def _average_around(table: list[float], value: int) -> float:
    reach = min(24, value, 255 - value)
    return sum(table[value - reach : value + reach + 1]) / (2 * reach + 1)


@lru_cache
def colour_table(change: Callable[[float, float, float], Colour]) -> ImageFilter.Color3DLUT:
    """A filter that applies any change of colours in one pass over the pixels."""
    return ImageFilter.Color3DLUT.generate(_LATTICE, change)


def luminance(colour: Colour) -> float:
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


def saturate(colour: Colour, amount: float) -> Colour:
    """0 is grey, 1 unchanged."""
    grey = luminance(colour)
    red, green, blue = (grey + (part - grey) * amount for part in colour)
    return red, green, blue


def grey(image: Image.Image, red: float, green: float, blue: float) -> Image.Image:
    """Black and white with a weight for each colour, as through a colour filter on the lens."""
    return image.convert("L", (red, green, blue, 0))


def to_rgb(mask: Image.Image) -> Image.Image:
    return Image.merge("RGB", (mask, mask, mask))


def ramp(tones: Image.Image, stops: dict[int, str]) -> Image.Image:
    """A gradient map: grey tones become the colours of `stops` (by tone, 0 to 255), interpolated in between."""
    points = [(tone, Image.new("RGB", (1, 1), colour).getpixel((0, 0))) for tone, colour in stops.items()]
    tables = [
        [round(_interpolate(tuple((tone, rgb[band]) for tone, rgb in points), value)) for value in range(256)]  # type: ignore[index]
        for band in range(3)
    ]
    return to_rgb(tones).point([value for table in tables for value in table])


def blur(image: Image.Image, radius: float) -> Image.Image:
    """A wide Gaussian blur, made on a reduced copy: the result has no detail that needs more pixels."""
    pixels = radius * unit(image)
    factor = max(1, int(pixels / 3))
    small = image.reduce(factor).filter(ImageFilter.GaussianBlur(pixels / factor))
    return small.resize(image.size, Image.Resampling.BILINEAR) if factor > 1 else small


@lru_cache
def _noise(seed: int, softness: float) -> Image.Image:
    tile = Image.frombytes("L", (_GRAIN_SIDE, _GRAIN_SIDE), Random(seed).randbytes(_GRAIN_SIDE**2))
    wrapped = Image.new("L", (_GRAIN_SIDE * 3, _GRAIN_SIDE * 3))
    for index in range(9):  # blurred between copies of itself, the tile has no seam
        wrapped.paste(tile, (index % 3 * _GRAIN_SIDE, index // 3 * _GRAIN_SIDE))
    box = (_GRAIN_SIDE, _GRAIN_SIDE, _GRAIN_SIDE * 2, _GRAIN_SIDE * 2)
    soft = wrapped.filter(ImageFilter.GaussianBlur(softness)).crop(box)
    low, high = _percentiles(soft)
    return soft.point([max(0, min(255, round((value - low) * 255 / (high - low)))) for value in range(256)])


def _percentiles(image: Image.Image) -> tuple[int, int]:
    """The 1st and the 99th percentile of the tones."""
    order = sorted(image.tobytes())
    return order[len(order) // 100], order[-len(order) // 100]


def noise(size: tuple[int, int], lump: float, *, softness: float = 0.8, seed: int = 7) -> Image.Image:
    """Noise around 128 whose lumps are `lump` thousandths of the longer side."""
    scale = max(1.0, lump * max(size) / 1000 / (softness * 2))
    width, height = int(size[0] / scale) + 2, int(size[1] / scale) + 2
    tiled = Image.new("L", (width, height))
    for top in range(0, height, _GRAIN_SIDE):
        for left in range(0, width, _GRAIN_SIDE):
            tiled.paste(_noise(seed, softness), (left, top))
    return tiled.resize(size, Image.Resampling.BILINEAR)


def add_grain(image: Image.Image, amount: int, lump: float = 0.7) -> Image.Image:
    """Film grain of up to `amount` levels, strongest in the mid-tones as in film."""
    speckle = noise(image.size, lump).point([128 + round((value - 128) * amount / 128) for value in range(256)])
    return ImageChops.overlay(image, speckle if image.mode == "L" else to_rgb(speckle))


def add_vignette(image: Image.Image, amount: float, start: float = 0.35) -> Image.Image:
    """Darkens the corners to `1 - amount`; inside `start` (a fraction of the half diagonal) nothing changes."""
    light = [round(255 * (1 - amount * max(0, (value / 255 - start) / (1 - start)) ** 1.8)) for value in range(256)]
    falloff = Image.radial_gradient("L").point(light).resize(image.size, BICUBIC)  # which is 255 in its corners
    return ImageChops.multiply(image, falloff if image.mode == "L" else to_rgb(falloff))


def edges(tones: Image.Image, width: float, gain: float) -> Image.Image:
    """Dark lines on white where the picture grows darker: a difference of two blurs, which ignores soft gradients."""
    radius = width * unit(tones)
    fine, wide = tones.filter(ImageFilter.GaussianBlur(radius)), tones.filter(ImageFilter.GaussianBlur(radius * 1.6))
    return ImageChops.subtract(fine, wide, 1 / gain, 255)


def working_copy(image: Image.Image, side: int) -> Image.Image:
    """A copy of at most `side` pixels a side, for filters that are too slow at full size."""
    scale = min(1, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, BICUBIC, reducing_gap=2.0)


def brush(image: Image.Image, radius: int, passes: int = 1) -> Image.Image:
    """Flat patches with crisp borders, like strokes of a brush (a Kuwahara filter).

    Each pixel becomes the mean of that one of the four squares around it whose tones differ least.
    """
    for _ in range(passes):
        image = _brush_once(image, radius)
    return image


def _brush_once(image: Image.Image, radius: int) -> Image.Image:
    width, height = image.size
    margin = radius + 1  # offset() wraps around: the margin keeps the opposite edge out
    canvas = image.resize((width + 2 * margin, height + 2 * margin))
    canvas.paste(image, (margin, margin))
    mean = canvas.filter(ImageFilter.BoxBlur(radius / 2))
    spread = ImageChops.difference(canvas, mean).convert("L").filter(ImageFilter.BoxBlur(radius / 2))
    best, least = _shift(mean, spread, radius, 0)
    for corner in range(1, 4):
        colour, unrest = _shift(mean, spread, radius, corner)
        calmer = ImageChops.subtract(least, unrest, 1 / 64)
        best = Image.composite(colour, best, calmer)
        least = ImageChops.darker(least, unrest)
    return best.crop((margin, margin, margin + width, margin + height))


def _shift(mean: Image.Image, spread: Image.Image, radius: int, corner: int) -> tuple[Image.Image, Image.Image]:
    across, down = (radius + 1) // 2 * (1, -1)[corner % 2], (radius + 1) // 2 * (1, -1)[corner // 2]
    return ImageChops.offset(mean, across, down), ImageChops.offset(spread, across, down)
