"""The booth's multipart form: the password, the photo, and everything else as the job's metadata (contract §4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest
from django.http.multipartparser import MultiPartParserError

PHOTO_PARTS = ("fileToUpload", "file")
MAX_FIELDS = 64
MAX_FIELD_BYTES = 4096


class MalformedForm(Exception):
    """The body is not a form that we take; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class BoothForm:
    password: str
    photo: UploadedFile[Any] | None
    metadata: dict[str, str]


def read(request: HttpRequest) -> BoothForm:
    """Parses the body. Blocks: call it in a thread. Raises `MalformedForm`."""
    if request.content_type != "multipart/form-data":
        raise MalformedForm("expected multipart/form-data")
    try:
        fields, uploads = request.POST, request.FILES
    except (MultiPartParserError, SuspiciousOperation) as error:
        raise MalformedForm(type(error).__name__) from None
    metadata = {name: _text(fields.getlist(name)) for name in fields if name != "password"}
    if len(metadata) > MAX_FIELDS:
        raise MalformedForm(f"more than {MAX_FIELDS} fields")
    if too_long := next((n for n, v in metadata.items() if len((n + v).encode()) > MAX_FIELD_BYTES), None):
        raise MalformedForm(f"field {too_long[:40]!r} is longer than {MAX_FIELD_BYTES} bytes")
    photo = next((uploads[name] for name in PHOTO_PARTS if name in uploads), None)
    return BoothForm(fields.get("password", ""), cast("UploadedFile[Any] | None", photo), metadata)


def _text(values: list[str]) -> str:
    """All values of a field given more than once. A C string's NUL goes: Postgres takes none."""
    return ", ".join(values).replace("\0", "")
