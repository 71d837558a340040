from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageCms, ImageOps

from core import images
from photoslot.demo_scene import draw_photo, draw_scene

pytestmark = pytest.mark.unit

RED, BLUE, WHITE = (220, 30, 30), (20, 40, 200), (255, 255, 255)


def halves(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def near(left: Any, right: tuple[int, ...], tolerance: int = 12) -> bool:
    return len(left) == len(right) and all(abs(a - b) <= tolerance for a, b in zip(left, right, strict=True))


def looks_like_halves(image: Image.Image, tolerance: int = 12) -> bool:
    middle = image.height // 2
    left, right = image.getpixel((5, middle)), image.getpixel((image.width - 6, middle))
    return image.mode == "RGB" and near(left, RED, tolerance) and near(right, BLUE, tolerance)


@pytest.mark.parametrize(
    "data",
    [
        encode(halves(), "JPEG", quality=95),
        encode(halves(), "PNG"),
        encode(halves(), "WEBP", quality=95),
        encode(halves(), "HEIF", quality=95),
        encode(halves().quantize(4), "PNG"),
        encode(halves(), "WEBP", save_all=True, append_images=[ImageOps.mirror(halves())], lossless=True),
        encode(halves(), "PNG", save_all=True, append_images=[ImageOps.mirror(halves())]),
        encode(halves(), "MPO", save_all=True, append_images=[ImageOps.mirror(halves())], quality=95),
    ],
    ids=["jpeg", "png", "webp", "heic", "palette", "animated webp", "animated png", "mpo"],
)
def test_every_kind_of_file_becomes_the_same_picture(data: bytes) -> None:
    image = images.decode(data)
    assert image.size == (60, 40)
    assert looks_like_halves(image)
    assert image.info == {}


def test_cmyk_becomes_rgb() -> None:
    assert looks_like_halves(images.decode(encode(halves().convert("CMYK"), "JPEG", quality=95)))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    image = images.decode(encode(Image.new("I;16", (4, 4), 0x8000), "PNG"))
    assert image.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_rgb(mode: str) -> None:
    image = images.decode(encode(Image.new("L", (4, 4), 255).convert(mode), "PNG"))
    assert image.mode == ("RGBA" if mode == "LA" else "RGB")
    assert image.getpixel((0, 0))[:3] == WHITE  # type: ignore[index]


def test_transparency_is_kept() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([*RED, *BLUE])
    image = images.decode(encode(palette, "PNG", transparency=0))
    assert image.getpixel((0, 0)) == (*RED, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_gone(orientation: int) -> None:
    corner = Image.new("RGB", (64, 48), WHITE)
    corner.paste(RED, (0, 0, 32, 24))  # upright, the red corner is at the upper left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a camera held that way would store
    stored = corner if orientation == 1 else corner.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, "JPEG", exif=exif, quality=95)
    image = images.decode(data)
    assert image.size == (64, 48)
    assert near(image.getpixel((4, 4)), RED)
    assert near(image.getpixel((60, 44)), WHITE)
    header = images.probe(data)
    assert (header.width, header.height, header.is_plain) == (64, 48, orientation == 1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own remark on it
def test_garbled_exif_does_not_cost_the_photo() -> None:
    assert looks_like_halves(images.decode(encode(halves(), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")))


def test_a_colour_profile_is_converted() -> None:
    swapped = _profile_with_red_and_blue_exchanged()
    image = images.decode(encode(halves(), "PNG", icc_profile=swapped))
    red, _, blue = image.getpixel((5, 20))  # type: ignore[misc]
    assert blue > red + 100


def _profile_with_red_and_blue_exchanged() -> bytes:
    """sRGB whose red primary is called blue: stored red means blue."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")


@pytest.mark.parametrize(
    "profile", [b"no profile at all", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()]
)
def test_a_useless_profile_is_ignored(profile: bytes) -> None:
    assert looks_like_halves(images.decode(encode(halves(), "JPEG", quality=95, icc_profile=profile)))


JPEG, PNG = encode(draw_scene(300, 200), "JPEG"), encode(draw_scene(300, 200), "PNG")
HEIC = encode(draw_scene(300, 200), "HEIF")


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"GIF89a" + bytes(50), JPEG[:-900], PNG[: len(PNG) // 2], HEIC[: len(HEIC) // 2], PNG[:40]],
    ids=["empty", "magic only", "gif", "cut jpeg", "cut png", "cut heic", "header only"],
)
def test_what_is_not_a_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(images.ImageError):
        images.decode(data)


@pytest.mark.parametrize("read", [images.decode, images.probe])
def test_too_many_pixels_are_refused_from_the_header(read: Any) -> None:
    with pytest.raises(images.TooManyPixels):
        read(PNG[:60], max_pixels=300 * 200 - 1)  # there is nothing behind the header that could be decoded


@pytest.mark.parametrize("whole", [JPEG, PNG], ids=["jpeg", "png"])
def test_probe_may_look_for_the_end(whole: bytes) -> None:
    assert images.probe(whole, must_end=True) == images.probe(whole[:-900]) == images.probe(whole)
    with pytest.raises(images.ImageError, match="cut short"):
        images.probe(whole[:-900], must_end=True)


def test_probe_reads_a_header_and_checks_the_type() -> None:
    assert images.probe(JPEG) == images.Header("image/jpeg", 300, 200, True)
    assert images.probe(HEIC).mime_type == "image/heic"
    with pytest.raises(images.ImageError, match="image/heic"):
        images.probe(HEIC, mime_types=images.FORMATS)


def test_a_cmyk_file_is_not_plain() -> None:
    assert not images.probe(encode(halves().convert("CMYK"), "JPEG")).is_plain


@pytest.mark.parametrize(("description", "plain"), [("sRGB IEC61966", True), ("Wide Gamut, X", False)])
def test_a_file_is_plain_if_its_profile_says_srgb(description: str, plain: bool) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    named = profile.replace("sRGB built-in".encode("utf-16-be"), description.encode("utf-16-be"))
    assert images.probe(encode(halves(), "JPEG", icc_profile=named)).is_plain == plain


@pytest.mark.parametrize("size", [(1200, 800), (800, 1200)])
def test_a_picture_is_scaled_down_to_the_useful_pixels(size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = images.decode(encode(Image.new("RGB", size), "JPEG", exif=exif), useful_pixels=150_000)
    assert image.size == ((316, 474) if size[0] > size[1] else (474, 316))


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_encode_writes_what_it_says(format: images.Format) -> None:
    data = images.encode(halves(), format, 95)
    assert images.probe(data).mime_type == images.MIME_TYPES[format]
    assert looks_like_halves(images.decode(data))


def test_jpeg_shows_white_where_nothing_was() -> None:
    image = images.decode(images.encode(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "jpeg"))
    assert image.getpixel((8, 8)) == WHITE


def test_small_jpegs_keep_their_colour_resolution() -> None:
    stripes = Image.new("RGB", (32, 32), WHITE)
    for x in range(0, 32, 2):
        stripes.paste(RED, (x, 0, x + 1, 32))
    assert near(images.decode(images.encode(stripes, "jpeg", 98)).getpixel((8, 16)), RED)


@pytest.mark.parametrize(
    ("width", "height", "mode", "expected"),
    [
        (30, 30, "cover", (30, 30)),
        (30, 30, "contain", (30, 30)),
        (120, None, "cover", (120, 80)),
        (None, 10, "contain", (15, 10)),
        (None, None, "cover", (60, 40)),
    ],
)
def test_fit_gives_the_exact_size(width: int, height: int, mode: images.Fit, expected: tuple[int, int]) -> None:
    assert images.fit(halves(), width, height, mode).size == expected


def test_cover_crops_from_the_centre() -> None:
    result = images.fit(halves((90, 30)), 30, 30, "cover")
    assert near(result.getpixel((2, 15)), RED)
    assert near(result.getpixel((27, 15)), BLUE)


def test_contain_shows_everything_on_white() -> None:
    result = images.fit(halves().convert("RGBA"), 60, 60, "contain")
    assert result.mode == "RGB"
    assert looks_like_halves(result)
    assert result.getpixel((30, 4)) == result.getpixel((30, 55)) == WHITE


def test_overlay_stretches_the_frame_and_shows_the_photo_through_its_hole() -> None:
    frame = Image.new("RGBA", (20, 20), (0, 200, 0, 255))
    frame.paste((0, 0, 0, 0), (5, 5, 15, 15))
    result = halves()
    images.overlay(result, frame)
    assert result.size == (60, 40)
    assert [result.getpixel(point) for point in [(1, 1), (26, 20), (36, 20)]] == [(0, 200, 0), RED, BLUE]


def test_the_demo_photo_is_a_cameras_and_always_the_same() -> None:
    data = draw_photo()
    with Image.open(BytesIO(data)) as image:
        assert image.getexif()[0x0112] == 1
        assert image.getexif()[0x0110] == "Demo camera"
    assert images.probe(data) == images.Header("image/jpeg", 3000, 2000, True)
    assert draw_scene(300, 200).tobytes() == draw_scene(300, 200).tobytes()


def encode_too_wide(mode: str = "RGB") -> bytes:
    return encode(Image.new(mode, (images.MAX_SIDE + 1, 1)), "PNG")


def test_a_side_that_no_jpeg_can_have_is_refused() -> None:
    for use in (images.probe, images.decode):
        with pytest.raises(images.TooManyPixels):
            use(encode_too_wide())
    assert images.decode(encode(Image.new("L", (images.MAX_SIDE, 1)), "PNG")).width == images.MAX_SIDE


@pytest.mark.parametrize(("format", "side"), [("jpeg", images.MAX_SIDE), ("webp", 16_383)])
def test_what_a_format_cannot_hold_is_an_error_of_the_image(format: images.Format, side: int) -> None:
    assert images.probe(images.encode(Image.new("RGB", (side, 1)), format)).width == side
    with pytest.raises(images.ImageError):
        images.encode(Image.new("RGB", (side + 1, 1)), format)


@pytest.mark.parametrize(
    ("size", "width", "max_side"),
    [((2, 300), 8192, images.MAX_SIDE), ((700, 9), None, 16_383), ((17_000, 300), None, 16_383)],
)
def test_what_would_be_too_large_is_as_large_as_can_be(size: tuple[int, int], width: int | None, max_side: int) -> None:
    height = 8192 if width is None and size[1] < 300 else None
    result = images.fit(Image.new("RGB", size), width, height, max_side=max_side)
    assert max_side * 0.5 < max(result.size) <= max_side
    assert result.width * result.height <= images.MAX_SCALED_PIXELS
    assert result.width / result.height == pytest.approx(size[0] / size[1], rel=0.02)
