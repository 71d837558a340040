"""Public links (contract §5): results by job, files by signed token, temporary media, and the guest's page.

Nothing expired is served, whether its file is still there or not. The database's clock decides what has expired: those
of the web processes may differ.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NoReturn
from urllib.parse import urlencode
from uuid import UUID

from django.core import signing
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import http_date, quote_etag
from django.utils.translation import gettext as _

from core.errors import ApiError, to_api_error
from core.views import read_only
from guests.file_response import respond_with_file
from jobs.models import Job, MediaObject
from jobs.storage import files, links


class HttpTemporaryRedirect(HttpResponseRedirect):
    status_code = 307  # the contract's; keeps the method, so HEAD stays HEAD


@read_only
def result(request: HttpRequest, job_id: UUID) -> HttpResponseBase:
    job, time_left = _get_finished_job(job_id)
    query = "?" + urlencode({"download": 1}) if request.GET.get("download") == "1" else ""
    response = HttpTemporaryRedirect(links.file_url(job) + query)
    _set_lifetime(response, job, time_left)
    return response


@read_only
def file(request: HttpRequest, token: str) -> HttpResponseBase:
    """The bytes, whole or one range of them; a tampered token gets the same 404 as an unknown one."""
    try:
        kind, job_id = links.parse_token(token)
    except signing.BadSignature:
        raise ApiError("result_not_found", _("There is no such picture.")) from None
    job, time_left = _get_finished_job(job_id)
    if kind == links.THUMBNAIL:
        path, mime_type, etag = (
            files.thumbnail_path(str(job.result_file_path)),
            "image/jpeg",
            f"{job.result_checksum}-t",
        )
    else:
        path, mime_type, etag = str(job.result_file_path), str(job.result_mime_type), str(job.result_checksum)
    try:
        response = respond_with_file(request, path, mime_type, quote_etag(etag))
    except FileNotFoundError:
        _raise_expired()
    _set_lifetime(response, job, time_left)
    disposition = "attachment" if request.GET.get("download") == "1" else "inline"
    name = f"{job.slot_id}-{job.pk}.{path.rpartition('.')[2]}"
    response.headers["Content-Disposition"] = f'{disposition}; filename="{name}"'
    return response


@read_only
def media(request: HttpRequest, media_id: UUID) -> HttpResponseBase:
    """A temporary file, for a provider that fetches it."""
    found = MediaObject.objects.annotate(now=Now()).filter(pk=media_id).first()
    if found is None:
        raise ApiError("media_not_found", _("There is no such file."))
    try:
        if found.expires_at <= found.now:
            raise FileNotFoundError
        response = respond_with_file(request, found.path, found.mime_type, quote_etag(str(found.pk)))
    except FileNotFoundError:
        raise ApiError("media_expired", _("The link has expired.")) from None
    response.headers["Cache-Control"] = "no-store"
    return response


@read_only
def guest_page(request: HttpRequest, job_id: UUID) -> HttpResponse:
    try:
        job, time_left = _get_finished_job(job_id)
    except Exception as error:  # noqa: BLE001 - a guest gets a page whatever the error; `to_api_error` logs it
        return _render_error_page(request, error)
    url = reverse("public-result", args=[job.pk])
    response = render(request, "guests/result.html", {"job": job, "url": url, "download_url": f"{url}?download=1"})
    _set_lifetime(response, job, time_left)
    return response


def _render_error_page(request: HttpRequest, error: Exception) -> HttpResponse:
    refusal = to_api_error(error)
    is_internal = refusal is not error
    message = _("The picture cannot be looked up right now. Try again shortly.") if is_internal else refusal.message
    response = render(request, "guests/gone.html", {"message": message}, status=refusal.status)
    for name, value in {"Cache-Control": "no-store", **refusal.headers}.items():
        response.headers[name] = value
    return response


def _get_finished_job(job_id: UUID) -> tuple[Job, timedelta]:
    """The job whose result may be shown, and for how long yet. Raises the 404 or 410."""
    shown = Job.objects.filter(pk=job_id, result_checksum__isnull=False, source=Job.Source.BOOTH)
    job = shown.annotate(now=Now()).first()
    if job is None:
        raise ApiError("result_not_found", _("There is no such picture, or it is not ready."))
    if job.result_file_path is None or job.result_expires_at is None or job.result_expires_at <= job.now:
        _raise_expired()
    return job, job.result_expires_at - job.now


def _raise_expired() -> NoReturn:
    raise ApiError("result_expired", _("The picture was kept for a limited time, which is over."))


def _set_lifetime(response: HttpResponseBase, job: Job, time_left: timedelta) -> None:
    """Private caches may keep it as long as we do; shared caches not at all, since the link is the only credential."""
    assert job.result_expires_at
    response.headers["Cache-Control"] = f"private, max-age={int(time_left.total_seconds())}"
    response.headers["Expires"] = http_date(job.result_expires_at.timestamp())
    response.headers["PhotoChanger-Result-Expires-At"] = job.result_expires_at.isoformat()
