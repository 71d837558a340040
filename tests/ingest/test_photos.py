"""Real pictures through the whole way: what booths send comes back as an upright picture of a common type."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import httpx
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from tests.conftest import Booth, jpeg, set_slot
from tests.ingest.helpers import form, nothing_left, refusal

pytestmark = pytest.mark.contract
register_heif_opener()

SIZE = (96, 64)
TAIL = b"PK\x03\x04<script>alert(1)</script>"
SLOT = "/ingest/slot-001"  # black and white film


def scene(mode: str = "RGB") -> Image.Image:
    """Dark on the left, light on the right."""
    image = Image.linear_gradient("L").rotate(90).resize(SIZE)
    if mode == "I;16":
        wide = image.convert("I")
        return wide.point(lambda value: value * 257).convert("I;16")
    return image.convert(mode)


def encode(file_format: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    scene(mode).save(out, file_format, **options)
    return out.getvalue()


def encode_animated(file_format: str) -> bytes:
    return encode(file_format, save_all=True, append_images=[Image.new("RGB", SIZE, "red")])


def encode_turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Secret Camera"
    return encode("JPEG", exif=exif)


def forge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def open_picture(reply: httpx.Response) -> Image.Image:
    """The picture of an answer, which must say what it is."""
    assert reply.status_code == 200, reply.text
    image = Image.open(io.BytesIO(reply.content))
    assert reply.headers["Content-Type"] == image.get_format_mimetype()
    assert reply.headers["Content-Length"] == str(len(reply.content))
    image.load()
    return image


def brightness(image: Image.Image, where: tuple[float, float]) -> int:
    value = image.convert("L").getpixel((int(where[0] * image.width), int(where[1] * image.height)))
    assert isinstance(value, int)
    return value


PHOTOS = {
    "JPEG": encode("JPEG"),
    "progressive JPEG": encode("JPEG", progressive=True),
    "grey JPEG": encode("JPEG", "L"),
    "CMYK JPEG": encode("JPEG", "CMYK"),
    "PNG": encode("PNG"),
    "PNG with palette": encode("PNG", "P"),
    "PNG with 16 bits": encode("PNG", "I;16"),
    "WebP": encode("WEBP"),
    "HEIC": encode("HEIF", quality=90),
    "JPEG with a tail": encode("JPEG") + TAIL,
    "PNG with a tail": encode("PNG") + TAIL,
}


@pytest.mark.parametrize("photo", PHOTOS.values(), ids=PHOTOS)
def test_each_kind_of_photo_comes_back_as_a_picture(web: httpx.Client, photo: bytes) -> None:
    reply = web.post(SLOT, **form(photo))
    image = open_picture(reply)
    assert image.size == SIZE
    assert brightness(image, (0.95, 0.5)) - brightness(image, (0.05, 0.5)) > 100
    assert TAIL not in reply.content


@pytest.mark.parametrize(("orientation", "dark"), [(3, (0.95, 0.5)), (6, (0.5, 0.05)), (8, (0.5, 0.95))])
def test_a_photo_lying_on_its_side_comes_back_upright(
    web: httpx.Client, orientation: int, dark: tuple[float, float]
) -> None:
    reply = web.post(SLOT, **form(encode_turned(orientation)))
    image = open_picture(reply)
    assert image.size == (SIZE if orientation == 3 else SIZE[::-1])
    assert not image.getexif()
    assert b"Secret Camera" not in reply.content
    assert brightness(image, (1 - dark[0], 1 - dark[1])) - brightness(image, dark) > 100


def test_a_cut_out_stays_one(web: httpx.Client) -> None:
    out = io.BytesIO()
    Image.new("RGBA", SIZE, (200, 0, 0, 0)).save(out, "PNG")
    image = open_picture(web.post(SLOT, **form(out.getvalue())))
    assert image.getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("mime_type", ["text/plain", "image/gif", "application/x-php"])
def test_name_and_declared_type_are_not_believed(web: httpx.Client, mime_type: str) -> None:
    files = {"fileToUpload": ("../../shell.php\x00.gif", encode("PNG"), mime_type)}
    assert open_picture(web.post(SLOT, data=form(b"")["data"], files=files)).size == SIZE


REFUSED = {
    "GIF": (encode("GIF"), 415, "unsupported_media_type"),
    "animated GIF": (encode_animated("GIF"), 415, "unsupported_media_type"),
    "animated PNG": (encode_animated("PNG"), 415, "unsupported_media_type"),
    "animated WebP": (encode_animated("WEBP"), 415, "unsupported_media_type"),
    "BMP": (encode("BMP"), 415, "unsupported_media_type"),
    "TIFF": (encode("TIFF"), 415, "unsupported_media_type"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_media_type"),
    "HTML called a photo": (b"<html>" + encode("JPEG"), 400, "invalid_payload"),
    "half a JPEG": (jpeg()[:-300], 400, "invalid_payload"),
    "half a PNG": (encode("PNG")[:-20], 400, "invalid_payload"),
    "half a WebP": (encode("WEBP")[:-20], 400, "invalid_payload"),
    "half a HEIC": (encode("HEIF")[:-100], 400, "invalid_payload"),
    "a bomb": (forge_png(10_001, 10_000), 413, "payload_too_large"),
    "a huge bomb": (forge_png(2**31 - 1, 2**31 - 1), 413, "payload_too_large"),
}


@pytest.mark.parametrize(("photo", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_photo_for_a_booth_is_refused(web: httpx.Client, photo: bytes, status: int, code: str) -> None:
    refusal(web.post(SLOT, **form(photo)), status, code)
    assert nothing_left()


def test_a_photo_that_breaks_only_when_it_is_decoded_is_named_as_the_cause(web: httpx.Client) -> None:
    """Admission decodes no pixel, so the provider finds a photo with a whole container and no pixels."""
    details = refusal(web.post(SLOT, **form(forge_png(100, 100))), 502, "provider_error")
    assert details["reason"] == "bad_photo"


def test_a_slot_with_a_print_size_gives_exactly_that(booth: Booth) -> None:
    set_slot(settings_json={"look": "warm", "output": {"width": 300, "height": 450, "format": "png"}})
    reply = booth.post(encode("JPEG"))
    assert reply.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(reply.body)).size == (300, 450)
