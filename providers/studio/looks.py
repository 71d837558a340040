"""The looks: each a function from one RGB picture to another of the same size.

A new look is a function here, its row in `LOOKS`, and its name in `LookName`. It must take well under two seconds for
12 MP on one core; slower filters work on a reduced copy (`darkroom.working_copy`, `darkroom.blur`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from core.image_work import BYTES_PER_PIXEL
from providers.studio.darkroom import (
    BICUBIC,
    Colour,
    add_grain,
    add_vignette,
    blur,
    brush,
    colour_table,
    curve,
    edges,
    grey,
    luminance,
    noise,
    ramp,
    saturate,
    to_rgb,
    unit,
    working_copy,
)

MANY_BYTES_PER_PIXEL: Final = 24  # of looks that have several copies of the photo at a time
FILM: Final = curve((0, 6), (48, 34), (128, 134), (200, 218), (255, 250))  # soft toe, firm middle, rolled-off lights
PUNCH: Final = curve((0, 0), (64, 46), (128, 132), (192, 212), (255, 255))
FADED: Final = curve((0, 34), (64, 74), (128, 136), (192, 196), (255, 240))
BRIGHT: Final = curve((0, 12), (64, 112), (128, 188), (192, 236), (255, 255))
HARD: Final = curve((0, 0), (60, 18), (120, 110), (180, 218), (255, 255))
INK: Final = [max(0, min(255, (value - 150) * 4)) for value in range(256)]  # a line is either black or absent
PAINT_SIDE: Final = 1600  # pixels; a 10×15 cm print at 300 dpi has 1800


def black_and_white(image: Image.Image) -> Image.Image:
    """A classic film: skin a little lighter than life, blue sky darker."""
    tones = grey(image, 0.42, 0.44, 0.14).point(FILM)
    return to_rgb(add_vignette(add_grain(tones, 30), 0.22))


def noir(image: Image.Image) -> Image.Image:
    """Through a red filter, hard and dark, with a glow around the lights."""
    tones = ImageOps.autocontrast(grey(image, 0.62, 0.34, 0.04), (1, 1)).point(HARD)
    glow = ImageChops.screen(tones, blur(tones, 9).point([value // 4 for value in range(256)]))
    return to_rgb(add_vignette(add_grain(glow, 38), 0.6, 0.25))


def sepia(image: Image.Image) -> Image.Image:
    tones = add_vignette(add_grain(grey(image, 0.30, 0.55, 0.15).point(FILM), 22), 0.3)
    return ramp(tones, {0: "#1c0f08", 70: "#5e3c22", 150: "#b58a5c", 215: "#ecd5ad", 255: "#fbf1dc"})


def duotone(image: Image.Image) -> Image.Image:
    tones = ImageOps.autocontrast(grey(image, 0.34, 0.52, 0.14), 1).point(PUNCH)
    return ramp(tones, {0: "#1b1464", 110: "#a3216f", 180: "#f4576b", 235: "#ffd9a8", 255: "#fff3df"})


def cyanotype(image: Image.Image) -> Image.Image:
    """The blue print of 1842, on rough paper."""
    tones = ImageOps.autocontrast(grey(image, 0.30, 0.52, 0.18), 1).point(FILM)
    print_ = ramp(tones, {0: "#0a1f3f", 90: "#1d4f86", 170: "#76a8cb", 230: "#dbe8ea", 255: "#f6f5ec"})
    return _add_paper(print_, 0.6)


def poster(image: Image.Image) -> Image.Image:
    """A screen print in five inks."""
    tones = grey(brush(working_copy(image, PAINT_SIDE), 3, 3), 0.34, 0.52, 0.14)
    tones = _equalise(tones).filter(ImageFilter.GaussianBlur(2.2)).resize(image.size, BICUBIC)
    return ramp(tones, _steps({46: "#14213d", 98: "#c1272d", 150: "#ee6c4d", 200: "#7fb7be", 255: "#fbf0d3"}))


def pencil_sketch(image: Image.Image) -> Image.Image:
    """Graphite on paper: lines where the picture turns darker, rubbed and hatched shadows."""
    tones = ImageOps.autocontrast(grey(image, 0.30, 0.55, 0.15), 1)
    soft = tones.filter(ImageFilter.GaussianBlur(unit(image) * 0.4))
    lines = ImageChops.subtract(soft, blur(tones, 5), 1 / 3.2, 255).point(
        curve((0, 40), (128, 90), (235, 238), (255, 255))
    )
    rubbed = tones.point(curve((0, 110), (90, 190), (170, 245), (255, 255)))
    hatched = ImageChops.lighter(_hatching(image.size), tones.point([min(255, value * 2 + 40) for value in range(256)]))
    drawing = ImageChops.multiply(ImageChops.multiply(lines, rubbed), hatched)
    return _add_paper(ramp(drawing, {0: "#23242a", 255: "#fcfaf4"}), 0.6)


def watercolour(image: Image.Image) -> Image.Image:
    """Line and wash: wet patches of clear colour over a pencil drawing, on paper with an unpainted edge."""
    small = ImageOps.autocontrast(working_copy(image, PAINT_SIDE), 1)
    lines = edges(grey(small, 0.30, 0.55, 0.15), 0.6, 3).point([max(95, value) for value in range(256)])
    wash = brush(small, 4, 3).filter(colour_table(_transparent_colour))
    blooms = noise(small.size, 40, seed=3).point([226 + value * 29 // 255 for value in range(256)])
    wash = ImageChops.multiply(wash, to_rgb(ImageChops.multiply(lines, blooms)))
    painted = wash.resize(image.size, BICUBIC)
    painted.paste("#fdfbf6", (0, 0), _bare_edge(image.size))
    return _add_paper(painted, 0.3)


def oil_painting(image: Image.Image) -> Image.Image:
    """Strokes of thick paint, lit from the upper left; a thin brush for the finest (eyes, lips)."""
    fine = working_copy(image, PAINT_SIDE)
    small = Image.blend(brush(fine, 5, 3), brush(fine, 2, 2), 0.4).filter(colour_table(_vivid_colour))
    bristles = ImageChops.add(small.convert("L"), noise(small.size, 3.5, seed=5).filter(ImageFilter.BoxBlur((4, 1))), 2)
    relief = bristles.filter(ImageFilter.Kernel((3, 3), (2, 1, 0, 1, 0, -1, 0, -1, -2), 3, 128))
    small = ImageChops.overlay(small, to_rgb(relief))
    return small.resize(image.size, BICUBIC)


def comic(image: Image.Image) -> Image.Image:
    """Flat colours, printed dots in the half shadows, lines of ink."""
    small = ImageOps.autocontrast(brush(working_copy(image, PAINT_SIDE), 4, 3), 1)
    flat = _flatten_colours(small).resize(image.size, BICUBIC)
    ink = edges(grey(small, 0.30, 0.59, 0.11), 0.9, 14).resize(image.size, BICUBIC).point(INK)
    tones = small.convert("L").resize(image.size, Image.Resampling.BILINEAR)
    dots = _halftone(tones.point(curve((0, 70), (70, 125), (140, 240), (200, 255), (255, 255))), 5)
    page = ImageChops.multiply(flat, ramp(dots, {0: "#8d83b8", 255: "#ffffff"}))
    return ImageChops.multiply(page, to_rgb(ink))


def pop_art(image: Image.Image) -> Image.Image:
    """The picture four times, each in other inks."""
    size = ((image.width + 1) // 2, (image.height + 1) // 2)
    tones = grey(brush(working_copy(image, PAINT_SIDE // 2), 2, 3), 0.34, 0.52, 0.14)
    tones = _equalise(tones).filter(ImageFilter.GaussianBlur(1.2)).resize(size, BICUBIC)
    result = Image.new("RGB", image.size)
    for index, inks in enumerate(POP_INKS):
        sheet = ramp(tones, _steps(dict(zip((62, 120, 185, 255), inks, strict=True))))
        result.paste(sheet, (index % 2 * (image.width - size[0]), index // 2 * (image.height - size[1])))
    return result


def vintage(image: Image.Image) -> Image.Image:
    """A print from the seventies: yellowed, faded, with a little light in the camera."""
    faded = image.filter(colour_table(_aged_colour)).point(FADED * 3)
    leak = Image.linear_gradient("L").rotate(90).point([max(0, value - 165) * 60 // 90 for value in range(256)])
    faded = ImageChops.screen(
        faded, ramp(leak.resize(image.size, BICUBIC), {0: "#000000", 60: "#6b3413", 255: "#6b3413"})
    )
    return add_vignette(add_grain(faded, 24), 0.38)


def faded_film(image: Image.Image) -> Image.Image:
    """Matt blacks, quiet colours, green shadows, creamy lights."""
    return add_grain(image.filter(colour_table(_matt_colour)), 18)


def cinematic(image: Image.Image) -> Image.Image:
    """Teal shadows, orange lights, a soft glow."""
    graded = image.filter(colour_table(_teal_orange_colour))
    glow = blur(graded, 12).point([max(0, value - 150) * 70 // 105 for value in range(256)] * 3)
    return add_vignette(ImageChops.screen(graded, glow), 0.38)


def warm(image: Image.Image) -> Image.Image:
    return image.filter(colour_table(_golden_colour))


def cool(image: Image.Image) -> Image.Image:
    return image.filter(colour_table(_icy_colour))


def vivid(image: Image.Image) -> Image.Image:
    """Deeper colours and more drawing in surfaces (local contrast)."""
    wide = ImageChops.invert(blur(image.convert("L"), 14))
    clearer = ImageChops.overlay(image, to_rgb(wide.point([112 + value // 8 for value in range(256)])))
    local = Image.blend(ImageChops.soft_light(image, to_rgb(ImageChops.add(image.convert("L"), wide, 2))), clearer, 0.3)
    return local.filter(colour_table(_vivid_colour))


def soft_glow(image: Image.Image) -> Image.Image:
    """The sharp picture under its own blurred light."""
    light = ImageChops.screen(image, blur(image, 11))
    return Image.blend(image, light, 0.6).point(curve((0, 0), (96, 74), (176, 170), (255, 252)) * 3)


def high_key(image: Image.Image) -> Image.Image:
    """Bright, airy, nearly without shadows."""
    lifted = image.filter(colour_table(_airy_colour)).point(BRIGHT * 3)
    return Image.blend(lifted, ImageChops.screen(lifted, blur(lifted, 16)), 0.25)


def vignette(image: Image.Image) -> Image.Image:
    return add_vignette(image, 0.8, 0.3)


POP_INKS: Final = (
    ("#3d0a5b", "#ff2e88", "#ffb400", "#fff36d"),
    ("#0b2545", "#0091ad", "#ff6f59", "#fff1d0"),
    ("#4a0d0d", "#e4002b", "#38c6f4", "#d8fff7"),
    ("#06362e", "#6a2c9c", "#7ed957", "#fff9a8"),
)


def _equalise(tones: Image.Image) -> Image.Image:
    """Equalises the histogram half way, so that every ink of a print is used in any photo."""
    return Image.blend(ImageOps.autocontrast(tones, 1), ImageOps.equalize(tones), 0.5)


def _steps(inks: dict[int, str]) -> dict[int, str]:
    """`ramp` stops for flat inks, each up to its tone; transitions of six levels keep the borders smooth."""
    stops: dict[int, str] = {}
    start = 0
    for tone, ink in inks.items():
        stops |= {start: ink, tone - (3 if tone < 255 else 0): ink}
        start = tone + 3
    return stops


def _flatten_colours(image: Image.Image) -> Image.Image:
    """Brightness in five steps, saturated colours: quantising red, green and blue separately would change hues."""
    hue, saturation, value = image.convert("HSV").split()
    saturation = saturation.point(curve((0, 0), (40, 62), (128, 190), (255, 255)))
    return Image.merge("HSV", (hue, saturation, value.point(_soft_levels(5)))).convert("RGB")


def _soft_levels(count: int) -> list[int]:
    """A tone table of `count` flat steps with short ramps between."""
    step = 255 / (count - 1)
    table = []
    for value in range(256):
        whole, part = divmod(value / step, 1)
        table.append(round((whole + max(0, min(1, (part - 0.42) / 0.16))) * step))
    return table


def _halftone(tones: Image.Image, pitch: float) -> Image.Image:
    """A halftone of dots `pitch` thousandths of the longer side apart: the darker the tone, the larger the dot."""
    cell = max(4, round(pitch * unit(tones))) // 2 * 2
    spot = Image.radial_gradient("L").resize((cell, cell), BICUBIC)
    tile = Image.new("L", (cell, cell * 2))
    tile.paste(spot)
    tile.paste(ImageChops.offset(spot, cell // 2, 0), (0, cell))
    screen = _repeat_tile(tile, tones.size)
    return ImageChops.subtract(tones, ImageChops.invert(screen), 1 / 6, 128)


def _repeat_tile(tile: Image.Image, size: tuple[int, int]) -> Image.Image:
    row, result = Image.new("L", (size[0], tile.height)), Image.new("L", size)
    for left in range(0, size[0], tile.width):
        row.paste(tile, (left, 0))
    for top in range(0, size[1], tile.height):
        result.paste(row, (0, top))
    return result


def _hatching(size: tuple[int, int]) -> Image.Image:
    """Slanting pencil strokes of pseudo-random darkness."""
    side = max(32, max(size) // 2)
    strokes = noise((side, max(2, side // 14)), 1.2, seed=9).resize((side, side), BICUBIC)
    slanted = strokes.rotate(38, BICUBIC, expand=False).crop((side // 5, side // 5, side * 4 // 5, side * 4 // 5))
    return slanted.resize(size, BICUBIC).point(curve((0, 150), (110, 190), (160, 255), (255, 255)))


def _bare_edge(size: tuple[int, int]) -> Image.Image:
    """255 where the brush did not reach: a ragged border of paper."""
    small = working_copy(Image.new("L", size), 500).size
    sheet = Image.new("L", small)
    margin = min(14, min(small) // 4)
    ImageDraw.Draw(sheet).rectangle((margin, margin, small[0] - 1 - margin, small[1] - 1 - margin), fill=255)
    ragged = Image.blend(sheet.filter(ImageFilter.GaussianBlur(5)), noise(small, 34, seed=4), 0.22)
    ragged = Image.blend(ragged, noise(small, 8, seed=6), 0.1)
    return ragged.resize(size, BICUBIC).point([max(0, min(255, (118 - value) * 14)) for value in range(256)])


def _add_paper(image: Image.Image, depth: float) -> Image.Image:
    """Adds the grain of drawing paper, `depth` from 0 to 1."""
    tooth = noise(image.size, 1.3, seed=1).point(
        [round(255 - max(0, 150 - value) * 0.4 * depth) for value in range(256)]
    )
    return ImageChops.multiply(image, to_rgb(tooth))


def _transparent_colour(red: float, green: float, blue: float) -> Colour:
    r, g, b = saturate((red, green, blue), 1.4)
    return _wash(r), _wash(g), _wash(b)


def _wash(value: float) -> float:
    return 0.16 + 0.84 * float(max(0.0, min(1.0, value)) ** 0.64)


def _vivid_colour(red: float, green: float, blue: float) -> Colour:
    spread = max(red, green, blue) - min(red, green, blue)
    r, g, b = saturate((red, green, blue), 1.45 - 0.3 * spread)  # pale colours gain most, full ones do not clip
    return _contrast(r, 0.18), _contrast(g, 0.18), _contrast(b, 0.18)


def _contrast(value: float, amount: float) -> float:
    value = max(0.0, min(1.0, value))
    return value + amount * (value * value * (3 - 2 * value) - value) * 2


def _aged_colour(red: float, green: float, blue: float) -> Colour:
    r, g, b = saturate((red, green, blue), 0.72)
    return r * 0.98 + 0.045, g * 0.93 + 0.03, b * 0.74 + 0.05


def _matt_colour(red: float, green: float, blue: float) -> Colour:
    r, g, b = saturate((red, green, blue), 0.74)
    light = max(0.0, luminance((r, g, b)))
    shade = 1 - light
    return (
        0.085 + 0.86 * _contrast(r, 0.1) + 0.035 * light - 0.025 * shade,
        0.095 + 0.86 * _contrast(g, 0.1) + 0.015 * light + 0.012 * shade,
        0.105 + 0.84 * _contrast(b, 0.1) - 0.045 * light + 0.012 * shade,
    )


def _teal_orange_colour(red: float, green: float, blue: float) -> Colour:
    light = luminance((red, green, blue))
    r, g, b = saturate((red, green, blue), 0.92)
    push = (light - 0.42) * 0.26  # below 0.42 shadows turn teal, above it lights turn orange
    warmth = red - blue
    r = r + push + 0.05 * max(0, warmth)
    g = g + push * 0.12 + 0.012 * (1 - light)
    b = b - push * 0.95 + 0.03 * max(0, -warmth)
    return _contrast(r, 0.3), _contrast(g, 0.3), _contrast(b, 0.26)


def _golden_colour(red: float, green: float, blue: float) -> Colour:
    r, g, b = saturate((red, green, blue), 1.1)
    light = luminance((red, green, blue))
    return r * 1.05 + 0.055 * light + 0.012, g * 1.01 + 0.02 * light, b * 0.87 - 0.01


def _icy_colour(red: float, green: float, blue: float) -> Colour:
    r, g, b = saturate((red, green, blue), 0.88)
    light = luminance((red, green, blue))
    return _contrast(r * 0.87, 0.12), _contrast(g * 0.98 + 0.01, 0.12), _contrast(b * 1.07 + 0.045 * (1 - light), 0.12)


def _airy_colour(red: float, green: float, blue: float) -> Colour:
    r, g, b = saturate((red, green, blue), 0.82)
    return r + 0.012, g + 0.004, b


@dataclass(frozen=True, slots=True)
class Look:
    label: str | Promise
    apply: Callable[[Image.Image], Image.Image]
    bytes_per_pixel: int = BYTES_PER_PIXEL  # of memory, measured at 24 MP with what decoding and encoding take


LookName = Literal[
    "black_and_white",
    "noir",
    "sepia",
    "duotone",
    "cyanotype",
    "poster",
    "pop_art",
    "comic",
    "pencil_sketch",
    "watercolour",
    "oil_painting",
    "vintage",
    "faded_film",
    "cinematic",
    "vivid",
    "warm",
    "cool",
    "soft_glow",
    "high_key",
    "vignette",
]

LOOKS: Final[Mapping[LookName, Look]] = {
    "black_and_white": Look(_("Black and white film"), black_and_white),
    "noir": Look(_("Film noir"), noir),
    "sepia": Look(_("Sepia"), sepia),
    "duotone": Look(_("Duotone"), duotone),
    "cyanotype": Look(_("Cyanotype (blue print)"), cyanotype),
    "poster": Look(_("Poster in five inks"), poster),
    "pop_art": Look(_("Pop art, four times"), pop_art),
    "comic": Look(_("Comic"), comic, MANY_BYTES_PER_PIXEL),
    "pencil_sketch": Look(_("Pencil sketch"), pencil_sketch, MANY_BYTES_PER_PIXEL),
    "watercolour": Look(_("Watercolour"), watercolour),
    "oil_painting": Look(_("Oil painting"), oil_painting),
    "vintage": Look(_("Vintage print"), vintage, MANY_BYTES_PER_PIXEL),
    "faded_film": Look(_("Faded film"), faded_film),
    "cinematic": Look(_("Cinematic"), cinematic, MANY_BYTES_PER_PIXEL),
    "vivid": Look(_("Vivid"), vivid),
    "warm": Look(_("Warm"), warm),
    "cool": Look(_("Cool"), cool),
    "soft_glow": Look(_("Soft glow"), soft_glow),
    "high_key": Look(_("High key"), high_key),
    "vignette": Look(_("Vignette"), vignette),
}
