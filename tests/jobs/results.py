"""Results that a booth received, and moving their times into the past."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db.models import F

from jobs.models import Job
from jobs.storage import files
from tests.conftest import Booth, jpeg, use_sandbox


def make_picture(booth: Booth) -> Job:
    use_sandbox("instant")
    reply = booth.post(jpeg())
    assert reply.status == 200
    return Job.objects.latest("created_at")


def age(job: Job, hours: float) -> None:
    """Moves all times of the job's row so many hours into the past."""
    ago = timedelta(hours=hours)
    times = ("created_at", "claimed_at", "expires_at", "finalized_at", "delivered_at", "result_expires_at")
    Job.objects.filter(pk=job.pk).update(**{time: F(time) - ago for time in times})


def result_file(job: Job) -> Path:
    return Path(settings.MEDIA_ROOT / str(job.result_file_path))


def thumbnail_file(job: Job) -> Path:
    return Path(settings.MEDIA_ROOT / files.thumbnail_path(str(job.result_file_path)))
