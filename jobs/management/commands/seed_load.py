from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from bench.seed_load import InUseError, seed


class Command(BaseCommand):
    help = (
        "Fills an empty database with invented slots, jobs, log and counters, to see how the service is when it is "
        "full. Refuses one that has jobs. Nothing takes the rows out again: use a database that you can drop."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--jobs", type=int, default=1_000_000, help="each with ten rows of the log; default 1000000"
        )
        parser.add_argument("--days", type=int, default=90, help="over which they came in, until now; default 90")

    def handle(self, *args: Any, jobs: int, days: int, **options: Any) -> None:
        if jobs < 1 or days < 1:
            raise CommandError("At least one job, and one day.", returncode=2)
        try:
            seed(jobs, days, self.stdout.write)
        except InUseError as error:
            raise CommandError(str(error)) from None
