"""`/api/jobs`: the list of jobs, one job with its processing log, and cancelling a job under way."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

from django.contrib.admin.models import CHANGE
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import ApiError
from jobs.lifecycle import cancel_job
from jobs.models import Job
from staff.api.base import StaffView, log_change
from staff.api.operation import operation
from staff.api.processing_log import STEP, Steps
from staff.api.serializers import QueryBooleanField, QueryIntegerField, StrictSerializer
from stats.models import ProcessingLog

# A list counts and pages through at most this many jobs: counting a million takes 0.1 s and more. `after` reaches older
# jobs as quickly as new ones.
COUNT_LIMIT = 10_000
PAGE_SIZE = 100  # the largest page, contract §6
FILTERS = ("is_finalized", "failure_reason", "slot_id")
# The jobs of a status, in parts that each have an index: `job_unfinished` and `job_ended_waiting` serve the few among
# a million that wait, or waited until they ended. `status` is in no index, because every claim changes it.
PARTS: Mapping[str | None, tuple[Q, ...]] = {
    None: (Q(),),
    Job.Status.PENDING.value: (Q(is_finalized=False, status=Job.Status.PENDING), Q(ended_waiting=True)),
    Job.Status.PROCESSING.value: (Q(status=Job.Status.PROCESSING),),
}


class JobsQuery(StrictSerializer):
    status = serializers.ChoiceField(
        choices=Job.Status.values, required=False, help_text="Of a job that has ended: where it was then."
    )
    is_finalized = QueryBooleanField(required=False)
    failure_reason = serializers.ChoiceField(choices=Job.Failure.values, required=False)
    slot_id = serializers.CharField(required=False)
    sort_by = serializers.ChoiceField(choices=("created_at", "expires_at"), default="created_at")
    sort_order = serializers.ChoiceField(choices=("asc", "desc"), default="desc")
    after = serializers.UUIDField(
        required=False, help_text="Id of the last job that was seen: the list goes on behind it, and pages begin there."
    )
    page = QueryIntegerField(min_value=1, max_value=COUNT_LIMIT, default=1)
    page_size = QueryIntegerField(min_value=1, max_value=PAGE_SIZE, default=20)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["page"] * attrs["page_size"] > COUNT_LIMIT:
            text = _("Pages end at %(count)s jobs. Go on with “after”.") % {"count": COUNT_LIMIT}
            raise serializers.ValidationError({"page": [text]})
        return attrs


class JobAnswer(serializers.Serializer[Job]):
    id = serializers.UUIDField()
    slot_id = serializers.CharField()
    status = serializers.ChoiceField(choices=Job.Status.choices)
    is_finalized = serializers.BooleanField()
    failure_reason = serializers.ChoiceField(choices=Job.Failure.choices, allow_null=True)
    provider_job_reference = serializers.CharField(allow_null=True)
    payload_path = serializers.CharField(allow_null=True, help_text="Null once the photo is removed.")
    result_file_path = serializers.CharField(allow_null=True, help_text="Null before there is a picture, and after.")
    result_inline_base64 = serializers.CharField(
        allow_null=True, help_text="A small picture, for the moment in which it is handed to the booth; else null."
    )
    result_mime_type = serializers.CharField(allow_null=True)
    result_size_bytes = serializers.IntegerField(allow_null=True)
    result_checksum = serializers.CharField(allow_null=True, help_text="SHA-256, in hex.")
    result_expires_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    finalized_at = serializers.DateTimeField(allow_null=True)


class DeadlineAnswer(serializers.Serializer[Any]):
    expires_at = serializers.DateTimeField()
    remaining_ms = serializers.IntegerField(min_value=0)
    is_expired = serializers.BooleanField(help_text="The time is over, whether the job ended in it or not.")


class MetricsAnswer(serializers.Serializer[Any]):
    queue_wait_ms = serializers.IntegerField(min_value=0, help_text="Until a worker took it, or so far.")
    processing_ms = serializers.IntegerField(
        min_value=0, allow_null=True, help_text="Since then, or until its end. Null: no worker took it."
    )
    total_elapsed_ms = serializers.IntegerField(min_value=0, help_text="From arrival to the end, or so far.")


class JobSummary(serializers.Serializer[Any]):
    job = JobAnswer()
    deadline = DeadlineAnswer()
    metrics = MetricsAnswer()


class JobStory(JobSummary):
    processing_log = Steps(help_text="In the order in which it happened.")


class JobsMeta(serializers.Serializer[Any]):
    page = serializers.IntegerField()
    page_size = serializers.IntegerField()
    total = serializers.IntegerField(max_value=COUNT_LIMIT)
    is_total_exact = serializers.BooleanField(help_text="False: there are more than were counted.")


class JobList(serializers.Serializer[Any]):
    data = JobSummary(many=True)  # type: ignore[assignment]  # a field, which hides the serializer's `data`
    meta = JobsMeta()


COLUMNS = tuple(JobAnswer().fields)
SUMMARY: dict[str, Any] = {
    "job": {
        "id": STEP["job_id"],
        "slot_id": "slot-001",
        "status": "processing",
        "is_finalized": True,
        "failure_reason": None,
        "provider_job_reference": None,
        "payload_path": None,
        "result_file_path": f"results/{STEP['job_id']}.jpg",
        "result_inline_base64": None,
        "result_mime_type": "image/jpeg",
        "result_size_bytes": 912345,
        "result_checksum": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "result_expires_at": "2026-11-28T12:00:04.300000Z",
        "expires_at": "2026-11-25T12:00:48.000000Z",
        "created_at": "2026-11-25T12:00:00.000000Z",
        "updated_at": "2026-11-25T12:00:04.300000Z",
        "finalized_at": "2026-11-25T12:00:04.300000Z",
    },
    "deadline": {"expires_at": "2026-11-25T12:00:48.000000Z", "remaining_ms": 40000, "is_expired": False},
    "metrics": {"queue_wait_ms": 12, "processing_ms": 4288, "total_elapsed_ms": 4300},
}
CANCELLED: dict[str, Any] = SUMMARY | {
    "job": SUMMARY["job"]
    | {name: None for name in COLUMNS if name.startswith("result_")}
    | {"failure_reason": Job.Failure.CANCELLED.value}
}


class JobsView(StaffView):
    @operation(
        "listJobs",
        "The booths' jobs",
        about="Without test runs. Counting and paging end at ten thousand; `after` goes on from any job.",
        tag="jobs",
        scope="stats:read",
        query=JobsQuery,
        response=JobList,
        example={"data": [SUMMARY], "meta": {"page": 1, "page_size": 20, "total": 1, "is_total_exact": True}},
    )
    def get(self, request: Request, query: dict[str, Any]) -> Response:
        rows, parts = _filter(query), PARTS[query.get("status")]
        count = sum(_order_for_count(rows.filter(part), query)[: COUNT_LIMIT + 1].count() for part in parts)
        page, size = query["page"], query["page_size"]
        rows = _select_columns(_order(rows.filter(reduce(or_, parts)), query))[(page - 1) * size : page * size]
        meta = {
            "page": page,
            "page_size": size,
            "total": min(count, COUNT_LIMIT),
            "is_total_exact": count <= COUNT_LIMIT,
        }
        return Response({"data": [_summarize(row) for row in rows], "meta": meta})


class JobView(StaffView):
    @operation(
        "getJob",
        "A job and its processing log",
        tag="jobs",
        scope="stats:read",
        response=JobStory,
        example=SUMMARY | {"processing_log": [STEP]},
        refusals=("not_found",),
    )
    def get(self, request: Request, job_id: UUID) -> Response:
        steps = ProcessingLog.objects.filter(job_id=job_id).order_by("id")
        return Response(_summarize(_get_job(job_id)) | {"processing_log": Steps().to_representation(steps)})


class CancelJobView(StaffView):
    @operation(
        "cancelJob",
        "Cancel a job that is under way",
        about="Its booth gets 503 `job_cancelled` at once, and its provider is not waited for.",
        tag="jobs",
        scope="slots:write",  # as for archiving a slot, which cancels jobs too: readers may end no job
        status=202,
        response=JobSummary,
        example=CANCELLED,
        refusals=("job_finalized", "not_found"),
    )
    def post(self, request: Request, job_id: UUID) -> Response:
        _get_job(job_id)
        if not cancel_job(job_id, request.user.get_username()):
            raise ApiError("job_finalized", _("The job had already ended, nothing was changed."))
        log_change(Job(pk=job_id), CHANGE, _("Cancelled"), request.user)
        return Response(_summarize(_get_job(job_id)), status=202)


def _get_job(job_id: UUID) -> dict[str, Any]:
    row: dict[str, Any] | None = _select_columns(Job.objects.filter(pk=job_id)).first()
    if row is None:
        raise ApiError("not_found", _("There is no such job."))
    return row


def _filter(query: Mapping[str, Any]) -> QuerySet[Job]:
    rows = Job.objects.filter(source=Job.Source.BOOTH, **{name: query[name] for name in FILTERS if name in query})
    return _start_after(rows, query) if "after" in query else rows


def _start_after(rows: QuerySet[Job], query: Mapping[str, Any]) -> QuerySet[Job]:
    field, last = query["sort_by"], query["after"]
    value = Job.objects.filter(pk=last).values_list(field, flat=True).first()
    if value is None:
        raise serializers.ValidationError({"after": [_("There is no such job.")]})
    side = "lte" if query["sort_order"] == "desc" else "gte"
    # Not "earlier, or equal and …": so Postgres reads one range of the index and drops the few rows of that very time.
    return rows.filter(~Q(**{field: value, f"id__{side}": last}), **{f"{field}__{side}": value})


def _order_for_count(rows: QuerySet[Job], query: Mapping[str, Any]) -> QuerySet[Job]:
    """For counting: orders by an index that finds the rows, or Postgres would scan the table."""
    return rows.order_by(f"-{query['sort_by']}" if "after" in query else "-created_at")


def _order(rows: QuerySet[Job], query: Mapping[str, Any]) -> QuerySet[Job]:
    """In the order of the indexes `job_newest_first` and `job_by_deadline`, or backwards; `id` breaks ties."""
    field = query["sort_by"]
    return rows.order_by(f"-{field}", "id") if query["sort_order"] == "desc" else rows.order_by(field, "-id")


def _select_columns(rows: QuerySet[Job]) -> Any:
    """Selects only what responses contain, and the database's time, by which the jobs' times were set."""
    return rows.values(*COLUMNS, "claimed_at", now=Now())


def _summarize(row: dict[str, Any]) -> dict[str, Any]:
    now, claimed_at, created_at, expires_at = row["now"], row["claimed_at"], row["created_at"], row["expires_at"]
    end = row["finalized_at"] or now
    return {
        "job": {name: row[name] for name in COLUMNS},
        "deadline": {
            "expires_at": expires_at,
            "remaining_ms": _elapsed_ms(now, expires_at),
            "is_expired": expires_at <= now,
        },
        "metrics": {
            "queue_wait_ms": _elapsed_ms(created_at, claimed_at or end),
            "processing_ms": _elapsed_ms(claimed_at, end) if claimed_at else None,
            "total_elapsed_ms": _elapsed_ms(created_at, end),
        },
    }


def _elapsed_ms(start: datetime, end: datetime) -> int:
    return max(0, round((end - start).total_seconds() * 1000))
