"""A test picture of our own: hot-air balloons over a mountain lake at sunset. Drawn, so that no photo must be shipped.

Rich in what looks work on: a sky of soft gradients, deep shadows, saturated colours, skin-like tones, fine texture.
"""

from __future__ import annotations

from io import BytesIO
from math import pi, sin
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

BICUBIC = Image.Resampling.BICUBIC
SKY = ["#24345f", "#47558c", "#8a6f9b", "#d98f86", "#f9b877", "#ffdf9c"]
SUN = (0.66, 0.49)  # in parts of width and height
BALLOONS = [  # centre, top and width in parts of the picture's sides; two colours
    (0.245, 0.055, 0.19, "#d7263d", "#f7e3c0"),
    (0.60, 0.035, 0.105, "#1b998b", "#f4d35e"),
    (0.835, 0.135, 0.135, "#f46036", "#2e294e"),
    (0.445, 0.235, 0.055, "#f4d35e", "#c8553d"),
]


def draw_photo() -> bytes:
    """The scene as a camera's JPEG."""
    exif = Image.Exif()
    exif.update({0x010F: "Photoslot", 0x0110: "Demo camera", 0x0112: 1})  # make, model, orientation: normal
    buffer = BytesIO()
    draw_scene().save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


def draw_scene(width: int = 3000, height: int = 2000) -> Image.Image:
    random, shore = Random(11), int(height * 0.66)
    picture = _draw_sky(random, width, height)
    for rise, colour in [(0.20, "#a9718a"), (0.145, "#75547f"), (0.085, "#423a63")]:
        _draw_mountains(random, picture, shore, int(height * rise), colour)
    for balloon in BALLOONS:
        _draw_balloon(picture, *balloon)
    picture.paste(_draw_water(random, picture, shore), (0, shore))
    _draw_firs(random, picture)
    grain = _make_noise(random, picture.size, width // 2).point(lambda value: value // 20 + 122)
    return ImageChops.add(picture.filter(ImageFilter.GaussianBlur(0.8)), _to_rgb(grain), 1, -128)


def _to_rgb(mask: Image.Image) -> Image.Image:
    return Image.merge("RGB", (mask, mask, mask))


def _make_noise(random: Random, size: tuple[int, int], columns: int, rows: int | None = None) -> Image.Image:
    """Smooth noise, so many lumps wide and high."""
    rows = rows or max(1, columns * size[1] // size[0])
    return Image.frombytes("L", (columns, rows), random.randbytes(columns * rows)).resize(size, BICUBIC)


def _draw_glow(size: tuple[int, int], centre: tuple[float, float], radius: int) -> Image.Image:
    light = Image.radial_gradient("L").point(lambda value: max(0, 180 - value) ** 2 // 127)  # 181 at its sides
    glow = Image.new("L", size)
    glow.paste(light.resize((radius * 2, radius * 2), BICUBIC), (int(centre[0]) - radius, int(centre[1]) - radius))
    return glow


def _draw_sky(random: Random, width: int, height: int) -> Image.Image:
    column = Image.new("RGB", (1, len(SKY) * 3 // 2), SKY[-1])
    for row, colour in enumerate(SKY):
        column.paste(colour, (0, row, 1, row + 1))
    sky, small = column.resize((width, height), BICUBIC), (width // 4, height // 4)
    veil = Image.blend(_make_noise(random, small, 6, 20), _make_noise(random, small, 20, 58), 0.4)
    veil = Image.blend(veil, _make_noise(random, small, 70, 160), 0.18).point(
        lambda value: max(0, min(190, value * 3 - 360))
    )
    sky.paste("#ffb99a", (0, 0), veil.resize(sky.size, BICUBIC))
    for radius, colour in [(0.7, "#ff9d5c"), (0.22, "#ffd28a"), (0.07, "#fff6dc")]:
        sky.paste(colour, (0, 0), _draw_glow(sky.size, (width * SUN[0], height * SUN[1]), int(width * radius)))
    return sky


def _draw_mountains(random: Random, picture: Image.Image, shore: int, rise: int, colour: str) -> None:
    phases = [random.uniform(0, 2 * pi) for _ in range(9)]

    def ridge(x: float) -> float:
        waves = sum(sin(x * 2 * pi * 1.7**n + phase) / 1.9**n for n, phase in enumerate(phases))
        return shore - rise * (0.62 + 0.3 * waves)

    mask, width = Image.new("L", picture.size), picture.width
    line = [(x, ridge(x / width)) for x in range(0, width + 8, 8)]
    ImageDraw.Draw(mask).polygon([(0, shore), *line, (width, shore)], fill=255)
    texture = _make_noise(random, picture.size, 160).point(lambda value: 200 + value // 5)
    slope = ImageChops.multiply(Image.new("RGB", picture.size, colour), _to_rgb(texture))
    haze = Image.linear_gradient("L").resize((width, rise * 2)).point(lambda value: value // 2)
    slope.paste("#e59a7e", (0, shore - rise * 2), haze)
    picture.paste(slope, (0, 0), mask.filter(ImageFilter.GaussianBlur(1.2)))


def _draw_balloon(picture: Image.Image, x: float, y: float, share: float, colour: str, stripe: str) -> None:
    size = int(picture.width * share) * 2  # drawn at twice the size, for smooth edges
    layer = Image.new("RGBA", (size, int(size * 1.45)))
    draw = ImageDraw.Draw(layer)
    for index, part in enumerate([1, 0.9, 0.7, 0.42, 0.13]):  # gores, seen in perspective
        fill, side, neck = (colour, stripe)[index % 2], 0.433 * part, 0.11 * part
        draw.chord((size * (1 - part) / 2, 0, size * (1 + part) / 2, size), 150, 30, fill)
        shape = [(0.5 - side, 0.745), (0.5 + side, 0.745), (0.5 + neck, 1.13), (0.5 - neck, 1.13)]
        draw.polygon([(size * across, size * down) for across, down in shape], fill)
    for side in (-1, 1):
        rope = (size * (0.5 + side * 0.1), size * 1.13, size * (0.5 + side * 0.055), size * 1.3)
        draw.line(rope, "#2b2231", size // 160 + 1)
    draw.rounded_rectangle((size * 0.435, size * 1.28, size * 0.565, size * 1.39), size * 0.02, "#6b4a35")
    light = ImageChops.invert(Image.radial_gradient("L")).resize((size * 2, size * 2))
    light = light.crop((size // 5, size // 2, size // 5 + size, size // 2 + layer.height))
    shaded = ImageChops.multiply(layer.convert("RGB"), _to_rgb(light.point(lambda value: min(255, 70 + value))))
    shaded.putalpha(layer.getchannel("A"))
    shaded = shaded.reduce(2)
    picture.paste(shaded, (int(picture.width * x) - shaded.width // 2, int(picture.width * y)), shaded)


def _draw_water(random: Random, picture: Image.Image, shore: int) -> Image.Image:
    """The mirrored land under ripples, with the sun's path."""
    size = width, depth = picture.width, picture.height - shore
    mirror = picture.crop((0, shore - int(depth * 1.5), width, shore)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    mirror = mirror.resize(size).filter(ImageFilter.BoxBlur((2, depth // 50)))
    ripples = Image.blend(_make_noise(random, size, 30, 150), _make_noise(random, size, 120, 330), 0.5)
    water = ImageChops.multiply(mirror, Image.new("RGB", size, "#a9b6cf"))
    water = ImageChops.soft_light(water, _to_rgb(ripples))
    glitter = ripples.point(lambda value: max(0, min(255, (value - 120) * 5)))
    path = ImageChops.multiply(_draw_glow(size, (width * SUN[0], depth / 3), int(width * 0.25)), glitter)
    water.paste("#ffd9a0", (0, 0), path)
    return water


def _draw_firs(random: Random, picture: Image.Image) -> None:
    """Dark at both sides: the black of the picture."""
    width, height = picture.size
    mask = Image.new("L", picture.size)
    draw = ImageDraw.Draw(mask)
    for _ in range(46):
        inward = abs(random.gauss(0, 0.055))
        x = width * random.choice((inward, 1 - inward))
        tall = height * random.uniform(0.16, 0.40) * max(0.2, 1 - inward * 3)
        top = height * random.uniform(0.97, 1.05) - tall
        for step in range(26):
            middle, half = top + tall * step / 28, tall * 0.006 * (step + 2) * random.uniform(0.7, 1.15)
            tip, hem = middle - tall * 0.06, middle + tall * 0.04
            draw.polygon([(x, tip), (x - half, hem), (x + half, hem)], fill=255)
    picture.paste("#14182a", (0, 0), mask)
