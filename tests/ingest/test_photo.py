from __future__ import annotations

import hashlib
import random
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from typing import Any, BinaryIO

import pytest
from PIL import Image, ImageChops
from pillow_heif import register_heif_opener

from ingest.photo import NotAPhoto, PhotoInfo, PhotoRefused, TooManyPixels, UnsupportedPhoto, hash_file, probe

pytestmark = pytest.mark.unit
register_heif_opener()

SIZE = (64, 48)


@cache
def picture(mode: str = "RGB") -> Image.Image:
    channels = [Image.radial_gradient("L").resize(SIZE), Image.linear_gradient("L").resize(SIZE)]
    rgb = Image.merge("RGB", [*channels, ImageChops.invert(channels[0])])
    return channels[0].convert("I;16") if mode == "I;16" else rgb.convert(mode)


@cache
def encode(file_format: str, mode: str = "RGB", **options: Any) -> bytes:
    out = BytesIO()
    picture(mode).save(out, file_format, **options)
    return out.getvalue()


def encode_animated(file_format: str) -> bytes:
    out = BytesIO()
    picture().save(out, file_format, save_all=True, append_images=[ImageChops.invert(picture())])
    return out.getvalue()


def make_jpeg_with_thumbnail() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    segment = b"Exif\0\0" + exif.tobytes()[6:] + encode("JPEG", quality=20)
    jpeg = encode("JPEG", quality=90)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def make_jpeg_with_fill_bytes() -> bytes:
    jpeg = encode("JPEG")
    return jpeg[:2] + b"\xff" * 7 + jpeg[2:]


PHOTOS = {
    "jpeg": encode("JPEG"),
    "jpeg progressive": encode("JPEG", progressive=True),
    "jpeg with restart markers": encode("JPEG", restart_marker_blocks=1),
    "jpeg cmyk": encode("JPEG", "CMYK"),
    "jpeg grey": encode("JPEG", "L"),
    "jpeg with thumbnail": make_jpeg_with_thumbnail(),
    "jpeg with fill bytes": make_jpeg_with_fill_bytes(),
    "png": encode("PNG"),
    "png 16 bit": encode("PNG", "I;16"),
    "png palette": encode("PNG", "P"),
    "webp lossy": encode("WEBP"),
    "webp lossless": encode("WEBP", lossless=True),
    "webp extended": encode("WEBP", "RGBA", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "heic": encode("HEIF"),
    "heif": encode("HEIF").replace(b"ftypheic", b"ftypmif1", 1),
}
ALL = pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in PHOTOS.items()])


def probe_bytes(data: bytes, max_pixels: int = 1_000_000) -> PhotoInfo:
    return probe(BytesIO(data), max_pixels=max_pixels)


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def insert_png_chunks(*chunks: bytes) -> bytes:
    png = encode("PNG")
    return png[:33] + b"".join(chunks) + png[33:]  # after IHDR


def forge_png(width: int, height: int) -> bytes:
    png = encode("PNG")
    return png[:8] + png_chunk(b"IHDR", struct.pack(">II", width, height) + png[24:29]) + png[33:]


def forge_jpeg(width: int, height: int) -> bytes:
    claim = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width)
    return re.sub(rb"\xff\xc0\0\x11\x08.{4}", lambda _: claim, encode("JPEG"), flags=re.DOTALL)


def forge_heic(width: int, height: int) -> bytes:
    claim = b"ispe\0\0\0\0" + struct.pack(">II", width, height)
    return re.sub(rb"ispe\0{4}.{8}", lambda _: claim, encode("HEIF"), flags=re.DOTALL)


def forge_webp(width: int, height: int) -> bytes:
    webp = PHOTOS["webp extended"]
    return webp[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + webp[30:]


@pytest.mark.parametrize(("name", "mime_type", "extension"), [
    ("jpeg cmyk", "image/jpeg", "jpg"),
    ("png 16 bit", "image/png", "png"),
    ("webp lossy", "image/webp", "webp"),
    ("heic", "image/heic", "heic"),
    ("heif", "image/heif", "heif"),
])  # fmt: skip
def test_each_format_is_detected_by_its_bytes(name: str, mime_type: str, extension: str) -> None:
    info = probe_bytes(PHOTOS[name])

    assert (info.mime_type, info.extension) == (mime_type, extension)
    assert info.format == ("heic" if extension == "heif" else mime_type.removeprefix("image/"))


@ALL
def test_size_is_as_stored(data: bytes) -> None:
    info = probe_bytes(data)

    assert (info.width, info.height) == SIZE


@ALL
def test_cut_short_is_not_a_photo(data: bytes) -> None:
    end = len(data)
    cuts = {1, 2, 3, 4, 8, 12, 16, 29, 30, *range(40, end, max(1, end // 60)), end - 12, end - 4, end - 2, end - 1}

    passed = [cut for cut in sorted(cuts) if not is_refused(data[:cut])]

    assert passed == []


def is_refused(data: bytes) -> bool:
    try:
        probe_bytes(data)
    except NotAPhoto:
        return True
    return False


@ALL
def test_flipped_bytes_end_in_our_errors_only(data: bytes) -> None:
    source = random.Random(2)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(source.randint(1, 8)):
            damaged[source.randrange(min(len(data), 700))] = source.randrange(256)
        try:
            probe_bytes(bytes(damaged))
        except PhotoRefused:
            continue
        Image.open(BytesIO(damaged)).close()  # what passes, Pillow opens


def test_mpo_is_the_jpeg_it_begins_with() -> None:
    mpo = encode_animated("MPO")

    assert Image.open(BytesIO(mpo)).format == "MPO"
    assert probe_bytes(mpo).mime_type == "image/jpeg"


@pytest.mark.parametrize("tail", [b"PK\x03\x04 an archive", b"<script>alert(1)</script>", b"\0" * 4096])
@pytest.mark.parametrize("name", ["jpeg", "png", "webp lossy"])
def test_what_follows_the_end_is_ignored(name: str, tail: bytes) -> None:
    assert probe_bytes(PHOTOS[name] + tail) == probe_bytes(PHOTOS[name])


def test_jpeg_padded_after_a_cut_is_not_a_photo() -> None:
    with pytest.raises(NotAPhoto):
        probe_bytes(make_jpeg_with_thumbnail()[:-2] + b"\0" * 4096)


def test_png_without_pixels_is_not_a_photo() -> None:
    with pytest.raises(NotAPhoto, match="without pixels"):
        probe_bytes(encode("PNG")[:33] + png_chunk(b"IEND", b""))


@pytest.mark.parametrize("data", [
    b"", b"\0", b"\xff\xd8\xff", b"plain words", b"BMW is a car", b"%PDF-1.7", b"MZ\x90\0",
    b"\0\0\0\x18ftypisom\0\0\0\0", b"<!DOCTYPE html><html><svg></svg>",
    b"PK\x03\x04" + encode("JPEG"), b"<html>" + encode("PNG"),
])  # fmt: skip
def test_anything_else_is_not_a_photo(data: bytes) -> None:
    with pytest.raises(NotAPhoto):
        probe_bytes(data)


@pytest.mark.parametrize(("found", "data"), [
    ("gif", encode("GIF", "P")),
    ("gif", encode_animated("GIF")),
    ("bmp", encode("BMP")),
    ("tiff", encode("TIFF")),
    ("avif", encode("AVIF")),
    ("heif without hevc", encode("AVIF").replace(b"ftypavif", b"ftypmif1", 1)),
    ("heic sequence", encode("HEIF").replace(b"ftypheic", b"ftyphevc", 1)),
    ("jpeg 2000", encode("JPEG2000")),
    ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ("svg", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn --><svg/>"),
    ("animated png", encode_animated("PNG")),
    ("animated webp", encode_animated("WEBP")),
])  # fmt: skip
def test_other_images_are_named(found: str, data: bytes) -> None:
    with pytest.raises(UnsupportedPhoto) as refusal:
        probe_bytes(data)

    assert refusal.value.found == found


BOMBS = [forge_jpeg, forge_png, forge_heic, forge_webp]


@pytest.mark.parametrize("forge", BOMBS)
@pytest.mark.parametrize("side", [12_000, 65_535])
def test_a_bomb_is_refused_by_its_header(forge: Callable[[int, int], bytes], side: int) -> None:
    with pytest.raises(TooManyPixels) as refusal:
        probe_bytes(forge(side, side), max_pixels=100_000_000)

    assert (refusal.value.limit, refusal.value.found) == (100_000_000, side * side)


@pytest.mark.parametrize("forge", [forge_jpeg, forge_png, forge_heic])
def test_the_limit_itself_is_allowed(forge: Callable[[int, int], bytes]) -> None:
    probe_bytes(forge(1000, 1000), max_pixels=1_000_000)
    with pytest.raises(TooManyPixels):
        probe_bytes(forge(1000, 1001), max_pixels=1_000_000)


def test_a_heic_is_counted_before_its_crop() -> None:
    out = BytesIO()
    picture().resize((65, 67)).save(out, "HEIF")  # stored as 66 × 68 and cropped

    assert probe_bytes(out.getvalue(), max_pixels=66 * 68).width == 65
    with pytest.raises(TooManyPixels):
        probe_bytes(out.getvalue(), max_pixels=65 * 67)


def test_damage_goes_before_size_and_size_before_type() -> None:
    with pytest.raises(NotAPhoto):
        probe_bytes(forge_png(20_000, 20_000)[:-1], max_pixels=1)
    with pytest.raises(TooManyPixels):
        probe_bytes(encode_animated("PNG"), max_pixels=1)
    with pytest.raises(TooManyPixels):
        probe_bytes(encode("GIF", "P"), max_pixels=1)


@pytest.mark.parametrize("chunks", [
    [png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))],
    [png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(900_000)))] * 2,
    [png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(80_000_000)))],
    [png_chunk(b"tEXt", b"a\0" + bytes(9_000_000))] * 2,
], ids=["text", "profiles", "profile", "header"])  # fmt: skip
def test_png_that_swells_is_not_a_photo(chunks: list[bytes]) -> None:
    with pytest.raises(NotAPhoto):
        probe_bytes(insert_png_chunks(*chunks))


@pytest.mark.parametrize(
    "stuffing", [b"\xff" * 300_000, (b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)) * 260], ids=["fill", "exif"]
)
def test_endless_jpeg_header_is_not_a_photo(stuffing: bytes) -> None:
    jpeg = encode("JPEG")

    with pytest.raises(NotAPhoto, match="header too long"):
        probe_bytes(jpeg[:2] + stuffing + jpeg[2:])


def test_refusals_do_not_quote_the_file() -> None:
    with pytest.raises(NotAPhoto) as refusal:
        probe_bytes(insert_png_chunks(png_chunk(b"SP M", b"")))  # Pillow's message has the chunk's name

    assert str(refusal.value) == "unreadable (SyntaxError)"
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize("make", [
    BytesIO,
    tempfile.TemporaryFile,
    partial(tempfile.SpooledTemporaryFile, max_size=10_000_000),
    partial(tempfile.SpooledTemporaryFile, max_size=1),
], ids=["memory", "disk", "spooled", "spooled to disk"])  # fmt: skip
def test_any_file_is_left_at_its_start(make: Callable[[], BinaryIO]) -> None:
    data = encode("JPEG")
    with make() as file:
        file.write(data)  # not flushed, and standing at its end

        assert probe(file, max_pixels=10_000).format == "jpeg"
        assert file.tell() == 0
        file.seek(5)
        assert hash_file(file) == hashlib.sha256(data).digest()
        assert file.tell() == 0


def test_a_spooled_file_stays_in_memory() -> None:
    with tempfile.SpooledTemporaryFile(max_size=10_000_000) as file:
        file.write(encode("PNG"))
        probe(file, max_pixels=10_000)  # type: ignore[arg-type]

        assert not file._rolled  # type: ignore[attr-defined]


def test_no_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*args: object) -> None:
        pytest.fail("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    monkeypatch.setattr("pillow_heif.heif.BaseImage.load", decode)
    for data in PHOTOS.values():
        probe_bytes(data)
