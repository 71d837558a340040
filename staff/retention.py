"""What logging in leaves behind, and its removal."""

from __future__ import annotations

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.sessions.models import Session

from jobs.retention.purge import PurgeResult, delete_rows


def purge_logins(removed: PurgeResult) -> None:
    """Failed logins that no longer count, and sessions that have expired. django-axes removes the first at the next
    failure only, and Django never removes the second."""
    delete_rows(AccessAttempt.objects.filter(attempt_time__lt=removed.cutoff - settings.AXES_COOLOFF_TIME), removed)
    delete_rows(Session.objects.filter(expire_date__lt=removed.cutoff), removed)
