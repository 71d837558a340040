"""What this room keeps for a while, and its removal."""

from __future__ import annotations

from datetime import timedelta

from ingest.models import PasswordFailure
from ingest.password import FAILURES_WINDOW_MINUTES
from jobs.retention.purge import PurgeResult, delete_rows


def purge_failures(removed: PurgeResult) -> None:
    """Wrong ingest passwords that no longer count against their address."""
    counted_since = removed.cutoff - timedelta(minutes=FAILURES_WINDOW_MINUTES)
    delete_rows(PasswordFailure.objects.filter(minute__lt=counted_since), removed)
