"""Purges that staff ask for (`POST /api/media/cache/purge`): a row says so until a worker, or cron's `purge_expired`,
has carried it out.

Each is carried out by whoever takes it; one whose process was killed is taken again after a while. Two at once would
do no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from jobs.models import PurgeRun
from jobs.purge import Removed, carry_out

logger = logging.getLogger(__name__)

SCOPES: Mapping[str, Sequence[str]] = {"full": ("media", "results"), "media_objects": ("media",)}
TAKEN_FOR = timedelta(minutes=5)  # thousands of files take seconds: whoever has not finished by then was killed


def ask(scope: str, by: Any) -> tuple[PurgeRun, bool]:
    """A purge of what has expired by now; or the one of that scope that waits already, and False."""
    kinds = list(SCOPES[scope])
    while True:
        if waiting := PurgeRun.objects.filter(request_id__isnull=False, started_at=None, kinds=kinds).first():
            return waiting, False
        with suppress(IntegrityError), transaction.atomic():  # another asks at this moment
            run = PurgeRun.objects.create(request_id=uuid4(), requested_by=by, kinds=kinds)
            run.refresh_from_db()
            return run, True


def take() -> PurgeRun | None:
    """The next that is to be carried out; nobody else gets it. None: there is none."""
    is_free = Q(started_at=None) | Q(started_at__lt=Now() - TAKEN_FOR)
    due = PurgeRun.objects.filter(is_free, request_id__isnull=False, finished_at=None).order_by("id")
    return next((run for run in due if due.filter(pk=run.pk).update(started_at=Now())), None)


def carry_out_all() -> Removed:
    """All that wait."""
    removed = Removed(timezone.now())
    while run := take():
        removed.add(_carried_out(run))
    return removed


def carry_out_in_thread(run: PurgeRun) -> None:
    """As a thread's whole work: what goes wrong is told, and tried again when the purge is taken again."""
    try:
        _carried_out(run)
    except Exception:  # whatever it is, the photos go on
        logger.exception("Purge %s failed", run.request_id)
    finally:
        connection.close()


def _carried_out(run: PurgeRun) -> Removed:
    removed = carry_out(run)
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
