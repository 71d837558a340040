from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core.database import DatabaseUnavailable, open_database
from jobs import lifecycle
from jobs.queue.verbs import Queue


class Command(BaseCommand):
    help = "Ends the jobs that are past their deadline and removes their photos. For cron; safe to run twice at once."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            count = asyncio.run(release_expired())
        except DatabaseUnavailable as error:
            raise CommandError(f"The database does not answer ({error}).") from error
        self.stdout.write(f"Ended {count} overdue jobs.")


async def release_expired() -> int:
    async with open_database(connections=1) as database:
        queue = Queue(database)
        return sum([await lifecycle.expire(queue, job_id) for job_id in await queue.list_overdue()])
