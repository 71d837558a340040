"""The processing log and the hourly counters, with what reports need beside them. Written by `journal`, inside the
queue's transactions."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Cast, Extract, Now
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from slots.models import Slot


class JSONInOrder(models.JSONField):
    """`json`, not `jsonb`: keeps keys in the order they were written. Never searched, only shown."""

    def db_type(self, connection: object) -> str:
        return "json"

    def from_db_value(self, value: Any, expression: object, connection: object) -> Any:
        """Django keeps psycopg from decoding `jsonb` in order to do so itself; `json` comes decoded."""
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
            # The log's filter by a bad end: few, where the other steps are found at once among the newest.
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
    """How many photos came in, and to what end they came: `ingest_count` is always the sum of the other five."""

    ingest_count = models.PositiveIntegerField(db_default=0)
    success = models.PositiveIntegerField(db_default=0)
    timeouts = models.PositiveIntegerField(db_default=0)
    provider_errors = models.PositiveIntegerField(db_default=0)
    cancelled = models.PositiveIntegerField(db_default=0)
    errors = models.PositiveIntegerField(db_default=0)

    class Meta:
        abstract = True


class HourlyCounter(Outcomes):
    """What finished, by the hour (UTC) in which its photo came in. One row per hour, slot, provider, source and reset
    generation."""

    hour = models.DateTimeField()
    slot = models.ForeignKey(Slot, models.PROTECT, db_constraint=False, db_index=False)
    provider_id = models.CharField(max_length=32)
    source = models.CharField(max_length=8)
    reset_generation = models.PositiveIntegerField(db_default=0)  # of `SlotFigures`, when the photo came in

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
        constraints = [
            # The upsert's target, and the reports' index: a period of one slot.
            models.UniqueConstraint(
                fields=["slot", "hour", "provider_id", "source", "reset_generation"], name="counter_once_per_hour"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} {self.slot_id}"


class HourlyTotal(Outcomes):
    """The booths' photos of all slots, by the hour: the sum of the counters, added to by the same statement. Reports of
    all slots read it, for three months of fifty slots are a quarter of a million counters."""

    hour = models.DateTimeField()
    provider_id = models.CharField(max_length=32)

    class Meta:
        constraints = [
            # The upsert's target, and the reports' index: a period of all slots.
            models.UniqueConstraint(fields=["hour", "provider_id"], name="total_once_per_hour"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} {self.provider_id}"


class SlotFigures(models.Model):
    """What reports must know of a slot's counters before they read them. None: nothing was counted yet."""

    slot = models.OneToOneField(
        Slot, models.PROTECT, primary_key=True, db_constraint=False, related_name="figures", verbose_name=_("slot")
    )
    # Grows with each photo that is counted, so that an older report is known as such in every process. It begins with
    # the clock: a row that is made anew repeats no version of the one before.
    version = models.BigIntegerField(db_default=Cast(Extract(Now(), "epoch") * 1_000_000, models.BigIntegerField()))
    # How often the slot's statistics were reset. Its reports count what came in since the last reset. Nothing is
    # deleted, since Prometheus counters never fall.
    reset_generation = models.PositiveIntegerField(db_default=0)
    last_reset_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.slot_id}: {self.version}"
