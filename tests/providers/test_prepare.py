"""Preparing a photo for a provider: what is removed, what is kept, and when it is encoded again."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat, PngImagePlugin

from core import images
from photoslot.demo_scene import draw_scene
from providers.base import Picture
from providers.prepare import TemplateCache, prepare

pytestmark = pytest.mark.unit

ALL = frozenset({"image/jpeg", "image/png", "image/webp"})
PHOTO = draw_scene(300, 200)
SECRETS = (b"GPS-HERE", b"XMP-HERE", b"COMMENT-HERE", b"MAKER-HERE")


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int = 1) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "MAKER-HERE"
    tags.get_ifd(0x8825)[0x1B] = b"GPS-HERE"
    return tags


def png_notes() -> PngImagePlugin.PngInfo:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "COMMENT-HERE")
    notes.add_itxt("XML:com.adobe.xmp", "XMP-HERE")
    return notes


NOTES: dict[str, Any] = {"exif": exif(), "xmp": b"XMP-HERE"}
JPEG = encode(PHOTO, "JPEG", quality=95, comment=b"COMMENT-HERE", **NOTES)
PROGRESSIVE = encode(PHOTO, "JPEG", quality=95, progressive=True, comment=b"COMMENT-HERE", **NOTES)
MPO = encode(PHOTO, "MPO", save_all=True, append_images=[PHOTO], quality=95, exif=exif())
PNG = encode(PHOTO, "PNG", pnginfo=png_notes(), exif=exif())
WEBP = encode(PHOTO, "WEBP", **NOTES)
CUT_OUT = Image.merge("RGBA", (*PHOTO.split(), PHOTO.getchannel("R")))


def send(data: bytes, mime_type: str = "image/jpeg", max_side: int = 2000, accepts: frozenset[str] = ALL) -> Picture:
    return prepare(Picture(data, mime_type), max_side=max_side, accepts=accepts)


def open_picture(picture: Picture) -> Image.Image:
    return Image.open(BytesIO(picture.data))


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, MPO, PNG, WEBP], ids=["jpeg", "progressive", "mpo", "png", "webp"])
def test_metadata_is_removed_and_every_pixel_stays(data: bytes) -> None:
    assert b"MAKER-HERE" in data
    sent = send(data)
    assert not [secret for secret in SECRETS if secret in sent.data]
    assert len(sent.data) < len(data)
    before, after = Image.open(BytesIO(data)).convert("RGB"), open_picture(sent).convert("RGB")
    assert ImageChops.difference(before, after).getbbox() is None
    assert not open_picture(sent).getexif()


def test_a_webp_no_longer_announces_what_it_lost() -> None:
    before, after = (data[20] & 0x0C for data in (WEBP, send(WEBP).data))  # the flags for EXIF and XMP
    assert (before, after) == (0x0C, 0)


def test_fill_bytes_and_restarts_are_read_over() -> None:
    data = encode(PHOTO, "JPEG", quality=95, restart_marker_blocks=1)
    filled = data[:2] + b"\xff\xff" + data[2:]
    assert send(filled).data == data


@pytest.mark.parametrize("tail", [b"", b"\xff\xfe\x00\x12COMMENT-HERE1234", JPEG])
def test_data_after_the_picture_is_removed(tail: bytes) -> None:
    data = encode(PHOTO, "JPEG", quality=95)
    assert send(data + tail).data == data


def test_a_photo_lying_on_its_side_is_turned() -> None:
    sent = send(encode(PHOTO.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif(6), quality=95))
    assert open_picture(sent).size == PHOTO.size
    assert max(ImageStat.Stat(ImageChops.difference(open_picture(sent), PHOTO)).mean) < 4
    assert b"GPS-HERE" not in sent.data


@pytest.mark.parametrize("size", [(6000, 4000), (4000, 6000), (6016, 4016), (3001, 3001)])
def test_a_large_photo_is_scaled_to_the_useful_side(size: tuple[int, int]) -> None:
    sent = send(encode(Image.new("RGB", size, "teal"), "JPEG", exif=exif()), max_side=3000)
    assert max(open_picture(sent).size) == 3000
    assert min(open_picture(sent).size) == pytest.approx(min(size) * 3000 / max(size), abs=1)


@pytest.mark.parametrize("accepts", [ALL, frozenset({"image/png"})])
def test_heic_is_converted_to_what_the_provider_takes(accepts: frozenset[str]) -> None:
    sent = send(encode(PHOTO, "HEIF", quality=95), "image/heic", accepts=accepts)
    assert sent.mime_type == ("image/jpeg" if "image/jpeg" in accepts else "image/png")
    assert images.probe(sent.data).mime_type == sent.mime_type


def test_the_type_is_read_from_the_bytes() -> None:
    assert send(PNG, "image/jpeg").mime_type == "image/png"


@pytest.mark.parametrize(("accepts", "mode"), [(ALL, "RGBA"), (frozenset({"image/jpeg"}), "RGB")])
def test_a_cut_out_stays_one_where_it_can(accepts: frozenset[str], mode: str) -> None:
    sent = send(encode(CUT_OUT, "PNG"), "image/png", max_side=150, accepts=accepts)
    assert open_picture(sent).mode == mode
    assert open_picture(sent).size == (150, 100)


def test_other_colours_are_converted_to_srgb() -> None:
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = swapped.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    sent = open_picture(send(encode(Image.new("RGB", (40, 40), (220, 30, 30)), "JPEG", icc_profile=swapped)))
    red, _, blue = sent.getpixel((20, 20))  # type: ignore[misc]
    assert blue > red + 100
    assert "icc_profile" not in sent.info


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_other_kinds_of_jpeg_become_rgb(mode: str) -> None:
    assert open_picture(send(encode(PHOTO.convert(mode), "JPEG"))).mode == "RGB"


def test_an_animation_becomes_its_first_frame() -> None:
    data = encode(PHOTO, "WEBP", save_all=True, append_images=[Image.new("RGB", PHOTO.size)], lossless=True)
    assert getattr(open_picture(send(data)), "n_frames", 1) == 1


@pytest.mark.parametrize("data", [b"", b"<html>", JPEG[:-700], PNG[:-700], WEBP[:60]])
def test_an_unreadable_picture_is_an_error(data: bytes) -> None:
    with pytest.raises(images.ImageError):
        send(data)


# Template images are prepared once.


def get_template(
    templates: TemplateCache, picture: Picture, max_side: int = 100, accepts: frozenset[str] = ALL
) -> Picture:
    return templates.prepare(picture, max_side=max_side, accepts=accepts)


def test_a_template_image_is_prepared_once_for_each_use() -> None:
    templates, picture = TemplateCache(10**6), Picture(PNG, "image/png")
    first = get_template(templates, picture)
    assert max(open_picture(first).size) == 100
    assert get_template(templates, Picture(bytes(bytearray(PNG)), "image/png")) is first  # the content counts
    assert get_template(templates, picture, max_side=80) is not first
    assert get_template(templates, picture, accepts=frozenset({"image/jpeg"})) is not first
    assert get_template(templates, Picture(JPEG, "image/jpeg")) is not first
    assert (get_template(templates, picture) is first, templates.hits) == (True, 2)


def test_the_least_recently_used_are_evicted() -> None:
    old, used, new = (
        Picture(encode(Image.new("RGB", (60, 40), c), "PNG"), "image/png") for c in ("red", "tan", "navy")
    )
    templates = TemplateCache(sum(len(picture.data) for picture in (old, used, new)) - 1)
    kept = get_template(templates, used)
    get_template(templates, old)
    assert get_template(templates, used) is kept
    get_template(templates, new)
    assert get_template(templates, used) is kept
    assert templates.hits == 2
    get_template(templates, old)
    assert templates.hits == 2


def test_one_that_is_too_large_alone_is_not_kept() -> None:
    templates = TemplateCache(10)
    assert get_template(templates, Picture(PNG, "image/png")) is not get_template(templates, Picture(PNG, "image/png"))


def test_an_unreadable_one_is_an_error_each_time() -> None:
    for _ in range(2):
        with pytest.raises(images.ImageError):
            get_template(TemplateCache(10**6), Picture(PNG[:-700], "image/png"))
