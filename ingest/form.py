"""The booth's multipart form: the password, the photo, and everything else as the job's metadata (contract §4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any, cast

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest
from django.http.multipartparser import MultiPartParserError
from django.utils.translation import gettext as _

PHOTO_PARTS = ("fileToUpload", "file")
PREAMBLE_BYTES = 64 * 1024  # at most, before the first boundary; clients send none
MAX_FIELDS = 64
MAX_FIELD_BYTES = 4096
OWN_PARTS = ("password", "hash", "hash_hex")  # not counted against MAX_FIELDS


class MalformedForm(Exception):
    """The body is not an acceptable form; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class BoothForm:
    password: str
    photo: UploadedFile[Any] | None
    metadata: dict[str, str]


def read(request: HttpRequest) -> BoothForm:
    """Parses the body. Blocks: call it in a thread. Raises `MalformedForm`."""
    if request.content_type != "multipart/form-data":
        raise MalformedForm(_("it is not multipart/form-data"))
    if not _has_part(request):
        raise MalformedForm(_("no part can be found in it"))
    # The length of a chunked body is unknown, and Django would treat it as empty.
    request.META.setdefault("CONTENT_LENGTH", str(settings.INGEST_MAX_FILE_BYTES))
    try:
        fields, uploads = request.POST, request.FILES
    except (MultiPartParserError, SuspiciousOperation, LookupError):  # LookupError: an unknown charset
        raise MalformedForm(_("its parts are damaged or too many")) from None
    if not fields and not uploads:
        raise MalformedForm(_("no part can be found in it"))
    metadata = {_join_values(name): _join_values(*fields.getlist(name)) for name in fields if name != "password"}
    if len(metadata.keys() - OWN_PARTS) > MAX_FIELDS:
        raise MalformedForm(_("more than %s fields") % MAX_FIELDS)
    if any(len(value.encode()) > MAX_FIELD_BYTES for value in metadata.values()):
        raise MalformedForm(_("a field is longer than %s bytes") % MAX_FIELD_BYTES)
    photo = next((uploads[name] for name in PHOTO_PARTS if name in uploads), None)
    return BoothForm(fields.get("password", ""), cast("UploadedFile[Any] | None", photo), metadata)


def _has_part(request: HttpRequest) -> bool:
    """Whether the boundary occurs at all: Django parses a body without it as one part."""
    boundary = (request.content_params or {}).get("boundary", "")
    stream: IO[bytes] = request._stream  # noqa: SLF001 - after read() Django refuses to parse
    head = stream.read(PREAMBLE_BYTES)
    stream.seek(0)
    return f"--{boundary}".encode() in head


def _join_values(*values: str) -> str:
    """All values of a repeated field, without the NULs of C strings: Postgres stores none."""
    return ", ".join(values).replace("\0", "")
