from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.retention.purge import KINDS, purge
from jobs.retention.requests import run_all


class Command(BaseCommand):
    help = (
        "Removes what has expired, and what staff asked to purge by API, and says what and how many bytes. For cron; "
        "safe to run twice at once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; none given: all")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    def handle(self, *args: Any, kinds: list[str], dry_run: bool, **options: Any) -> None:
        if unknown := set(kinds) - set(KINDS):
            raise CommandError(f"Unknown: {', '.join(sorted(unknown))}. Choose from {', '.join(KINDS)}.", returncode=2)
        removed = purge(kinds or KINDS, dry_run)
        if not dry_run:
            removed.add(run_all())
        verb = "Would remove" if dry_run else "Removed"
        self.stdout.write(f"{verb} {removed.files} files ({removed.bytes} bytes) and {removed.rows} rows.")
        if removed.failed:
            raise CommandError(f"{removed.failed} files could not be removed; the log names them.")
