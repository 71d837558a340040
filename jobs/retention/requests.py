"""Purges that staff ask for (`POST /api/media/cache/purge`): a row says so until a worker, or cron's `purge_expired`,
has carried it out.

Each is carried out by whoever takes it. One that failed, or whose process was killed, is taken again after a while,
for a day, unless the same is asked for anew: the newer one removes all that it was to remove. Two at once do no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.db import IntegrityError, connection
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from jobs.models import PurgeRun
from jobs.retention.purge import PurgeResult, run_purge

logger = logging.getLogger(__name__)

SCOPES: Mapping[str, Sequence[str]] = {"full": ("media", "results"), "media_objects": ("media",)}
CLAIM_TIMEOUT = timedelta(
    minutes=5
)  # thousands of files take seconds: who has not finished by then failed or was killed
RETRY_PERIOD = timedelta(days=1)  # by then the scheduled purges have done it, or tell why they cannot


def request_purge(scope: str, by: Any) -> tuple[PurgeRun, bool]:
    """A purge of what has expired by now; or the one of that scope that waits already, and False."""
    try:
        return _get_or_create(scope, by)
    except IntegrityError:  # another asked at this moment, and that purge has begun already
        return _get_or_create(scope, by)


def _get_or_create(scope: str, by: Any) -> tuple[PurgeRun, bool]:
    run, is_new = PurgeRun.objects.get_or_create(
        {"request_id": uuid4(), "requested_by": by},
        request_id__isnull=False,
        started_at=None,
        kinds=list(SCOPES[scope]),
    )
    run.refresh_from_db()
    return run, is_new


def claim() -> PurgeRun | None:
    """The next that is to be carried out; nobody else gets it. None: there is none."""
    newer = PurgeRun.objects.filter(request_id__isnull=False, kinds=OuterRef("kinds"), id__gt=OuterRef("id"))
    is_left = Q(started_at__lt=Now() - CLAIM_TIMEOUT, cutoff_at__gt=Now() - RETRY_PERIOD) & ~Exists(newer)
    asked = PurgeRun.objects.filter(request_id__isnull=False, finished_at=None).order_by("id")
    due = asked.filter(Q(started_at=None) | is_left)
    for run in due:
        if due.filter(pk=run.pk).update(started_at=Now()):
            run.refresh_from_db()
            return run
    return None


def run_all() -> PurgeResult:
    """All that wait."""
    removed = PurgeResult(timezone.now())
    while run := claim():
        removed.add(_run(run))
    return removed


def run_in_thread(run: PurgeRun) -> None:
    """As a thread's whole work: what goes wrong is told, and tried again when the purge is taken again."""
    try:
        _run(run)
    except Exception:  # whatever it is, the photos go on
        logger.exception("Purge %s failed", run.request_id)
    finally:
        connection.close()


def _run(run: PurgeRun) -> PurgeResult:
    removed = run_purge(run)
    logger.info(
        "Purge %s of %s, expired by %s: removed %s files (%s bytes) and %s rows; %s files could not be removed",
        run.request_id,
        " and ".join(run.kinds),
        run.cutoff_at.isoformat(),
        removed.files,
        removed.bytes,
        removed.rows,
        removed.failed,
    )
    return removed
