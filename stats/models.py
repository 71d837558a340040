"""The processing log, the hourly counters, and what reports need besides. Written by `journal`, inside the queue's
transactions."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Cast, Extract, Now
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from slots.models import Slot


class JSONInOrder(models.JSONField):
    """`json`, not `jsonb`, to keep keys in the order they were written. Never searched, only displayed."""

    def db_type(self, connection: object) -> str:
        return "json"

    def from_db_value(self, value: Any, expression: object, connection: object) -> Any:
        """Returns the value as it is: Django decodes `jsonb` itself, but psycopg has already decoded `json`."""
        return value


class ProcessingLog(models.Model):
    """One step of a job (contract §3). Append-only."""

    class Status(models.TextChoices):
        RECEIVED = "received", _("received")
        DISPATCHED = "dispatched", _("dispatched")
        PROVIDER_RESPONDED = "provider_responded", _("provider responded")
        TIMEOUT = "timeout", _("timed out")
        FAILED = "failed", _("failed")
        SUCCEEDED = "succeeded", _("succeeded")

    job_id = models.UUIDField(_("job"))
    # No database constraint: slots are archived, never deleted, and the check would cost each step a row lock.
    slot = models.ForeignKey(Slot, models.PROTECT, db_constraint=False, db_index=False, verbose_name=_("slot"))
    status = models.CharField(_("step"), max_length=20, choices=Status)
    occurred_at = models.DateTimeField(_("when"), db_default=Now())
    message = models.CharField(_("message"), max_length=1024, blank=True)
    provider_latency_ms = models.PositiveIntegerField(_("provider took, ms"), null=True)
    details = JSONInOrder(_("details"), default=dict)

    class Meta:
        verbose_name = _("log entry")
        verbose_name_plural = _("processing log")
        ordering = ["-id"]
        indexes = [
            # The steps of one job, in order: the job's admin page.
            models.Index(fields=["job_id", "id"], name="log_steps_of_job"),
            # One slot's latest steps: the log's filter in the admin.
            models.Index(fields=["slot", "-id"], name="log_of_slot"),
            # The log's filter by failures: they are rare, while other steps are found among the newest entries.
            models.Index(
                fields=["status", "-id"], condition=models.Q(status__in=["timeout", "failed"]), name="log_of_failures"
            ),
            # Retention: purge removes whole days from the old end.
            models.Index(fields=["occurred_at"], name="log_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.job_id} {self.status}"

    @property
    def message_for_staff(self) -> str:
        """The message in the reader's language; it is stored in English."""
        return gettext(self.message) if self.message else ""


class Outcomes(models.Model):
    """Numbers of photos by outcome: `ingest_count` is always the sum of the other five."""

    ingest_count = models.PositiveIntegerField(db_default=0)
    success = models.PositiveIntegerField(db_default=0)
    timeouts = models.PositiveIntegerField(db_default=0)
    provider_errors = models.PositiveIntegerField(db_default=0)
    cancelled = models.PositiveIntegerField(db_default=0)
    errors = models.PositiveIntegerField(db_default=0)

    class Meta:
        abstract = True


class Counters(Outcomes):
    """All that is counted of finished jobs."""

    late_answers = models.PositiveIntegerField(db_default=0)

    duration_seconds = models.FloatField(db_default=0)  # sum, from the photo's arrival to its job's end
    duration_buckets = ArrayField(models.PositiveIntegerField())  # one more than `journal.DURATION_BOUNDS`
    wait_seconds = models.FloatField(db_default=0)  # sum, from arrival to the first claim
    wait_buckets = ArrayField(models.PositiveIntegerField())  # one more than `journal.WAIT_BOUNDS`
    attempts = models.PositiveIntegerField(db_default=0)
    attempt_errors = models.PositiveIntegerField(db_default=0)
    provider_seconds = models.FloatField(db_default=0)  # sum over attempts
    polls = models.PositiveIntegerField(db_default=0)

    class Meta:
        abstract = True


class HourlyCounter(Counters):
    """Finished jobs by the hour (UTC) in which their photo arrived. One row per hour, slot, provider, source and reset
    generation."""

    hour = models.DateTimeField()
    slot = models.ForeignKey(Slot, models.PROTECT, db_constraint=False, db_index=False)
    provider_id = models.CharField(max_length=32)
    source = models.CharField(max_length=8)
    reset_generation = models.PositiveIntegerField(db_default=0)  # of `SlotFigures`, when the photo arrived

    class Meta:
        constraints = [
            # The upsert's target, and the reports' index: a period of one slot.
            models.UniqueConstraint(
                fields=["slot", "hour", "provider_id", "source", "reset_generation"], name="counter_once_per_hour"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} {self.slot_id}"


class HourlyTotal(Outcomes):
    """The booths' photos of all slots, by the hour: sums of the counters, updated by the same statement. Reports of all
    slots read these, because three months of fifty slots are a quarter of a million counters."""

    hour = models.DateTimeField()
    provider_id = models.CharField(max_length=32)

    class Meta:
        constraints = [
            # The upsert's target, and the reports' index: a period of all slots.
            models.UniqueConstraint(fields=["hour", "provider_id"], name="total_once_per_hour"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} {self.provider_id}"


class CounterTotal(Counters):
    """The booths' photos of all time, by slot and provider: sums of the hourly counters, updated by the same statement.
    `/metrics` reads these, because the hours are never deleted."""

    slot = models.ForeignKey(Slot, models.PROTECT, db_constraint=False, db_index=False)
    provider_id = models.CharField(max_length=32)

    class Meta:
        constraints = [
            # The upsert's target.
            models.UniqueConstraint(fields=["slot", "provider_id"], name="counter_total_once"),
        ]

    def __str__(self) -> str:
        return f"{self.slot_id} {self.provider_id}"


class SlotFigures(models.Model):
    """What a report must know of a slot's counters before it reads them. A slot without a row has no counters yet."""

    slot = models.OneToOneField(
        Slot, models.PROTECT, primary_key=True, db_constraint=False, related_name="figures", verbose_name=_("slot")
    )
    # Grows with each counted photo, so that every process recognises an outdated report. It starts at the current time
    # in microseconds, so that a row created again, as after a restore, repeats no version of the one before.
    version = models.BigIntegerField(db_default=Cast(Extract(Now(), "epoch") * 1_000_000, models.BigIntegerField()))
    # How often the slot's statistics were reset. Its reports count photos that arrived since the last reset. Counters
    # are not deleted, because Prometheus counters must never fall.
    reset_generation = models.PositiveIntegerField(db_default=0)
    last_reset_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.slot_id}: {self.version}"
