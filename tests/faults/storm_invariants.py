"""What must hold once a storm is over: in the database, in the journal of the providers, and on the disk."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection
from django.utils import timezone

from jobs.models import Job, MediaObject
from jobs.retention import purge
from jobs.storage import files
from providers.models import ProviderCall
from stats.models import ProcessingLog


class Violation(NamedTuple):
    kind: str
    job_id: str  # "": of none
    note: str


# Each statement finds what must not be: (job or "", note).
STATEMENTS = {
    "a job is under way": "SELECT id, status FROM jobs_job WHERE NOT is_finalized",
    "a job did not end exactly once": """
        SELECT job.id, count(log.id) || ' ends in the log' FROM jobs_job AS job
        LEFT JOIN stats_processinglog AS log ON log.job_id = job.id AND log.status IN ('succeeded', 'failed', 'timeout')
        WHERE job.is_finalized GROUP BY job.id HAVING count(log.id) <> 1""",
    "a job and its log disagree": """
        SELECT job.id, log.status || ' in the log, ' || coalesce(failure_reason, 'success') || ' in the job'
        FROM jobs_job AS job JOIN stats_processinglog AS log ON log.job_id = job.id
        WHERE log.status IN ('succeeded', 'failed', 'timeout') AND log.status <> CASE
            WHEN failure_reason IS NULL THEN 'succeeded' WHEN failure_reason = 'timeout' THEN 'timeout'
            ELSE 'failed' END""",
    "a step belongs to no job": """
        SELECT job_id, min(status) FROM stats_processinglog AS log
        WHERE NOT EXISTS (SELECT FROM jobs_job WHERE id = job_id) GROUP BY job_id""",
    "the hourly counters are not the jobs": """
        WITH counted AS (
            SELECT slot_id, provider_id, sum(ingest_count) AS photos, sum(success) AS success,
                sum(timeouts) AS timeouts,
                sum(provider_errors) + sum(errors) AS failed, sum(cancelled) AS cancelled
            FROM stats_hourlycounter GROUP BY slot_id, provider_id
        ), found AS (
            SELECT slot_id, provider_id, count(*) AS photos, count(*) FILTER (WHERE failure_reason IS NULL) AS success,
                count(*) FILTER (WHERE failure_reason = 'timeout') AS timeouts,
                count(*) FILTER (WHERE failure_reason = 'provider_error') AS failed,
                count(*) FILTER (WHERE failure_reason = 'cancelled') AS cancelled
            FROM jobs_job WHERE is_finalized GROUP BY slot_id, provider_id
        ) SELECT '', counted::text || ' counted, ' || found::text || ' jobs' FROM counted
            FULL JOIN found USING (slot_id, provider_id)
        WHERE (counted.photos, counted.success, counted.timeouts, counted.failed, counted.cancelled)
            IS DISTINCT FROM (found.photos, found.success, found.timeouts, found.failed, found.cancelled)""",
    "the hourly totals are not the counters": """
        SELECT '', hour::text FROM (
            SELECT hour, provider_id, sum(ingest_count) AS photos, sum(success) AS made
            FROM stats_hourlycounter WHERE source = 'booth' GROUP BY hour, provider_id
        ) AS counted FULL JOIN stats_hourlytotal AS total USING (hour, provider_id)
        WHERE (photos, made) IS DISTINCT FROM (total.ingest_count, total.success)""",
    "a call is open though its job has ended": """
        SELECT job_id, 'call ' || call.id || ' to ' || call.provider_id FROM providers_providercall AS call
        WHERE ended_at IS NULL""",
    "two pictures were recorded for one job": """
        SELECT job_id, count(*) || ' made by ' || provider_id FROM providers_providercall
        WHERE outcome = 'made' GROUP BY job_id, provider_id, is_fallback HAVING count(*) > 1""",
    "an ended job keeps its photo": """
        SELECT id, payload_path FROM jobs_job WHERE is_finalized AND payload_path IS NOT NULL""",
    "an ended job keeps a public link": """
        SELECT job_id, path FROM jobs_mediaobject""",
}


def find_violations(journal: Path) -> list[Violation]:
    """Removes first what purges remove in the next minutes anyway; nobody is at work any more."""
    purge.ORPHAN_SECONDS = 0
    removed = purge._purge_kinds(["media", "results"], timezone.now() + timedelta(minutes=10))
    failed = [Violation("the purge failed", "", f"{removed.failed} files")] if removed.failed else []
    return [*failed, *_run_statements(), *_check_orders(_read_journal(journal)), *_check_files()]


def _run_statements() -> Iterator[Violation]:
    with connection.cursor() as cursor:
        for kind, statement in STATEMENTS.items():
            cursor.execute(statement)
            for job_id, note in cursor.fetchall():
                yield Violation(kind, str(job_id), str(note))


def _read_journal(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _check_orders(orders: list[dict[str, Any]]) -> Iterator[Violation]:
    """The journal against the calls: each bill recorded, none twice, none for a job that has ended."""
    jobs = {job.metadata["name"]: job for job in Job.objects.all()}
    calls: defaultdict[tuple[Any, str], Counter[str]] = defaultdict(Counter)
    for job_id, provider, outcome in ProviderCall.objects.values_list("job_id", "provider_id", "outcome"):
        calls[job_id, "queue" if provider == "queued" else provider][outcome or "open"] += 1
    billed: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for order in orders:
        billed[order["post"], order["provider"]].append(order["at"])
    for (post, provider), times in billed.items():
        yield from _check_bills(post, provider, times, jobs.get(post), calls)
    ordered = {(jobs[post].pk, provider) for post, provider in billed if post in jobs}
    for (job_id, provider), outcomes in calls.items():
        if outcomes["made"] and (job_id, provider) not in ordered and provider != "fetching":
            yield Violation("a picture is recorded that nobody made", str(job_id), provider)


def _check_bills(
    post: str, provider: str, times: list[float], job: Job | None, calls: dict[tuple[Any, str], Counter[str]]
) -> Iterator[Violation]:
    if job is None:
        yield Violation("a photo was paid that no job has", "", f"{post} at {provider}")
        return
    job_id = str(job.pk)
    recorded = sum(calls[job.pk, provider].values()) + sum(calls[job.pk, "fetching"].values()) * (provider == "instant")
    if len(times) > recorded:
        yield Violation("a paid call is not recorded", job_id, f"{len(times)} by {provider}, {recorded} recorded")
    may_repeat = (job.settings_json.get("retry") or {}).get("repeat_ambiguous")
    if len(times) > 1 and not may_repeat:
        yield Violation("paid twice", job_id, f"{len(times)} times by {provider}")
    ended = job.finalized_at.timestamp() if job.finalized_at else float("inf")
    if late := [at for at in times if at > ended + 0.1]:
        yield Violation("paid after the job's end", job_id, f"{late[0] - ended:.1f} s after it, by {provider}")


def count_lost_pictures(journal: Path) -> int:
    """Billed pictures of jobs that ended without one. Some must be: too late, or their answer was lost."""
    made = set(Job.objects.filter(result_checksum__isnull=False).values_list("metadata__name", flat=True))
    return sum(order["kind"] == "ok" and order["post"] not in made for order in _read_journal(journal))


def _check_files() -> Iterator[Violation]:
    kept = Job.objects.filter(result_file_path__isnull=False).values_list("result_file_path", "pk")
    results = {str(path): pk for path, pk in kept}
    linked = {*MediaObject.objects.values_list("path", flat=True)}
    expected = {*results, *(files.thumbnail_path(path) for path in results), *linked}
    root = Path(settings.MEDIA_ROOT)
    stored = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    for path in sorted(stored - expected):
        if not path.startswith(("secrets/", "templates/")):
            yield Violation("a file belongs to nobody", str(files.parse_job_id(path) or ""), path)
    for path in sorted(results.keys() - stored):
        yield Violation("a result's file is missing", str(results[path]), path)


def describe(violations: Iterable[Violation], most: int = 5) -> str:
    """By kind, each with the log of its first jobs."""
    by_kind: defaultdict[str, list[Violation]] = defaultdict(list)
    for violation in violations:
        by_kind[violation.kind].append(violation)
    lines: list[str] = []
    for kind, found in by_kind.items():
        lines.append(f"{len(found)} x {kind}")
        for violation in found[:most]:
            lines.append(f"    {violation.job_id} {violation.note}")
            if violation.job_id:
                lines += [f"        {step}" for step in _list_steps(violation.job_id)]
    return "\n".join(lines)


def _list_steps(job_id: str) -> list[str]:
    calls = ProviderCall.objects.filter(job_id=job_id).order_by("id")
    steps = [
        (step.occurred_at, f"{step.status}: {step.message}") for step in ProcessingLog.objects.filter(job_id=job_id)
    ]
    steps += [(call.at, f"call {call.pk} to {call.provider_id}: {call.outcome or 'open'}") for call in calls]
    return [f"{at:%H:%M:%S.%f}"[:-3] + f" {text}" for at, text in sorted(steps)]
