"""Jobs, media objects, and small tables that record running processes and purges.

A job's states, and who may cause each move (all moves are conditional UPDATEs in `queue`):

    pending ──claim──▶ processing ──finalize──▶ final        the worker that holds the claim's token
       ▲                   │
       └─────release───────┘                                 that worker, when it must leave early
    processing ──claim──▶ processing                         any worker, once the lease has run out
    pending, processing ──cancel──▶ final (cancelled)        staff
    pending, processing ──expire──▶ final (timeout)          any process, once past `expires_at`

Final is `is_finalized`; nothing moves from there.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from providers.base import Reason
from slots.models import Slot


class Job(models.Model):
    """The processing of one photo by one slot; the row is also the queue entry."""

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        PROCESSING = "processing", _("processing")

    class Failure(models.TextChoices):
        TIMEOUT = "timeout", _("timed out")
        PROVIDER_ERROR = "provider_error", _("provider error")
        CANCELLED = "cancelled", _("cancelled")

    class Source(models.TextChoices):
        BOOTH = "booth", _("booth")
        TEST = "test", _("test run")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slot = models.ForeignKey(Slot, models.PROTECT, db_index=False, verbose_name=_("slot"))
    source = models.CharField(_("source"), max_length=8, choices=Source, db_default=Source.BOOTH)
    # A copy of the slot's provider, operation and settings, made when the photo arrived.
    provider_id = models.CharField(_("provider"), max_length=32)
    operation_id = models.CharField(_("operation"), max_length=32)
    settings_json = models.JSONField(_("settings"))
    template_media = models.JSONField(_("template images"), db_default={})  # `setting_key` → template media id

    status = models.CharField(_("status"), max_length=10, choices=Status, db_default=Status.PENDING)
    is_finalized = models.BooleanField(_("finished"), db_default=False)
    # For `job_ended_waiting`. An index on `status` itself would make each claim write into every index of the table.
    ended_waiting = models.GeneratedField(
        expression=Q(is_finalized=True, status="pending"),  # type: ignore[arg-type]  # the stubs know no Q here
        output_field=models.BooleanField(),
        db_persist=True,
    )
    failure_reason = models.CharField(_("failure"), max_length=14, choices=Failure, null=True)
    error_reason = models.CharField(_("reason"), max_length=14, choices=Reason, null=True)
    error_message = models.CharField(_("error"), max_length=2048, db_default="")

    # The worker's lease. `claim_token` is the fencing token: only its holder may finish the job, whatever its name.
    claim_token = models.UUIDField(null=True)
    lease_expires_at = models.DateTimeField(_("worker's lease until"), null=True)
    claims = models.PositiveSmallIntegerField(_("claims"), db_default=0)
    lost_claims = models.PositiveSmallIntegerField(_("workers lost"), db_default=0)  # claims whose lease ran out
    provider_job_reference = models.CharField(_("provider's reference"), max_length=255, null=True)
    used_fallback = models.BooleanField(_("fell back"), db_default=False)  # the slot's fallback was or is called

    payload_path = models.CharField(_("photo"), max_length=100, null=True)
    payload_mime_type = models.CharField(_("photo's type"), max_length=40)
    payload_digest = models.BinaryField(max_length=32)  # SHA-256 of the photo as it was posted
    booth_id = models.CharField(_("booth"), max_length=255, db_default="")  # the form's `id`
    metadata = models.JSONField(_("booth's fields"), encoder=DjangoJSONEncoder, db_default={})

    result_file_path = models.CharField(_("result"), max_length=100, null=True)
    result_inline_base64 = models.TextField(null=True)  # short-lived hand-off of a small result to the waiting booth
    result_mime_type = models.CharField(_("result's type"), max_length=40, null=True)
    result_size_bytes = models.PositiveBigIntegerField(_("result's size, bytes"), null=True)
    result_checksum = models.CharField(_("result's SHA-256"), max_length=64, null=True)
    result_expires_at = models.DateTimeField(_("result expires"), null=True)

    created_at = models.DateTimeField(_("received"), db_default=Now())
    updated_at = models.DateTimeField(_("changed"), db_default=Now())
    claimed_at = models.DateTimeField(_("first claimed"), null=True)
    expires_at = models.DateTimeField(_("deadline"))
    finalized_at = models.DateTimeField(_("finished at"), null=True)
    delivered_at = models.DateTimeField(_("delivered"), null=True)

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        ordering = ["-created_at"]
        permissions = [("cancel_job", _("Can cancel a job"))]
        indexes = [
            # The queue itself: admission's count, claim's oldest first, the sweep of overdue jobs. Stays a page long.
            models.Index(fields=["created_at"], condition=Q(is_finalized=False), name="job_unfinished"),
            # Joining a repeated post: undelivered jobs of the same photo.
            models.Index(
                fields=["payload_digest"],
                condition=Q(delivered_at=None, failure_reason=None),
                name="job_undelivered_photo",
            ),
            # The admin's and the API's list, newest first. With `source`, which never changes, and `id`, which breaks
            # ties between pages, in the index of a list, the API counts by an index-only scan.
            models.Index(fields=["-created_at", "id"], include=["source"], name="job_newest_first"),
            # The API's list by deadline.
            models.Index(fields=["-expires_at", "id"], include=["source"], name="job_by_deadline"),
            # The admin's and the API's list of one slot, and a slot's latest results.
            models.Index(fields=["slot", "-created_at", "id"], include=["source"], name="job_newest_of_slot"),
            # The list's filter by provider, even a rarely used one.
            models.Index(fields=["provider_id", "-created_at"], name="job_newest_of_provider"),
            # The list's filter by failure: a handful among a million, found without a walk through the others.
            models.Index(
                fields=["failure_reason", "-created_at", "id"],
                include=["source"],
                condition=Q(failure_reason__isnull=False),
                name="job_newest_failures",
            ),
            # Failures of one slot, even of a kind that it never had.
            models.Index(
                fields=["slot", "failure_reason", "-created_at", "id"],
                include=["source"],
                condition=Q(failure_reason__isnull=False),
                name="job_failures_of_slot",
            ),
            # The API's list of jobs that ended while pending: rare, even among failures.
            models.Index(
                fields=["-created_at", "id"],
                include=["source"],
                condition=Q(ended_waiting=True),
                name="job_ended_waiting",
            ),
            # Purge: results past their retention. A row leaves the index when its file is removed.
            models.Index(
                fields=["result_expires_at"], condition=Q(result_file_path__isnull=False), name="job_result_to_purge"
            ),
            # Purge: inline copies that a crash left. All others are cleared within seconds.
            models.Index(
                fields=["expires_at"], condition=Q(result_inline_base64__isnull=False), name="job_inline_to_purge"
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="job_finalized_has_time", condition=Q(is_finalized=Q(finalized_at__isnull=False))
            ),
            models.CheckConstraint(
                name="job_failure_is_final", condition=Q(failure_reason=None) | Q(is_finalized=True)
            ),
            # A result is complete or absent; a purge clears its file name and keeps its checksum. One that came after
            # the deadline leaves the job a timeout.
            models.CheckConstraint(
                name="job_result_is_whole",
                condition=Q(result_checksum=None, result_file_path=None, result_expires_at=None)
                | Q(
                    Q(failure_reason=None) | Q(failure_reason="timeout"),
                    is_finalized=True,
                    result_checksum__isnull=False,
                    result_mime_type__isnull=False,
                    result_size_bytes__isnull=False,
                    result_expires_at__isnull=False,
                ),
            ),
            models.CheckConstraint(
                name="job_success_has_result",
                condition=Q(is_finalized=False) | Q(failure_reason__isnull=False) | Q(result_checksum__isnull=False),
            ),
            # A pending job has no lease, a processing job has one.
            models.CheckConstraint(
                name="job_lease_follows_status",
                condition=Q(is_finalized=True)
                | Q(status="pending", claim_token=None, lease_expires_at=None)
                | Q(status="processing", claim_token__isnull=False, lease_expires_at__isnull=False),
            ),
            models.CheckConstraint(name="job_expires_after_creation", condition=Q(expires_at__gt=F("created_at"))),
        ]

    def __str__(self) -> str:
        return str(self.pk)


class MediaObject(models.Model):
    """A temporary file with a public link, for providers that fetch the photo by URL."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    job = models.ForeignKey(Job, models.CASCADE, null=True, related_name="media_objects", verbose_name=_("job"))
    # "": the job's photo; another key: the template image of that setting. None: registered by staff.
    setting_key = models.CharField(_("key"), max_length=64, null=True)
    path = models.CharField(_("file"), max_length=100)
    mime_type = models.CharField(_("type"), max_length=40)
    size_bytes = models.PositiveBigIntegerField(_("size, bytes"))
    created_at = models.DateTimeField(_("created"), db_default=Now())
    expires_at = models.DateTimeField(_("expires"))

    class Meta:
        verbose_name = _("media object")
        verbose_name_plural = _("media objects")
        indexes = [
            # Purge: expired objects.
            models.Index(fields=["expires_at"], name="media_object_to_purge")
        ]
        constraints = [
            # A job has one link to its photo and to each template image, also after it is claimed again.
            models.UniqueConstraint(fields=["job", "setting_key"], name="media_object_once_per_job")
        ]

    def __str__(self) -> str:
        return str(self.pk)


class Process(models.Model):
    """A running web or worker process, updated every few seconds. For `/readyz`, metrics and staff; no job needs it."""

    class Kind(models.TextChoices):
        WEB = "web", _("web")
        WORKER = "worker", _("worker")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(_("kind"), max_length=6, choices=Kind)
    name = models.CharField(_("host and process"), max_length=120)
    capacity = models.PositiveIntegerField(_("jobs at once"), db_default=0)
    busy = models.PositiveIntegerField(_("jobs now"), db_default=0)
    is_listening = models.BooleanField(_("hears notifications"))
    started_at = models.DateTimeField(_("started"), db_default=Now())
    seen_at = models.DateTimeField(_("last seen"), db_default=Now())

    class Meta:
        verbose_name = _("process")
        verbose_name_plural = _("processes")

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class PurgeTotal(models.Model):
    """Totals of all purges of one kind: the metrics never fall, though old runs are deleted."""

    kind = models.CharField(primary_key=True, max_length=16)
    runs = models.PositiveBigIntegerField(db_default=0)
    files = models.PositiveBigIntegerField(db_default=0)
    bytes = models.PositiveBigIntegerField(db_default=0)
    rows = models.PositiveBigIntegerField(db_default=0)
    last_run_at = models.DateTimeField(db_default=Now())
    # What all files under MEDIA_ROOT took when the last purge of `media` ended; null for other kinds.
    stored_bytes = models.PositiveBigIntegerField(null=True)

    def __str__(self) -> str:
        return self.kind


class PurgeRun(models.Model):
    """One run of a purge, and what it removed. A run that staff requested has a `request_id`, and waits for a worker
    to start it."""

    request_id = models.UUIDField(_("request"), null=True, unique=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("asked for by")
    )
    # What expires later is left to the next run.
    cutoff_at = models.DateTimeField(_("of what had expired at"), db_default=Now())
    started_at = models.DateTimeField(_("started"), null=True)
    finished_at = models.DateTimeField(_("finished"), null=True)
    kinds = ArrayField(models.CharField(max_length=16), verbose_name=_("what"))
    files = models.PositiveIntegerField(_("files removed"), db_default=0)
    bytes = models.PositiveBigIntegerField(_("bytes freed"), db_default=0)
    rows = models.PositiveIntegerField(_("rows removed"), db_default=0)

    class Meta:
        verbose_name = _("purge")
        verbose_name_plural = _("purges")
        ordering = ["-id"]
        indexes = [
            # The workers' query, once a second: requested runs that have not finished.
            models.Index(fields=["id"], condition=Q(request_id__isnull=False, finished_at=None), name="purge_requested")
        ]
        constraints = [
            # A second request while one waits returns the waiting one.
            models.UniqueConstraint(
                fields=["kinds"], condition=Q(request_id__isnull=False, started_at=None), name="purge_waits_once"
            ),
            models.CheckConstraint(
                name="purge_started_or_requested",
                condition=Q(started_at__isnull=False) | Q(request_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.cutoff_at:%Y-%m-%d %H:%M:%S}"
