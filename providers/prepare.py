"""A picture as it goes to a provider: upright, sRGB, without metadata, and no larger than the provider looks at.

Bytes that only carry too much beside the picture lose that and stay the same picture; everything else is decoded and
encoded once. Runs up to half a second on a large photo: call it in a thread.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import sha256
from threading import Lock
from typing import Final

from core import images
from providers.base import Picture

QUALITY: Final = 92  # a model sees no difference above, and the upload grows by half

# A JPEG's segments: the pictures' own tables and data, the JFIF header, the colour profile, and Adobe's note that says
# how the colours are stored. EXIF, GPS, XMP, IPTC, thumbnails, makers' notes and comments are all among the rest.
_JPEG_KEPT: Final = (b"JFIF\0", b"ICC_PROFILE\0", b"Adobe")
_JPEG_START_OF_SCAN, _JPEG_COMMENT, _JPEG_END = 0xDA, 0xFE, 0xD9
_JPEG_NEXT_MARKER: Final = re.compile(
    rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL
)  # in a scan: not stuffing, not a restart
_PNG_KEPT: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"sRGB", b"gAMA", b"cHRM"})
_WEBP_DROPPED: Final = frozenset({b"EXIF", b"XMP "})
_WEBP_ANIMATED, _WEBP_METADATA_FLAGS = 0x02, 0x0C


class _NotLosslessError(ValueError):
    """The file is not built as expected: better decoded and encoded."""


def prepare(photo: Picture, *, max_side: int, accepts: frozenset[str]) -> Picture:
    """The picture for a provider that takes the types `accepts` and makes no use of more than `max_side` pixels a side.
    Raises `images.ImageError` when it cannot be read."""
    header = images.probe(photo.data)
    longer = max(header.width, header.height)
    if header.is_plain and longer <= max_side and header.mime_type in accepts and header.mime_type in _STRIPPERS:
        try:
            return Picture(_STRIPPERS[header.mime_type](photo.data), header.mime_type)
        except (_NotLosslessError, struct.error, IndexError):
            pass
    return reencode(photo, max_side=max_side, accepts=accepts)


def reencode(photo: Picture, *, max_side: int, accepts: frozenset[str]) -> Picture:
    """The same by decoding and encoding, whether needed or not. Raises `images.ImageError`."""
    header = images.probe(photo.data)
    scale = min(1.0, max_side / max(header.width, header.height))
    # One more, so that a rounding error does not cost a row of pixels.
    image = images.decode(photo.data, useful_pixels=int(header.width * scale * header.height * scale) + 1)
    wished: tuple[images.Format, ...] = ("png", "webp", "jpeg") if image.mode == "RGBA" else ("jpeg", "webp", "png")
    format = next(format for format in wished if images.MIME_TYPES[format] in accepts)
    return Picture(images.encode(image, format, QUALITY), images.MIME_TYPES[format])


class Templates:
    """Template images as they go to providers, prepare once for all photos that use them. Threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[bytes, int, frozenset[str]], Picture] = OrderedDict()  # the last used is last
        self._lock = Lock()
        self.hits = 0

    def prepare(self, picture: Picture, *, max_side: int, accepts: frozenset[str]) -> Picture:
        """As the function. Two threads that ask for the same new one at once both do the work."""
        key = sha256(picture.data).digest(), max_side, accepts
        with self._lock:
            if key in self._kept:
                self.hits += 1
                self._kept.move_to_end(key)
                return self._kept[key]
        ready = prepare(picture, max_side=max_side, accepts=accepts)
        with self._lock:
            self._kept[key] = ready
            while sum(len(kept.data) for kept in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)
        return ready


# Of this process: a photograph of 3,000 pixels has 1 to 2 MB, a cut-out up to 10, and a party has few of either.
templates = Templates(max_bytes=64 * 1024 * 1024)


def _stripped_jpeg(data: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(_jpeg_parts(data)) + b"\xff\xd9"


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """Up to the end of the first picture: behind it may lie previews, with metadata of their own."""
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # a marker may be filled up in front
            at += 1
        if data[at] != 0xFF:
            raise _NotLosslessError("no marker where one belongs")
        marker = data[at + 1]
        if marker == _JPEG_END:
            return
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if marker == _JPEG_START_OF_SCAN:
            end = _end_of_scan(data, end)
        if _is_picture(marker, data[at + 4 : at + 16]):
            yield data[at:end]
        at = end


def _end_of_scan(data: bytes, start: int) -> int:
    found = _JPEG_NEXT_MARKER.search(data, start)
    if found is None:
        raise _NotLosslessError("cut off")
    return found.start()


def _is_picture(marker: int, start: bytes) -> bool:
    is_application_data = 0xE0 <= marker <= 0xEF
    return start.startswith(_JPEG_KEPT) if is_application_data else marker != _JPEG_COMMENT


def _stripped_png(data: bytes) -> bytes:
    """An animated one becomes its first frame."""
    parts, at, name = [data[:8]], 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        if name in _PNG_KEPT:
            parts.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(parts)


def _stripped_webp(data: bytes) -> bytes:
    parts, at = [], 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        if name == b"VP8X":
            parts.append(_without_metadata_flags(data[at:end]))
        elif name not in _WEBP_DROPPED:
            parts.append(data[at:end])
        at = end
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _without_metadata_flags(chunk: bytes) -> bytes:
    if chunk[8] & _WEBP_ANIMATED:
        raise _NotLosslessError("animated")
    return chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA_FLAGS]) + chunk[9:]


_STRIPPERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "image/jpeg": _stripped_jpeg,
    "image/png": _stripped_png,
    "image/webp": _stripped_webp,
}
