"""Is it a photo? Judged by its bytes alone, and without decoding a pixel.

The name and the declared type of an upload are never looked at. A file has to begin as one of the four formats: what
begins as GIF, HTML or ZIP is refused however it goes on. What follows the end of a JPEG, PNG or WebP is let be, since
cameras keep previews and gain maps there; a script or an archive in that place is harmless, because the result is
encoded anew and everything is served with `nosniff`.

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
    """The root of what `probe` raises; the message never quotes the file."""


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
    """Raises a `PhotoRefused`, in the order 400, 413, 415, and nothing else; leaves the file at its start.

    Two exceptions: of types that are refused anyway only the header is looked at; a WebP's size goes first,
    since its decoder allocates as soon as it is opened.

    The file must not shrink meanwhile: it is mapped where it has a descriptor. WebP and HEIF are read whole by their
    libraries.
    """
    try:
        with _mapped(file) as data:
            return _judge(file, data, max_pixels)
    except PhotoRefused:
        raise
    except Exception as error:  # noqa: BLE001
        # Parsers of hostile bytes raise anything: struct.error, SyntaxError, IndexError, OSError, ValueError …
        # Their messages may quote the bytes, so only the type's name goes on.
        raise NotAPhoto(f"unreadable ({type(error).__name__})") from None
    finally:
        file.seek(0)


def digest(file: BinaryIO) -> bytes:
    """SHA-256 of the whole file, read in pieces; leaves the file at its start."""
    file.seek(0)
    result = hashlib.file_digest(cast(io.BufferedReader, file), "sha256").digest()
    file.seek(0)
    return result


@contextmanager
def _mapped(file: BinaryIO) -> Iterator[Data]:
    file.seek(0, io.SEEK_END)  # writes out what is still buffered, too
    if not file.tell():
        raise NotAPhoto("empty")
    file.seek(0)
    descriptor = _descriptor(file)
    if descriptor is None:
        yield file.read()
        return
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        yield data


def _descriptor(file: BinaryIO) -> int | None:
    if not getattr(file, "_rolled", True):  # asking a spooled file that is still in memory would write it to disk
        return None
    try:
        return file.fileno()
    except (AttributeError, OSError):
        return None


def _judge(file: BinaryIO, data: Data, max_pixels: int) -> PhotoInfo:
    kind = _kind(data[:1024])
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
        mime_type = _mime_type(kind.name, data, image)
    return PhotoInfo(cast(PhotoFormat, kind.name), mime_type, _EXTENSIONS[mime_type], width, height)


def _check_pixels(found: int, limit: int) -> None:
    if found > limit:
        raise TooManyPixels(limit, found)


def _mime_type(name: str, data: Data, image: ImageFile) -> MimeType:
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


# One function per container: is it complete, as far as its opener does not see to that? Each returns the pixels claimed
# where the opener does not tell all of them, else 0.


def _walk_jpeg(data: Data) -> int:
    """An EOI has to come after the first scan begins; the thumbnail in EXIF has its own, so segments are stepped over.

    Entropy-coded data never holds FF D9. It is looked for from the back, where it nearly always is.
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
    """Libwebp refuses by itself what is cut short; here is only the canvas it would allocate."""
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


def _boxes(data: Data, at: int, end: int) -> Iterator[_Box]:
    """The boxes that fill `at` to `end` exactly; NotAPhoto when they do not."""
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


def _inside(data: Data, parent: _Box, kind: bytes, skip: int = 0) -> Iterator[_Box]:
    return (box for box in _boxes(data, parent.start + skip, parent.end) if box.kind == kind)


def _walk_heif(data: Data) -> int:
    """Libheif opens a file whose pixels are missing, and tells the size after cropping: neither is enough here."""
    top = list(_boxes(data, 0, len(data)))
    if not {b"meta", b"mdat"} <= {box.kind for box in top}:
        raise NotAPhoto("HEIF without pixels")
    return max((width * height for width, height in _coded_sizes(data, top)), default=0)


def _coded_sizes(data: Data, top: list[_Box]) -> Iterator[tuple[int, int]]:
    for meta in (box for box in top if box.kind == b"meta"):
        for iprp in _inside(data, meta, b"iprp", skip=4):
            for ipco in _inside(data, iprp, b"ipco"):
                for ispe in _inside(data, ipco, b"ispe"):
                    yield struct.unpack_from(">II", data, ispe.start + 4)


def _has_hevc_item(data: Data) -> bool:
    """The brand `mif1` is everybody's; only HEVC can be decoded here, and libheif opens the others all the same."""
    metas = _inside(data, _Box(b"", 0, len(data)), b"meta")
    return any(data.find(b"hvc1", meta.start, meta.end) >= 0 for meta in metas)


def _walk_nothing(data: Data) -> int:
    return 0


class _Unopened(ImageFile):
    """For types that need no library to be refused."""

    def _open(self) -> None:
        self._size, self._mode = (1, 1), "L"


class _Kind(NamedTuple):
    name: str
    magic: re.Pattern[bytes]
    walk: Callable[[Data], int]
    opener: Callable[[BinaryIO], ImageFile]


def _k(name: str, magic: bytes, walk: Callable[[Data], int], opener: Callable[[BinaryIO], ImageFile]) -> _Kind:
    return _Kind(name, re.compile(magic, re.DOTALL), walk, opener)


_KINDS = (
    _k("jpeg", rb"\xff\xd8\xff", _walk_jpeg, JpegImageFile),
    _k("png", rb"\x89PNG\r\n\x1a\n", _walk_png, PngImageFile),
    _k("webp", rb"RIFF.{4}WEBPVP8[ LX]", _walk_webp, WebPImageFile),
    _k("heic", rb".{4}ftyp(heic|heix|heim|heis|mif1)", _walk_heif, HeifImageFile),
    _k("heic sequence", rb".{4}ftyp(hevc|hevx|hevm|hevs|msf1)", _walk_heif, _Unopened),
    _k("avif", rb".{4}ftypavi[fs]", _walk_heif, _Unopened),
    _k("gif", rb"GIF8[79]a", _walk_nothing, GifImageFile),
    _k("bmp", rb"BM", _walk_nothing, BmpImageFile),
    _k("tiff", rb"II[*+]\0|MM\0[*+]", _walk_nothing, TiffImageFile),
    _k("psd", rb"8BPS", _walk_nothing, PsdImageFile),
    _k("jpeg 2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", _walk_nothing, Jpeg2KImageFile),
    _k("jpeg xl", rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a", _walk_nothing, _Unopened),
    _k("svg", rb"(\xef\xbb\xbf)?\s*(<svg\b|(<\?xml|<!--|<!DOCTYPE svg)[^\0]*<svg\b)", _walk_nothing, _Unopened),
)


def _kind(head: bytes) -> _Kind:
    for kind in _KINDS:
        if kind.magic.match(head):
            return kind
    raise NotAPhoto("no image")


def examine(file: Any, max_pixels: int) -> tuple[PhotoInfo, bytes]:
    """What the photo is, and its SHA-256. Blocks: call it in a thread."""
    return probe(file, max_pixels=max_pixels), digest(file)
