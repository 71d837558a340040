"""Hosts whose clocks differ: the database's clock decides what has expired, and tokens are taken with leeway.

The clock of this process and its views stands for a web host's, and is moved; that of the database stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.conf import settings
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from jobs.models import Job, MediaObject, Process
from jobs.storage import files
from jobs.storage.links import file_url
from tests.api import make_api
from tests.conftest import jpeg

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]

HOUR = 3600.0


@contextmanager
def clock_off(seconds: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's clock is that much ahead of the database's (negative: behind)."""

    class ShiftedDatetime(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(real_time() + seconds, tz)  # type: ignore[arg-type]

    real_time = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real_time() + seconds)
        patch.setattr(timezone, "now", lambda: datetime.fromtimestamp(real_time() + seconds, UTC))
        patch.setattr("jwt.api_jwt.datetime", ShiftedDatetime)
        patch.setattr("rest_framework_simplejwt.tokens.aware_utcnow", timezone.now)
        yield


@pytest.fixture
def job() -> Job:
    """A picture that is kept for 30 minutes yet."""
    job_id = uuid4()
    path = files.result_path(job_id, uuid4(), "image/jpeg")
    files.save(path, jpeg())
    made = Job.objects.create(
        id=job_id,
        slot_id="slot-001",
        provider_id="instant",
        operation_id="image_edit",
        settings_json={},
        payload_mime_type="image/jpeg",
        payload_digest=b"",
        expires_at=Now() + timedelta(seconds=48),
        is_finalized=True,
        finalized_at=Now(),
        result_file_path=path,
        result_mime_type="image/jpeg",
        result_size_bytes=len(jpeg()),
        result_checksum="c" * 64,
        result_expires_at=Now() + timedelta(minutes=30),
    )
    made.refresh_from_db()
    return made


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_picture_is_shown_as_long_as_the_database_says(
    job: Job, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    client = Client()
    addresses = {f"/r/{job.pk}": 200, f"/public/results/{job.pk}": 307, file_url(job): 200}
    with clock_off(seconds, monkeypatch):
        for address, status in addresses.items():
            response = client.head(address)
            assert response.status_code == status
            assert 1700 < int(response.headers["Cache-Control"].partition("max-age=")[2]) <= 1800
    Job.objects.update(result_expires_at=Now())
    with clock_off(seconds, monkeypatch):
        assert {client.head(address).status_code for address in addresses} == {410}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_temporary_file_is_served_as_long_as_the_database_says(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    path = f"media/{uuid4()}.jpg"
    files.save(path, jpeg())
    media = MediaObject.objects.create(
        path=path, mime_type="image/jpeg", size_bytes=1, expires_at=Now() + timedelta(seconds=48)
    )
    with clock_off(seconds, monkeypatch):
        assert Client().head(f"/public/media/{media.pk}").status_code == 200
    MediaObject.objects.update(expires_at=Now())
    with clock_off(seconds, monkeypatch):
        assert Client().head(f"/public/media/{media.pk}").status_code == 410


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_worker_is_alive_as_long_as_the_database_says(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    Process.objects.filter(kind=Process.Kind.WORKER).delete()  # those that other tests have killed
    process = Process.objects.create(
        id=uuid4(), kind=Process.Kind.WORKER, name="w", capacity=1, busy=0, is_listening=False
    )
    with clock_off(seconds, monkeypatch):
        assert Client().get("/readyz").json()["checks"]["worker"] is True
        assert 'processes_alive{kind="worker"} 1.0' in Client().get("/metrics").content.decode()
        Process.objects.filter(pk=process.pk).update(seen_at=Now() - timedelta(seconds=16))
        assert Client().get("/readyz").json()["checks"]["worker"] is False
        assert 'processes_alive{kind="worker"} 0.0' in Client().get("/metrics").content.decode()


@pytest.mark.parametrize(("seconds", "status"), [(-30, 200), (-5, 200), (30, 200), (-90, 401)])
def test_a_fresh_token_of_another_host_is_taken(monkeypatch: pytest.MonkeyPatch, seconds: float, status: int) -> None:
    headers = make_api("slots:write").headers
    with clock_off(seconds, monkeypatch):
        assert Client(headers=headers).get("/api/providers").status_code == status


def test_a_token_ends_a_minute_after_its_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = make_api("slots:write").headers
    for late, status in ((50, 200), (70, 401)):
        with clock_off(settings.TOKEN_SECONDS + late, monkeypatch):
            assert Client(headers=headers).get("/api/providers").status_code == status
