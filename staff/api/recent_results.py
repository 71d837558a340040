"""`/api/stats/{slot_id}/recent_results`: a slot's latest pictures, which the slot's own resource has too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone
from rest_framework import serializers

from jobs.models import Job
from jobs.storage import links

RECENT_COUNT = 10
CHUNK = 1000  # jobs per query, after the ten newest were not enough
RECENT_PERIOD = timedelta(hours=72)  # contract §6
LONGEST_JOB = timedelta(minutes=1)  # contract §2
RESULT_FIELDS = ("finalized_at", "result_file_path", "result_expires_at", "result_mime_type", "result_size_bytes")


class RecentResult(serializers.Serializer[Any]):
    job_id = serializers.UUIDField()
    thumbnail_url = serializers.CharField()
    download_url = serializers.CharField()
    completed_at = serializers.DateTimeField()
    result_expires_at = serializers.DateTimeField()
    mime = serializers.CharField()
    size_bytes = serializers.IntegerField()


class RecentResults(serializers.Serializer[Any]):
    slot_id = serializers.CharField()
    results = RecentResult(many=True, help_text="Newest first.")


RESULT = {
    "job_id": "6f1c2f3e-8a55-4a4f-9a2b-0c2d8f1f7a10",
    "thumbnail_url": "http://localhost:8000/public/files/t6f1c2f3e8a554a4f9a2b0c2d8f1f7a10:c2lnbmVk",
    "download_url": "http://localhost:8000/public/results/6f1c2f3e-8a55-4a4f-9a2b-0c2d8f1f7a10?download=1",
    "completed_at": "2026-11-25T12:00:05.000000Z",
    "result_expires_at": "2026-11-28T12:00:05.000000Z",
    "mime": "image/jpeg",
    "size_bytes": 912345,
}


def get_recent_results(slot_id: str) -> list[dict[str, Any]]:
    """The latest pictures that can still be fetched, newest first."""
    now = timezone.now()
    stored = (job for job in _iterate_newest_first(slot_id) if job.result_file_path)
    unexpired = (job for job in stored if job.result_expires_at and job.result_expires_at > now)
    recent = (job for job in unexpired if job.finalized_at and job.finalized_at > now - RECENT_PERIOD)
    newest = sorted(islice(recent, RECENT_COUNT), key=lambda job: str(job.finalized_at), reverse=True)
    return [_represent(job) for job in newest]


def _iterate_newest_first(slot_id: str) -> Iterator[Job]:
    """Reads ten jobs, then `CHUNK` at a time: ten are enough unless some have expired. The newest may expire before
    older ones, if the retention was shortened. Jobs are admitted one by one, so no two have the same `created_at`."""
    rows, count = query_recent_jobs(slot_id), RECENT_COUNT
    while chunk := list(rows[:count]):
        yield from chunk
        if len(chunk) < count:
            return
        rows, count = rows.filter(created_at__lt=chunk[-1].created_at), CHUNK


def query_recent_jobs(slot_id: str) -> QuerySet[Job]:
    """The candidates, newest first, to be read from the top of the index `job_newest_of_slot`. No condition on
    `result_expires_at`: with one, Postgres expects almost no rows and reads through another index."""
    rows = Job.objects.filter(
        slot_id=slot_id,
        created_at__gt=Now() - RECENT_PERIOD - LONGEST_JOB,
        is_finalized=True,
        failure_reason=None,
        source=Job.Source.BOOTH,
    )
    return rows.order_by("-created_at").only(*RESULT_FIELDS)


def _represent(job: Job) -> dict[str, Any]:
    picture = reverse("public-result", args=[job.pk])
    return {
        "job_id": str(job.pk),
        "thumbnail_url": settings.PUBLIC_BASE_URL + links.file_url(job, links.THUMBNAIL),
        "download_url": f"{settings.PUBLIC_BASE_URL}{picture}?download=1",
        "completed_at": job.finalized_at,
        "result_expires_at": job.result_expires_at,
        "mime": job.result_mime_type,
        "size_bytes": job.result_size_bytes,
    }
