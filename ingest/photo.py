"""Decides whether an upload is a photo, by its bytes alone and without decoding a pixel.

The name and the declared type of an upload are never looked at. A file has to begin as one of the four formats: what
begins as GIF, HTML or ZIP is refused whatever follows. Data after the end of a JPEG, PNG or WebP are ignored, since
cameras keep previews and gain maps there; a script or an archive in that place is harmless, because the result is
re-encoded and everything is served with `nosniff`.

    PhotoRefused
    ├── NotAPhoto          400
    ├── TooManyPixels      413
    ├── SideTooLong        413
    └── UnsupportedPhoto   415
"""

from __future__ import annotations

import hashlib
import io
import mmap
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PsdImagePlugin import PsdImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pillow_heif import HeifImageFile

from core import images

PhotoFormat = Literal["jpeg", "png", "webp", "heic"]
MimeType = Literal["image/jpeg", "image/png", "image/webp", "image/heic", "image/heif"]
Data = bytes | mmap.mmap

# Bounds on what Pillow keeps and loops over before the pixels begin. The pieces: 2 GiB of PNG in chunks of 8 KiB.
_MAX_HEADER_BYTES = 16 * 1024 * 1024
_MAX_PIECES = 1 << 18

_EXTENSIONS: dict[MimeType, str] = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/heic": "heic",
    "image/heif": "heif",
}


class PhotoRefused(Exception):
    """Base class of what `probe` raises; the message never quotes the file."""


class NotAPhoto(PhotoRefused):
    """No image at all, or one that is damaged or cut short."""


class TooManyPixels(PhotoRefused):
    def __init__(self, limit: int, found: int) -> None:
        super().__init__(f"{found} pixels, at most {limit}")
        self.limit = limit
        self.found = found


class SideTooLong(PhotoRefused):
    """Of more than `images.MAX_SIDE` pixels, which no picture made of it could have."""


class UnsupportedPhoto(PhotoRefused):
    """An image, but of a type no slot takes; `found` names it."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found


@dataclass(frozen=True)
class PhotoInfo:
    """Width and height are as stored: EXIF orientation is not applied (HEIF's own rotation and crop are)."""

    format: PhotoFormat
    mime_type: MimeType
    extension: str
    width: int
    height: int


def probe(file: BinaryIO, *, max_pixels: int) -> PhotoInfo:
    """Raises only `PhotoRefused`, checking in the order 400, 413, 415; leaves the file at its start.

    Two exceptions to the order: of types that are refused anyway only the header is checked; a WebP's pixel count is
    checked first, since its decoder allocates the canvas when it is opened.

    The file must not shrink meanwhile: it is memory-mapped if it has a descriptor. The libraries of WebP and HEIF read
    it whole.
    """
    try:
        with _map_file(file) as data:
            return _probe_data(file, data, max_pixels)
    except PhotoRefused:
        raise
    except Exception as error:  # noqa: BLE001
        # Parsers of hostile bytes raise anything: struct.error, SyntaxError, IndexError, OSError, ValueError …
        # Their messages may quote the bytes, so only the type's name goes on.
        raise NotAPhoto(f"unreadable ({type(error).__name__})") from None
    finally:
        file.seek(0)


def hash_file(file: BinaryIO) -> bytes:
    """SHA-256 of the whole file, read in pieces; leaves the file at its start."""
    file.seek(0)
    result = hashlib.file_digest(cast(io.BufferedReader, file), "sha256").digest()
    file.seek(0)
    return result


@contextmanager
def _map_file(file: BinaryIO) -> Iterator[Data]:
    file.seek(0, io.SEEK_END)  # also flushes what is still buffered
    if not file.tell():
        raise NotAPhoto("empty")
    file.seek(0)
    descriptor = _get_descriptor(file)
    if descriptor is None:
        yield file.read()
        return
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        yield data


def _get_descriptor(file: BinaryIO) -> int | None:
    if not getattr(file, "_rolled", True):  # fileno() writes a spooled file that is still in memory to disk
        return None
    try:
        return file.fileno()
    except (AttributeError, OSError):
        return None


def _probe_data(file: BinaryIO, data: Data, max_pixels: int) -> PhotoInfo:
    kind = _detect_kind(data[:1024])
    claimed = kind.walk(data)
    if kind.name == "webp":  # its decoder allocates the canvas when it is opened
        _check_pixels(claimed, max_pixels)
    file.seek(0)
    # Not Image.open: its bomb check knows only one limit for the whole process, and warns where it should refuse.
    with kind.opener(file) as image:
        width, height = image.size
        _check_pixels(max(claimed, width * height), max_pixels)
        if max(width, height) > images.MAX_SIDE:
            raise SideTooLong(f"{width}×{height}")
        mime_type = _detect_mime_type(kind.name, data, image)
    return PhotoInfo(cast(PhotoFormat, kind.name), mime_type, _EXTENSIONS[mime_type], width, height)


def _check_pixels(found: int, limit: int) -> None:
    if found > limit:
        raise TooManyPixels(limit, found)


def _detect_mime_type(name: str, data: Data, image: ImageFile) -> MimeType:
    if name in ("png", "webp") and getattr(image, "is_animated", False):
        raise UnsupportedPhoto(f"animated {name}")
    match name:
        case "jpeg":
            return "image/jpeg"
        case "png":
            return "image/png"
        case "webp":
            return "image/webp"
        case "heic" if _has_hevc_item(data):
            return "image/heif" if data[8:12] == b"mif1" else "image/heic"
    raise UnsupportedPhoto("heif without hevc" if name == "heic" else name)


# One function per container checks that it is complete, as far as its opener does not. Each returns the claimed number
# of pixels where the opener may report fewer, else 0.


def _walk_jpeg(data: Data) -> int:
    """An EOI must follow the start of the first scan; the thumbnail in EXIF has its own, so segments are skipped.

    Entropy-coded data never contains FF D9. The search starts at the end, where it nearly always is.
    """
    at = 2
    for _ in range(_MAX_PIECES):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:  # stray bytes and fill bytes, which decoders skip
            at += 1
        elif marker == 0xDA:
            break
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # markers without a length
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
        if at > _MAX_HEADER_BYTES:
            raise NotAPhoto("JPEG header too long")
    else:
        raise NotAPhoto("JPEG header too long")
    if data.rfind(b"\xff\xd9", at) < 0:
        raise NotAPhoto("JPEG cut short")
    return 0


def _walk_png(data: Data) -> int:
    at, kinds = 8, set[bytes]()
    for _ in range(_MAX_PIECES):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if _crc32(data, at + 4, end) != struct.unpack_from(">I", data, end)[0]:
            raise NotAPhoto("PNG checksum")
        if kind == b"iCCP" and kind in kinds:  # each is inflated when the file is opened
            raise NotAPhoto("PNG with two profiles")
        kinds.add(kind)
        if kind == b"IEND":
            break
        at = end + 4
        if b"IDAT" not in kinds and at > _MAX_HEADER_BYTES:
            raise NotAPhoto("PNG header too long")
    if not {b"IDAT", b"IEND"} <= kinds:
        raise NotAPhoto("PNG without pixels or end")
    return 0


def _crc32(data: Data, start: int, end: int, step: int = 1 << 20) -> int:
    crc = 0
    for at in range(start, min(end, len(data)), step):
        crc = zlib.crc32(data[at : min(at + step, end)], crc)
    return crc


def _walk_webp(data: Data) -> int:
    """Returns the canvas that libwebp would allocate; libwebp itself refuses truncated files."""
    match data[12:16]:
        case b"VP8X":
            return (1 + int.from_bytes(data[24:27], "little")) * (1 + int.from_bytes(data[27:30], "little"))
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (1 + (bits & 0x3FFF)) * (1 + (bits >> 14 & 0x3FFF))
    width, height = struct.unpack_from("<HH", data, 26)
    return int((width & 0x3FFF) * (height & 0x3FFF))


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


def _iterate_boxes(data: Data, at: int, end: int) -> Iterator[_Box]:
    """Raises `NotAPhoto` unless the boxes fill `at` to `end` exactly."""
    for _ in range(_MAX_PIECES):
        if at == end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:  # a 64-bit size follows
            size, start = struct.unpack_from(">Q", data, start)[0], start + 8
        elif size == 0:  # to the end
            size = end - at
        if not start <= at + size <= end:
            break
        yield _Box(kind, start, at + size)
        at += size
    raise NotAPhoto("HEIF boxes")


def _find_boxes(data: Data, parent: _Box, kind: bytes, skip: int = 0) -> Iterator[_Box]:
    return (box for box in _iterate_boxes(data, parent.start + skip, parent.end) if box.kind == kind)


def _walk_heif(data: Data) -> int:
    """Libheif opens files without pixel data and reports the size after cropping: neither is enough here."""
    top = list(_iterate_boxes(data, 0, len(data)))
    if not {b"meta", b"mdat"} <= {box.kind for box in top}:
        raise NotAPhoto("HEIF without pixels")
    return max((width * height for width, height in _read_coded_sizes(data, top)), default=0)


def _read_coded_sizes(data: Data, top: list[_Box]) -> Iterator[tuple[int, int]]:
    for meta in (box for box in top if box.kind == b"meta"):
        for iprp in _find_boxes(data, meta, b"iprp", skip=4):
            for ipco in _find_boxes(data, iprp, b"ipco"):
                for ispe in _find_boxes(data, ipco, b"ispe"):
                    yield struct.unpack_from(">II", data, ispe.start + 4)


def _has_hevc_item(data: Data) -> bool:
    """The brand `mif1` is shared by all codecs; only HEVC can be decoded here, yet libheif opens the others too."""
    metas = _find_boxes(data, _Box(b"", 0, len(data)), b"meta")
    return any(data.find(b"hvc1", meta.start, meta.end) >= 0 for meta in metas)


def _walk_nothing(data: Data) -> int:
    return 0


class _Stub(ImageFile):
    """The opener of types that are refused without a library."""

    def _open(self) -> None:
        self._size, self._mode = (1, 1), "L"


class _Kind(NamedTuple):
    name: str
    magic: re.Pattern[bytes]
    walk: Callable[[Data], int]
    opener: Callable[[BinaryIO], ImageFile]


def _kind(name: str, magic: bytes, walk: Callable[[Data], int], opener: Callable[[BinaryIO], ImageFile]) -> _Kind:
    return _Kind(name, re.compile(magic, re.DOTALL), walk, opener)


_KINDS = (
    _kind("jpeg", rb"\xff\xd8\xff", _walk_jpeg, JpegImageFile),
    _kind("png", rb"\x89PNG\r\n\x1a\n", _walk_png, PngImageFile),
    _kind("webp", rb"RIFF.{4}WEBPVP8[ LX]", _walk_webp, WebPImageFile),
    _kind("heic", rb".{4}ftyp(heic|heix|heim|heis|mif1)", _walk_heif, HeifImageFile),
    _kind("heic sequence", rb".{4}ftyp(hevc|hevx|hevm|hevs|msf1)", _walk_heif, _Stub),
    _kind("avif", rb".{4}ftypavi[fs]", _walk_heif, _Stub),
    _kind("gif", rb"GIF8[79]a", _walk_nothing, GifImageFile),
    _kind("bmp", rb"BM", _walk_nothing, BmpImageFile),
    _kind("tiff", rb"II[*+]\0|MM\0[*+]", _walk_nothing, TiffImageFile),
    _kind("psd", rb"8BPS", _walk_nothing, PsdImageFile),
    _kind("jpeg 2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", _walk_nothing, Jpeg2KImageFile),
    _kind("jpeg xl", rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a", _walk_nothing, _Stub),
    _kind("svg", rb"(\xef\xbb\xbf)?\s*(<svg\b|(<\?xml|<!--|<!DOCTYPE svg)[^\0]*<svg\b)", _walk_nothing, _Stub),
)


def _detect_kind(head: bytes) -> _Kind:
    for kind in _KINDS:
        if kind.magic.match(head):
            return kind
    raise NotAPhoto("no image")


def probe_and_hash(file: Any, max_pixels: int) -> tuple[PhotoInfo, bytes]:
    """`probe`, and the file's SHA-256. Blocks: call it in a thread."""
    return probe(file, max_pixels=max_pixels), hash_file(file)
