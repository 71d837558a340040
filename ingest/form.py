"""The booth's multipart form: the password, the photo, and everything else as the job's metadata (contract §4).

It is parsed as it comes, so that a wrong password ends it before the photo, and the photo is written once: to a file
that becomes the job's.
"""

from __future__ import annotations

import binascii
import threading
from dataclasses import dataclass
from typing import Any

from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile
from django.http import HttpRequest
from django.utils.translation import gettext as _
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from core.uploads import make_upload_dir

PHOTO_PARTS = ("fileToUpload", "file")
MAX_PARTS = 1000
MAX_FIELDS = 64
MAX_FIELD_BYTES = 4096
OWN_PARTS = ("password", "hash", "hash_hex")  # not counted against MAX_FIELDS
WRITE_BYTES = 256 * 1024  # of the photo in memory at most, and written in one go


class MalformedForm(Exception):
    """The body is not an acceptable form; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class BoothForm:
    password: str
    photo: UploadedFile[Any] | None
    metadata: dict[str, str]


class FormReader:
    """Takes the body in pieces. Close it: a photo that nobody has moved away is deleted then.

    `feed` is quick. `write` and `finish` block: call them in a thread."""

    def __init__(self, request: HttpRequest) -> None:
        """Raises `MalformedForm`."""
        if request.content_type != "multipart/form-data":
            raise MalformedForm(_("it is not multipart/form-data"))
        boundary = (request.content_params or {}).get("boundary", "")
        try:
            # Latin-1 decodes any byte: what a part is called never decides whether the photo is taken.
            self._parser = PushMultipartParser(boundary, header_charset="latin-1", max_segment_count=MAX_PARTS)
        except (MultipartError, UnicodeError):
            raise MalformedForm(_("no part can be found in it")) from None
        self._charset = request.encoding or "utf-8"
        self.password: str | None = None  # once its part has come
        self._values: dict[str, list[str]] = {}
        self._part: _Field | _Photo | None = None  # that is being read; None: its data are of no use
        self._photo: _Photo | None = None
        self._has_parts = False
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def must_write(self) -> bool:
        """So much of the photo is in memory that `write` is due."""
        return self._photo is not None and self._photo.pending_bytes >= WRITE_BYTES

    def feed(self, data: bytes) -> None:
        """Parses the next piece of the body. Raises `MalformedForm`."""
        if self._parser.closed:  # behind the last boundary
            return
        try:
            for event in self._parser.parse(data):
                if isinstance(event, MultipartSegment):
                    self._begin_part(event)
                elif event is None:
                    self._end_part()
                elif self._part is not None:
                    self._part.add(event)
        except (MultipartError, binascii.Error, LookupError):  # LookupError: an unknown charset
            raise MalformedForm(_("its parts are damaged or too many")) from None

    def write(self) -> None:
        """Writes what came of the photo to its file. Raises `OSError`."""
        with self._lock:
            if self._photo is not None and not self._is_closed:
                self._photo.write()

    def finish(self) -> BoothForm:
        """The whole form, once all of the body has come. Raises `MalformedForm`, `OSError`."""
        try:
            self._end_part()  # of a body without its last boundary
        except (binascii.Error, LookupError):
            raise MalformedForm(_("its parts are damaged or too many")) from None
        if not self._has_parts:
            raise MalformedForm(_("no part can be found in it"))
        self.write()
        metadata = {name: ", ".join(values) for name, values in self._values.items()}
        if any(len(value.encode()) > MAX_FIELD_BYTES for value in metadata.values()):
            raise _make_length_error()
        return BoothForm(self.password or "", self._photo.upload if self._photo else None, metadata)

    def close(self) -> None:
        with self._lock:  # a cancelled booth's thread may still be writing
            self._is_closed = True
            self._parser.close(check_complete=False)
            if self._photo is not None:
                self._photo.close()

    def _begin_part(self, segment: MultipartSegment) -> None:
        self._has_parts = True
        self._part = None
        name = (segment.name or "").encode("latin-1", "replace").decode(self._charset, "replace").strip()
        is_base64 = segment.header("Content-Transfer-Encoding", "").strip().lower() == "base64"
        if name in PHOTO_PARTS:
            photo = _Photo((segment.filename is None, PHOTO_PARTS.index(name)), is_base64)
            if self._photo is None or photo.rank <= self._photo.rank:
                with self._lock:
                    if self._photo is not None:
                        self._photo.close()
                    self._part = self._photo = photo
        elif segment.filename is None:
            self._part = _Field(name.replace("\0", ""), segment.charset or self._charset, is_base64)

    def _end_part(self) -> None:
        part, self._part = self._part, None
        if isinstance(part, _Photo):
            part.end()
        elif part is not None:
            value = part.end()
            if part.name == "password":
                self.password = value if self.password is None else self.password
                return
            # Postgres stores no NUL, with which C programs end a string.
            self._values.setdefault(part.name, []).append(value.replace("\0", ""))
            if len(self._values.keys() - OWN_PARTS) > MAX_FIELDS:
                raise MalformedForm(_("more than %s fields") % MAX_FIELDS)


class _Field:
    def __init__(self, name: str, charset: str, is_base64: bool) -> None:
        self.name = name
        self._charset = charset
        self._is_base64 = is_base64
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_FIELD_BYTES:
            raise _make_length_error()

    def end(self) -> str:
        data = binascii.a2b_base64(self._data) if self._is_base64 else bytes(self._data)
        return data.decode(self._charset, "replace")


class _Photo:
    """The file that a photo is written to. Of several, the one of the lowest `rank` is the photo."""

    def __init__(self, rank: tuple[bool, int], is_base64: bool) -> None:
        self.rank = rank
        self.pending_bytes = 0
        self.upload: TemporaryUploadedFile | None = None
        self._pending: list[bytes] = []
        self._size = 0
        self._base64_rest: bytes | None = b"" if is_base64 else None

    def add(self, data: bytes) -> None:
        if self._base64_rest is not None:
            data = self._base64_rest + b"".join(data.split())
            whole = len(data) // 4 * 4
            data, self._base64_rest = binascii.a2b_base64(data[:whole]), data[whole:]
        self._pending.append(data)
        self.pending_bytes += len(data)

    def end(self) -> None:
        if self._base64_rest:
            raise binascii.Error("cut short")

    def write(self) -> None:
        if self.upload is None:
            make_upload_dir()
            self.upload = TemporaryUploadedFile("photo", "application/octet-stream", 0, None)
        for data in self._pending:
            self.upload.write(data)
        self.upload.flush()
        self.upload.size = self._size = self._size + self.pending_bytes
        self._pending.clear()
        self.pending_bytes = 0

    def close(self) -> None:
        if self.upload is not None:
            self.upload.close()


def _make_length_error() -> MalformedForm:
    return MalformedForm(_("a field is longer than %s bytes") % MAX_FIELD_BYTES)
