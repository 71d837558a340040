"""Purges requested by staff (`POST /api/media/cache/purge`): rows that a worker, or cron's `purge_expired`, starts and
runs.

One that failed, or whose process was killed, is started again after `RUN_TIMEOUT`, for `RETRY_PERIOD`, unless a newer
request of the same scope exists, which removes all that this one would. Two runs at once do no harm.
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

KINDS_BY_SCOPE: Mapping[str, Sequence[str]] = {"full": ("media", "results"), "media_objects": ("media",)}
RUN_TIMEOUT = timedelta(minutes=5)  # thousands of files take seconds: a run of this age has failed or was killed
RETRY_PERIOD = timedelta(days=1)  # by then the scheduled purges have done it, or have logged why they cannot


def request_purge(scope: str, by: Any) -> tuple[PurgeRun, bool]:
    """Requests a purge of what has expired by now, and True; or returns the waiting one of that scope, and False."""
    try:
        return _get_or_create(scope, by)
    except IntegrityError:  # another request came first, and its purge has begun already
        return _get_or_create(scope, by)


def _get_or_create(scope: str, by: Any) -> tuple[PurgeRun, bool]:
    run, is_new = PurgeRun.objects.get_or_create(
        {"request_id": uuid4(), "requested_by": by},
        request_id__isnull=False,
        started_at=None,
        kinds=list(KINDS_BY_SCOPE[scope]),
    )
    run.refresh_from_db()
    return run, is_new


def start_next() -> PurgeRun | None:
    """Starts the next requested purge, for this process alone. None: none waits."""
    newer = PurgeRun.objects.filter(request_id__isnull=False, kinds=OuterRef("kinds"), id__gt=OuterRef("id"))
    is_abandoned = Q(started_at__lt=Now() - RUN_TIMEOUT, cutoff_at__gt=Now() - RETRY_PERIOD) & ~Exists(newer)
    unfinished = PurgeRun.objects.filter(request_id__isnull=False, finished_at=None).order_by("id")
    due = unfinished.filter(Q(started_at=None) | is_abandoned)
    for run in due:
        if due.filter(pk=run.pk).update(started_at=Now()):
            run.refresh_from_db()
            return run
    return None


def run_all() -> PurgeResult:
    """Runs all requested purges that wait."""
    removed = PurgeResult(timezone.now())
    while run := start_next():
        removed.add(_run(run))
    return removed


def run_in_thread(run: PurgeRun) -> None:
    """Target of a thread: logs any error; the purge is tried again when it is started again."""
    try:
        _run(run)
    except Exception:  # no failure of a purge may stop the worker
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
