"""`GET /public/media/{media_id}`: a temporary file, for a provider that fetches the photo."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from django.conf import settings
from django.utils import timezone

from jobs.models import MediaObject
from jobs.storage import files
from tests.conftest import jpeg

pytestmark = pytest.mark.contract

PHOTO = jpeg()


@pytest.fixture
def media(database: None) -> MediaObject:
    path = f"media/{uuid4()}.jpg"
    files.save(path, PHOTO)
    return MediaObject.objects.create(
        path=path, mime_type="image/jpeg", size_bytes=len(PHOTO), expires_at=timezone.now() + timedelta(seconds=48)
    )


def test_the_bytes(media: MediaObject, web: httpx.Client) -> None:
    response = web.get(f"/public/media/{media.pk}")
    assert response.status_code == 200
    assert response.content == PHOTO
    assert response.headers["Content-Type"] == "image/jpeg"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"


def test_head_and_range(media: MediaObject, web: httpx.Client) -> None:
    head = web.head(f"/public/media/{media.pk}")
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(PHOTO)))
    part = web.get(f"/public/media/{media.pk}", headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, PHOTO[2:6])


def test_an_unknown_one_is_404(web: httpx.Client) -> None:
    response = web.get(f"/public/media/{uuid4()}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "media_not_found")


def test_past_its_time_it_is_410_though_the_file_is_there(media: MediaObject, web: httpx.Client) -> None:
    MediaObject.objects.update(expires_at=timezone.now())
    response = web.get(f"/public/media/{media.pk}")
    assert (response.status_code, response.json()["error"]["code"]) == (410, "media_expired")
    assert Path(settings.MEDIA_ROOT / media.path).exists()


def test_with_its_file_gone_it_is_410(media: MediaObject, web: httpx.Client) -> None:
    files.delete(media.path)
    assert web.get(f"/public/media/{media.pk}").json()["error"]["code"] == "media_expired"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_it_is_only_read(media: MediaObject, web: httpx.Client, method: str) -> None:
    response = web.request(method, f"/public/media/{media.pk}")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
