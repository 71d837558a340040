"""A stored file as an HTTP response: conditional requests and one range (RFC 9110 §13, §14)."""

from __future__ import annotations

import re

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import parse_etags
from django.utils.translation import gettext as _

from core.errors import ApiError
from jobs.storage import files


def respond_with_file(request: HttpRequest, path: str, mime_type: str, etag: str) -> HttpResponseBase:
    """The file, a range of it (206), or 304; the bytes are read while they are sent. Raises `FileNotFoundError`, and
    the `ApiError` of 416."""
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff"}
    size = files.size(path)
    if size is None:
        raise FileNotFoundError(path)
    known_etags = [tag.removeprefix("W/") for tag in parse_etags(request.headers.get("If-None-Match", ""))]
    if etag in known_etags or known_etags == ["*"]:
        return HttpResponse(status=304, headers=headers)
    if request.method == "HEAD":  # ranges apply to GET only
        return HttpResponse(content_type=mime_type, headers=headers | {"Content-Length": str(size)})
    range_header = request.headers.get("Range", "") if request.headers.get("If-Range", etag) == etag else ""
    part = _parse_range(range_header, size)
    first, last = part or (0, size - 1)
    headers["Content-Length"] = str(last - first + 1)
    if part:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    body = files.FilePart(path, first, last - first + 1)
    return StreamingHttpResponse(body, status=206 if part else 200, content_type=mime_type, headers=headers)


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range; None: send the whole file, also for several ranges. Raises the 416."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())  # 18: int() refuses very long numbers
    if match is None or match.groups() == ("", ""):
        return None
    start, end = match.groups()
    first = int(start) if start else max(0, size - int(end))
    last = min(int(end), size - 1) if start and end else size - 1
    if start and end and int(end) < int(start):
        return None  # not a valid range: ignored, as the RFC requires
    if first >= size or (not start and int(end) == 0):
        error = ApiError("range_not_satisfiable", _("The file is shorter than that."))
        error.headers["Content-Range"] = f"bytes */{size}"
        raise error
    return first, last
