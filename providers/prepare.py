"""Prepares a picture for a provider: upright, sRGB, without metadata, and no larger than is useful to the provider.

If only metadata has to be removed, it is cut out of the file and the pixels stay as they are; otherwise the picture is
decoded and encoded once. Takes up to half a second for a large photo: call it in a thread.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import sha256
from threading import Lock
from typing import Final

from core import image_work, images
from providers.base import Picture

QUALITY: Final = 92  # more makes no difference to a model, and the upload grows by half

# The application segments of a JPEG that are kept: the JFIF header, the colour profile, and Adobe's, which defines how
# the colours are stored. All others are dropped: EXIF, GPS, XMP, IPTC, thumbnails, makers' notes and comments.
_JPEG_KEPT: Final = (b"JFIF\0", b"ICC_PROFILE\0", b"Adobe")
_JPEG_START_OF_SCAN, _JPEG_COMMENT, _JPEG_END = 0xDA, 0xFE, 0xD9
# Inside a scan: neither byte stuffing nor a restart marker.
_JPEG_NEXT_MARKER: Final = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)
_PNG_KEPT: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"sRGB", b"gAMA", b"cHRM"})
_WEBP_DROPPED: Final = frozenset({b"EXIF", b"XMP "})
_WEBP_ANIMATED, _WEBP_METADATA_FLAGS = 0x02, 0x0C


class _NotLosslessError(ValueError):
    """The file's structure is not as expected: it has to be decoded and encoded."""


def prepare(photo: Picture, *, max_side: int, accepts: frozenset[str]) -> Picture:
    """The picture for a provider that takes the types `accepts` and makes no use of more than `max_side` pixels a side.
    Raises `images.ImageError` if it cannot be read."""
    header = images.probe(photo.data)
    longer = max(header.width, header.height)
    if header.is_plain and longer <= max_side and header.mime_type in accepts and header.mime_type in _STRIPPERS:
        try:
            return Picture(_STRIPPERS[header.mime_type](photo.data), header.mime_type)
        except (_NotLosslessError, struct.error, IndexError):
            pass
    return reencode(photo, max_side=max_side, accepts=accepts)


def reencode(photo: Picture, *, max_side: int, accepts: frozenset[str]) -> Picture:
    """As `prepare`, but always decodes and encodes. Raises `images.ImageError`."""
    header = images.probe(photo.data)
    scale = min(1.0, max_side / max(header.width, header.height))
    # Plus one, so that a rounding error does not cost a row of pixels.
    useful = min(int(header.width * scale * header.height * scale) + 1, images.USEFUL_PIXELS)
    pixels = images.count_decoded_pixels(header, useful)
    return image_work.run(_reencode, photo.data, useful, accepts, pixels=pixels)


def _reencode(data: bytes, useful_pixels: int, accepts: frozenset[str]) -> Picture:
    image = images.decode(data, useful_pixels=useful_pixels)
    preferred: tuple[images.Format, ...] = ("png", "webp", "jpeg") if image.mode == "RGBA" else ("jpeg", "webp", "png")
    format = next(format for format in preferred if images.MIME_TYPES[format] in accepts)
    return Picture(images.encode(image, format, QUALITY), images.MIME_TYPES[format])


class TemplateCache:
    """A cache of template images, each prepared once for all photos that use it. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pictures: OrderedDict[tuple[bytes, int, frozenset[str]], Picture] = OrderedDict()  # last used is last
        self._lock = Lock()
        self.hits = 0

    def prepare(self, picture: Picture, *, max_side: int, accepts: frozenset[str]) -> Picture:
        """As the function `prepare`. Two threads that miss the same picture at the same time both prepare it."""
        key = sha256(picture.data).digest(), max_side, accepts
        with self._lock:
            if key in self._pictures:
                self.hits += 1
                self._pictures.move_to_end(key)
                return self._pictures[key]
        prepared = prepare(picture, max_side=max_side, accepts=accepts)
        with self._lock:
            self._pictures[key] = prepared
            while sum(len(kept.data) for kept in self._pictures.values()) > self._max_bytes:
                self._pictures.popitem(last=False)
        return prepared


# Per process: a photograph of 3,000 pixels has 1 to 2 MB, a cut-out up to 10 MB, and an event uses few of either.
template_cache = TemplateCache(max_bytes=64 * 1024 * 1024)


def _strip_jpeg(data: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(_select_jpeg_segments(data)) + b"\xff\xd9"


def _select_jpeg_segments(data: bytes) -> Iterator[bytes]:
    """Yields the segments to keep, up to the end of the first picture: previews with metadata may follow it."""
    offset = 2
    while True:
        while data[offset : offset + 2] == b"\xff\xff":  # fill bytes may precede a marker
            offset += 1
        if data[offset] != 0xFF:
            raise _NotLosslessError("no marker where one belongs")
        marker = data[offset + 1]
        if marker == _JPEG_END:
            return
        end = offset + 2 + struct.unpack_from(">H", data, offset + 2)[0]
        if marker == _JPEG_START_OF_SCAN:
            end = _find_end_of_scan(data, end)
        if _is_kept(marker, data[offset + 4 : offset + 16]):
            yield data[offset:end]
        offset = end


def _find_end_of_scan(data: bytes, start: int) -> int:
    found = _JPEG_NEXT_MARKER.search(data, start)
    if found is None:
        raise _NotLosslessError("cut off")
    return found.start()


def _is_kept(marker: int, start: bytes) -> bool:
    is_application_data = 0xE0 <= marker <= 0xEF
    return start.startswith(_JPEG_KEPT) if is_application_data else marker != _JPEG_COMMENT


def _strip_png(data: bytes) -> bytes:
    """Without metadata chunks; an animation becomes its first frame."""
    parts, offset, name = [data[:8]], 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, offset)
        if name in _PNG_KEPT:
            parts.append(data[offset : offset + 12 + length])
        offset += 12 + length
    return b"".join(parts)


def _strip_webp(data: bytes) -> bytes:
    parts, offset = [], 12
    while offset + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, offset)
        end = offset + 8 + length + length % 2
        if name == b"VP8X":
            parts.append(_clear_metadata_flags(data[offset:end]))
        elif name not in _WEBP_DROPPED:
            parts.append(data[offset:end])
        offset = end
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _clear_metadata_flags(chunk: bytes) -> bytes:
    if chunk[8] & _WEBP_ANIMATED:
        raise _NotLosslessError("animated")
    return chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA_FLAGS]) + chunk[9:]


_STRIPPERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "image/jpeg": _strip_jpeg,
    "image/png": _strip_png,
    "image/webp": _strip_webp,
}
