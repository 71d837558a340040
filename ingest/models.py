"""The settings of all booths, and failed passwords by address."""

from __future__ import annotations

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _


class IngestSettings(models.Model):
    """One row: the ingest password's hash and `T_sync_response`."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    password_hash = models.CharField(max_length=255, blank=True, editable=False)
    password_updated_at = models.DateTimeField(_("password changed"), null=True, editable=False)
    password_updated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        editable=False,
        related_name="+",
        verbose_name=_("password changed by"),
    )
    sync_response_seconds = models.PositiveSmallIntegerField(
        _("a booth waits at most, seconds"),
        default=48,
        validators=[MinValueValidator(10), MaxValueValidator(60)],
        help_text=_("10 to 60. Keep it below the booth's own time-out. Holds for new photos only."),
    )
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        verbose_name = _("booth settings")
        verbose_name_plural = _("booth settings")
        constraints = [
            models.CheckConstraint(name="ingest_settings_one_row", condition=Q(id=1)),
            models.CheckConstraint(name="ingest_deadline_range", condition=Q(sync_response_seconds__range=(10, 60))),
        ]

    def __str__(self) -> str:
        return str(self._meta.verbose_name)


class PasswordFailure(models.Model):
    """Wrong passwords from one address in one minute; counted in the database, so that all processes count together."""

    address = models.GenericIPAddressField()
    minute = models.DateTimeField()
    count = models.PositiveIntegerField(default=0)
    last_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            # The upsert's target, and the lookup of an address's last minutes.
            models.UniqueConstraint(fields=["address", "minute"], name="failures_once_per_minute"),
        ]

    def __str__(self) -> str:
        return f"{self.address} {self.minute:%H:%M}"
