"""Removing what has expired: temporary media, results, old log entries, and files that a crash left behind.

Files go before their rows, so that whatever breaks, the next run finds the rest. Two runs at once do no harm: what one
has removed is simply not there for the other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from jobs.models import Job, MediaObject, Process, PurgeRun, PurgeTotal
from jobs.storage import files
from providers.models import ProviderCall
from stats.models import ProcessingLog

logger = logging.getLogger(__name__)
T = TypeVar("T")

BATCH = 500  # rows at a time: short transactions beside the booths' own
# A file without its row may be a photo or a result that is being recorded right now; after this it never will be.
ORPHAN_SECONDS = 120
# A booth whose photo goes back to it (`on_failure`) is being answered for this long after its job's end.
ANSWERING = timedelta(seconds=30)
GONE_PROCESS = timedelta(minutes=5)
PURGE_RUNS_KEPT = timedelta(days=30)


@dataclass(slots=True)
class PurgeResult:
    """What a purge of all that had expired at `cutoff` removed, or with `dry_run` would have; `failed` counts files
    that could not be."""

    cutoff: datetime
    dry_run: bool = False
    files: int = 0
    bytes: int = 0
    rows: int = 0
    failed: int = 0
    _counted: set[str] = field(default_factory=set)  # `dry_run` comes upon a file again where a purge would not

    def file(self, path: str) -> bool:
        """Whether the file is gone now (with `dry_run`: would be)."""
        if path in self._counted:
            return True
        try:
            size = files.size(path) if self.dry_run else files.delete(path)
        except OSError as error:
            logger.error("%s could not be removed: %s", path, error.strerror)
            self.failed += 1
            return False
        if size is not None:
            self._counted.add(path)
            self.files += 1
            self.bytes += size
        return True

    def add(self, other: PurgeResult) -> None:
        self.files += other.files
        self.bytes += other.bytes
        self.rows += other.rows
        self.failed += other.failed


def purge(kinds: Iterable[str], dry_run: bool = False) -> PurgeResult:
    """Purges the given `KINDS`, and leaves a record of it (`PurgeRun`, `PurgeTotal`)."""
    now, kinds = timezone.now(), list(kinds)
    if dry_run:
        return _removed(kinds, now, dry_run=True)
    return run_purge(PurgeRun.objects.create(kinds=kinds, cutoff_at=now, started_at=now))


def run_purge(run: PurgeRun) -> PurgeResult:
    """Purges what had expired at its cutoff; the run says then what that was. If another process has taken it
    meanwhile, it says what that one removed."""
    removed = _removed(run.kinds, run.cutoff_at)
    done = {"files": removed.files, "bytes": removed.bytes, "rows": removed.rows}
    ours = PurgeRun.objects.filter(pk=run.pk, started_at=run.started_at, finished_at=None)
    if not ours.update(finished_at=timezone.now(), **done):
        logger.warning("Purge %s took so long that another process has taken it, too", run.request_id)
    return removed


def _removed(kinds: Iterable[str], cutoff: datetime, *, dry_run: bool = False) -> PurgeResult:
    sum_of_all = PurgeResult(cutoff, dry_run)
    for kind in kinds:
        removed = PurgeResult(cutoff, dry_run)
        KINDS[kind](removed)
        sum_of_all.add(removed)
        if not dry_run:
            _add_to_total(kind, removed)
    return sum_of_all


def _add_to_total(kind: str, removed: PurgeResult) -> None:
    PurgeTotal.objects.get_or_create(pk=kind)
    PurgeTotal.objects.filter(pk=kind).update(
        runs=F("runs") + 1,
        files=F("files") + removed.files,
        bytes=F("bytes") + removed.bytes,
        rows=F("rows") + removed.rows,
        last_run_at=timezone.now(),
    )


def _media(removed: PurgeResult) -> None:
    """Links past their time, photos of jobs that are over, hand-off copies of results, files never finished."""
    now = removed.cutoff
    expired = MediaObject.objects.filter(expires_at__lte=now)
    gone = [pk for pk, path in expired.values_list("pk", "path") if removed.file(path)]
    _rows(MediaObject.objects.filter(pk__in=gone), removed)
    answered = Q(settings_json__on_failure=None) | Q(settings_json__on_failure__isnull=True)
    answered |= Q(finalized_at__lte=now - ANSWERING) | Q(is_finalized=False, expires_at__lte=now - ANSWERING)
    over = _orphans("payloads", (Q(finalized_at__lte=now) | Q(expires_at__lte=now)) & answered, 0, removed)
    if not removed.dry_run:
        Job.objects.filter(pk__in=over, is_finalized=True).update(payload_path=None)
        Job.objects.filter(result_inline_base64__isnull=False, expires_at__lte=now).update(result_inline_base64=None)
    linked = set(MediaObject.objects.values_list("path", flat=True))
    for folder in ("media", "tmp"):
        for path in _files_in(folder, ORPHAN_SECONDS):
            if path not in linked:
                removed.file(path)


def _results(removed: PurgeResult) -> None:
    """Results past their retention with their thumbnails, and such files of jobs that have no result."""
    now = removed.cutoff
    due = Job.objects.filter(result_file_path__isnull=False, result_expires_at__lte=now).order_by("result_expires_at")
    for batch in _batches(due.values_list("pk", "result_file_path")):
        gone = [pk for pk, path in batch if removed.file(files.thumbnail_path(pk)) and removed.file(str(path))]
        if not removed.dry_run:
            Job.objects.filter(pk__in=gone).update(result_file_path=None)
    without = Q(result_file_path=None) & (Q(is_finalized=True) | Q(expires_at__lte=now))
    for folder in ("results", "thumbnails"):
        _orphans(folder, without, ORPHAN_SECONDS, removed)


def _log(removed: PurgeResult) -> None:
    """Log entries and calls past LOG_RETENTION_DAYS and the jobs they were about; traces of processes and purges."""
    now = removed.cutoff
    cutoff = now - timedelta(days=settings.LOG_RETENTION_DAYS)
    _rows(ProcessingLog.objects.filter(occurred_at__lt=cutoff), removed)
    _rows(ProviderCall.objects.filter(at__lt=cutoff), removed)
    if not removed.dry_run:
        ProviderCall.objects.close_lost()
    _rows(Job.objects.filter(created_at__lt=cutoff, is_finalized=True, result_file_path=None), removed)
    _rows(Process.objects.filter(seen_at__lt=now - GONE_PROCESS), removed)
    _rows(PurgeRun.objects.filter(cutoff_at__lt=now - PURGE_RUNS_KEPT), removed)


KINDS: Mapping[str, Callable[[PurgeResult], None]] = {"media": _media, "results": _results, "log": _log}


def _rows(due: QuerySet[Any], removed: PurgeResult) -> None:
    """Counted by the database, so that of two purges at once each counts its own; without what goes along."""
    model: Any = due.model
    label = model._meta.label  # noqa: SLF001 - Django documents it
    for keys in _batches(due.values_list("pk", flat=True)):
        if removed.dry_run:
            removed.rows += len(keys)
        else:
            removed.rows += model.objects.filter(pk__in=keys).delete()[1].get(label, 0)


def _orphans(folder: str, is_over: Q, older_than: float, removed: PurgeResult) -> list[UUID]:
    """Files that their job needs no more, and files whose job is not there (any more, not: not yet). Returns the jobs
    whose file is gone."""
    gone = []
    old = set(_files_in(folder, ORPHAN_SECONDS))
    for batch in _batches(_files_in(folder, older_than)):
        owners = {path: files.job_id_of(path) for path in batch}
        jobs = Job.objects.filter(pk__in=[job_id for job_id in owners.values() if job_id])
        known = set(jobs.values_list("pk", flat=True))
        over = set(jobs.filter(is_over).values_list("pk", flat=True))
        for path, job_id in owners.items():
            if (job_id in over or (job_id not in known and path in old)) and removed.file(path) and job_id:
                gone.append(job_id)
    return gone


def _files_in(folder: str, older_than: float) -> Iterator[str]:
    """Storage paths of the files in a folder that have not been written to for so many seconds."""
    root = Path(settings.MEDIA_ROOT)
    before = time.time() - older_than
    for path in sorted((root / folder).glob("*")):
        try:
            found = path.stat()
            if S_ISREG(found.st_mode) and found.st_mtime <= before:
                yield str(path.relative_to(root))
        except FileNotFoundError:
            continue  # another purge was quicker


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(list(items))
    while batch := list(islice(iterator, BATCH)):
        yield batch
