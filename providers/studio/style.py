"""Style transfer without a model: gives a photo the palette and the light of another picture.

Two things are transferred, in a colour space that separates lightness from colour (Oklab): the distribution of
lightness, and for each lightness the mean colour that the style has there, so that blue shadows stay in the shadows.
Both are computed on thumbnails and applied as one colour table, so that the cost does not depend on the style.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from PIL import Image, ImageFilter

from core.images import flatten

Lab = tuple[float, float, float]  # Oklab: lightness 0 to 1, green to red and blue to yellow about -0.3 to 0.3

_SIDE: Final = 72  # pixels a side of the thumbnails; more changes the result by less than one tone
_BANDS: Final = 16  # of lightness; fewer mix shadows with mid-tones, more have too few pixels for a reliable mean
_LATTICE: Final = 17
_TONES: Final = 0.65  # the share of the style's light; all of it would destroy the photo's own contrasts
_STEEPEST, _FLATTEST = 2.0, 0.45  # limits of the tone curve's slope; beyond them noise shows, or the picture turns flat
_OWN_COLOUR: Final = 0.55  # the share of the photo's own colour differences (lips, clothes) that is kept


@dataclass(frozen=True, slots=True)
class Palette:
    """A picture's lightness at each percentile, the mean colour of each band, and the spread of its colours."""

    tones: list[float]  # 101 values
    colours: list[tuple[float, float]]  # `_BANDS` values
    spread: float


def transfer_style(photo: Image.Image, style: Image.Image) -> Image.Image:
    """`photo` (mode RGB) in the palette and light of `style`."""
    own, wanted = palette(photo), palette(style)
    tones = _tone_curve(own.tones, wanted.tones)
    richness = max(0.5, min(1.0, wanted.spread / (own.spread or 1))) * _OWN_COLOUR

    def change(red: float, green: float, blue: float) -> tuple[float, float, float]:
        lightness, a, b = to_oklab(red, green, blue)
        old_a, old_b = _colour_at(own.colours, lightness)
        lightness = _interpolate(tones, lightness)
        new_a, new_b = _colour_at(wanted.colours, lightness)
        return to_srgb(lightness, new_a + (a - old_a) * richness, new_b + (b - old_b) * richness)

    return photo.filter(ImageFilter.Color3DLUT.generate(_LATTICE, change))


def palette(image: Image.Image) -> Palette:
    small = flatten(image).resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    raw = small.tobytes()
    pixels = sorted(to_oklab(raw[i] / 255, raw[i + 1] / 255, raw[i + 2] / 255) for i in range(0, len(raw), 3))
    tones = [pixels[min(len(pixels) - 1, len(pixels) * percent // 100)][0] for percent in range(101)]
    mean_a, mean_b = _mean(pixels)
    spread = (sum((a - mean_a) ** 2 + (b - mean_b) ** 2 for _, a, b in pixels) / len(pixels)) ** 0.5
    return Palette(tones, [_band_colour(pixels, (band + 0.5) / _BANDS) for band in range(_BANDS)], spread)


def _mean(pixels: list[Lab]) -> tuple[float, float]:
    return sum(a for _, a, _ in pixels) / len(pixels), sum(b for *_, b in pixels) / len(pixels)


def _band_colour(pixels: list[Lab], centre: float) -> tuple[float, float]:
    """The mean colour weighted by distance in lightness: a band without pixels takes its neighbours' colour."""
    total = sum_a = sum_b = 0.0
    for lightness, a, b in pixels[::3]:
        weight = 1 / (1 + ((lightness - centre) * _BANDS) ** 4)
        total, sum_a, sum_b = total + weight, sum_a + weight * a, sum_b + weight * b
    return sum_a / total, sum_b / total


def _tone_curve(own: list[float], wanted: list[float]) -> list[float]:
    """The new lightness for 65 steps of the old one: monotonic, neither too steep nor too flat."""
    target = [(1 - _TONES) * step / 64 + _TONES * _match_lightness(own, wanted, step / 64) for step in range(65)]
    curve = [target[0]]
    for before, after in pairwise(target):
        curve.append(curve[-1] + max(_FLATTEST / 64, min(_STEEPEST / 64, after - before)))
    drift = sum(new - old for new, old in zip(curve, target, strict=True)) / 65
    return [max(0.0, min(1.0, value - drift)) for value in curve]


def _match_lightness(own: list[float], wanted: list[float], lightness: float) -> float:
    """The style's lightness at the percentile that `lightness` has in the photo (histogram matching)."""
    if lightness <= own[0]:
        return wanted[0] * lightness / (own[0] or 1)
    for percent, (low, high) in enumerate(pairwise(own)):
        if lightness <= high:
            part = (lightness - low) / ((high - low) or 1)
            return wanted[percent] + (wanted[percent + 1] - wanted[percent]) * part
    return 1 - (1 - wanted[-1]) * (1 - lightness) / ((1 - own[-1]) or 1)


def _colour_at(colours: list[tuple[float, float]], lightness: float) -> tuple[float, float]:
    position = max(0.0, min(_BANDS - 1.001, lightness * _BANDS - 0.5))
    index, part = int(position), position % 1
    (low_a, low_b), (high_a, high_b) = colours[index], colours[index + 1]
    rim = min(1.0, 12 * lightness, 12 * max(0.0, 1 - lightness))  # black and white themselves have no colour
    return (low_a + (high_a - low_a) * part) * rim, (low_b + (high_b - low_b) * part) * rim


def _interpolate(table: list[float], value: float) -> float:
    position = max(0.0, min(len(table) - 1.001, value * (len(table) - 1)))
    index = int(position)
    return table[index] + (table[index + 1] - table[index]) * (position - index)


def to_oklab(red: float, green: float, blue: float) -> Lab:
    r, g, b = _to_linear(red), _to_linear(green), _to_linear(blue)
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    middle = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


def to_srgb(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """Components from 0 to 1; colours outside of sRGB are clipped."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _apply_gamma(4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short),
        _apply_gamma(-1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short),
        _apply_gamma(-0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short),
    )


def _to_linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def _apply_gamma(value: float) -> float:
    value = max(0.0, min(1.0, value))
    return value * 12.92 if value <= 0.0031308 else float(1.055 * value ** (1 / 2.4) - 0.055)
