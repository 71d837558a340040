"""Removing what has expired: temporary media, results, old log entries, and files that a crash left behind. Rooms above
add what they keep (`purge_with`).

Files are removed before their rows, so that after any failure the next run finds the rest. Two runs at once do no
harm: what one has removed, the other does not find.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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

BATCH = 500  # rows at a time, which keeps transactions short beside those of the booths' jobs
# A younger file without a row may be a photo or a result whose row is about to be written.
ORPHAN_SECONDS = 120
# For this long after a job's end, its booth may still be receiving its own photo (`on_failure`).
RESPONSE_TIME = timedelta(seconds=30)
PROCESS_RETENTION = timedelta(minutes=5)
PURGE_RUN_RETENTION = timedelta(days=30)


@dataclass(slots=True)
class PurgeResult:
    """What a purge of all that had expired at `cutoff` removed, or with `dry_run` would remove. `failed` counts files
    that could not be removed."""

    cutoff: datetime
    dry_run: bool = False
    files: int = 0
    bytes: int = 0
    rows: int = 0
    failed: int = 0
    _counted: set[str] = field(default_factory=set)  # a `dry_run` can meet the same file twice

    def delete(self, path: str) -> bool:
        """Deletes the file, if it exists, and counts it. False: it could not be deleted."""
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
    """Purges the given `KINDS` and records it (`PurgeRun`, `PurgeTotal`)."""
    now, kinds = timezone.now(), list(kinds)
    if dry_run:
        return _purge_kinds(kinds, now, dry_run=True)
    return run_purge(PurgeRun.objects.create(kinds=kinds, cutoff_at=now, started_at=now))


def run_purge(run: PurgeRun) -> PurgeResult:
    """Purges what had expired at the run's cutoff, and records the result in the run, unless another process has
    claimed it meanwhile: then that one records its own."""
    removed = _purge_kinds(run.kinds, run.cutoff_at)
    done = {"files": removed.files, "bytes": removed.bytes, "rows": removed.rows}
    unfinished = PurgeRun.objects.filter(pk=run.pk, started_at=run.started_at, finished_at=None)
    if not unfinished.update(finished_at=timezone.now(), **done):
        logger.warning("Purge %s took so long that another process has taken it, too", run.request_id)
    return removed


def _purge_kinds(kinds: Iterable[str], cutoff: datetime, *, dry_run: bool = False) -> PurgeResult:
    total = PurgeResult(cutoff, dry_run)
    for kind in kinds:
        removed = PurgeResult(cutoff, dry_run)
        for purger in KINDS[kind]:
            purger(removed)
        total.add(removed)
        if not dry_run:
            _add_to_total(kind, removed)
    return total


def _add_to_total(kind: str, removed: PurgeResult) -> None:
    PurgeTotal.objects.get_or_create(pk=kind)
    stored = {"stored_bytes": _measure_files()} if kind == "media" else {}  # each minute
    PurgeTotal.objects.filter(pk=kind).update(
        runs=F("runs") + 1,
        files=F("files") + removed.files,
        bytes=F("bytes") + removed.bytes,
        rows=F("rows") + removed.rows,
        last_run_at=timezone.now(),
        **stored,
    )


def _measure_files() -> int:
    """Bytes of all files under MEDIA_ROOT: once per purge, and not at each scrape of the metrics."""
    total = 0
    for folder, _folders, names in os.walk(settings.MEDIA_ROOT):
        for name in names:
            with suppress(FileNotFoundError):  # removed since it was listed
                total += os.lstat(Path(folder, name)).st_size
    return total


def _purge_media(removed: PurgeResult) -> None:
    """Expired media objects, photos of jobs that have ended, inline copies of results, unfinished uploads."""
    now = removed.cutoff
    expired = MediaObject.objects.filter(expires_at__lte=now)
    deleted = [pk for pk, path in expired.values_list("pk", "path") if removed.delete(path)]
    delete_rows(MediaObject.objects.filter(pk__in=deleted), removed)
    is_answered = Q(settings_json__on_failure=None) | Q(settings_json__on_failure__isnull=True)
    is_answered |= Q(finalized_at__lte=now - RESPONSE_TIME) | Q(is_finalized=False, expires_at__lte=now - RESPONSE_TIME)
    is_over = (Q(finalized_at__lte=now) | Q(expires_at__lte=now)) & is_answered
    for paths, jobs in _find_due_photos(is_over):
        if not removed.dry_run:  # before the files, or a crash would leave a path without its photo
            Job.objects.filter(pk__in=jobs).update(payload_path=None)
        for path in paths:
            removed.delete(path)
    if not removed.dry_run:
        Job.objects.filter(result_inline_base64__isnull=False, expires_at__lte=now).update(result_inline_base64=None)
    linked = set(MediaObject.objects.values_list("path", flat=True))
    for folder in ("media", "tmp"):
        for path in _list_files(folder, ORPHAN_SECONDS):
            if path not in linked:
                removed.delete(path)


def _purge_results(removed: PurgeResult) -> None:
    """Results past their retention with their thumbnails, and such files that are no job's result."""
    now = removed.cutoff
    due = Job.objects.filter(result_file_path__isnull=False, result_expires_at__lte=now).order_by("result_expires_at")
    for batch in _split(due.values_list("pk", "result_file_path")):
        deleted = [pk for pk, path in batch if path and _delete_result(path, removed)]
        if not removed.dry_run:
            Job.objects.filter(pk__in=deleted).update(result_file_path=None)
    for folder in ("results", "thumbnails"):
        for path in _find_unused_results(folder, now):
            removed.delete(path)


def _delete_result(path: str, removed: PurgeResult) -> bool:
    """With its thumbnail, which goes first: its name follows from the result's."""
    return removed.delete(files.thumbnail_path(path)) and removed.delete(path)


def _purge_log(removed: PurgeResult) -> None:
    """Log entries, calls and jobs past LOG_RETENTION_DAYS; rows of stopped processes and of old purges."""
    now = removed.cutoff
    cutoff = now - timedelta(days=settings.LOG_RETENTION_DAYS)
    delete_rows(ProcessingLog.objects.filter(occurred_at__lt=cutoff), removed)
    delete_rows(ProviderCall.objects.filter(at__lt=cutoff), removed)
    delete_rows(Job.objects.filter(created_at__lt=cutoff, is_finalized=True, result_file_path=None), removed)
    delete_rows(Process.objects.filter(seen_at__lt=now - PROCESS_RETENTION), removed)
    delete_rows(PurgeRun.objects.filter(cutoff_at__lt=now - PURGE_RUN_RETENTION), removed)


KINDS: dict[str, list[Callable[[PurgeResult], None]]] = {
    "media": [_purge_media],
    "results": [_purge_results],
    "log": [_purge_log],
}


def purge_with(kind: str, purger: Callable[[PurgeResult], None]) -> None:
    """Adds to a kind what another room keeps: its app's `ready` calls this."""
    KINDS[kind].append(purger)


def delete_rows(due: QuerySet[Any], removed: PurgeResult) -> None:
    """Deletes the rows, in batches. Counts by the database's own number, so that two purges at once count no row twice;
    cascades are not counted."""
    model: Any = due.model
    label = model._meta.label  # noqa: SLF001 - Django documents it
    for keys in _split(due.values_list("pk", flat=True)):
        if removed.dry_run:
            removed.rows += len(keys)
        else:
            removed.rows += model.objects.filter(pk__in=keys).delete()[1].get(label, 0)


def _find_due_photos(is_over: Q) -> Iterator[tuple[list[str], set[UUID]]]:
    """Yields, in batches, photos whose job `is_over` and those past ORPHAN_SECONDS without a job, with the jobs that
    are over."""
    old = set(_list_files("payloads", ORPHAN_SECONDS))
    for batch in _split(_list_files("payloads", older_than=0)):
        owners = {path: files.parse_job_id(path) for path in batch}
        jobs = Job.objects.filter(pk__in=[job_id for job_id in owners.values() if job_id])
        known = set(jobs.values_list("pk", flat=True))
        over = set(jobs.filter(is_over).values_list("pk", flat=True))
        yield [path for path, job in owners.items() if job in over or (job not in known and path in old)], over


def _find_unused_results(folder: str, now: datetime) -> Iterator[str]:
    """The folder's files past ORPHAN_SECONDS that are no job's result, such as those of a worker that lost its claim. A
    job that is under way may still take its file."""
    for batch in _split(_list_files(folder, ORPHAN_SECONDS)):
        owners = {path: files.parse_job_id(path) for path in batch}
        jobs = Job.objects.filter(pk__in=[job_id for job_id in owners.values() if job_id])
        running = set(jobs.filter(is_finalized=False, expires_at__gt=now).values_list("pk", flat=True))
        results = jobs.filter(result_file_path__isnull=False).values_list("result_file_path", flat=True)
        used = {Path(str(path)).stem for path in results}  # a thumbnail has its result's name
        yield from (path for path, job in owners.items() if job not in running and Path(path).stem not in used)


def _list_files(folder: str, older_than: float) -> Iterator[str]:
    """Storage paths of the folder's files that were last written more than `older_than` seconds ago."""
    root = Path(settings.MEDIA_ROOT)
    before = time.time() - older_than
    for path in sorted((root / folder).glob("*")):
        try:
            found = path.stat()
            if S_ISREG(found.st_mode) and found.st_mtime <= before:
                yield str(path.relative_to(root))
        except FileNotFoundError:
            continue  # another purge removed it first


def _split(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(list(items))
    while batch := list(islice(iterator, BATCH)):
        yield batch
