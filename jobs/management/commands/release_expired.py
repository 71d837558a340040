from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from jobs.queue.verbs import QueueUnavailable, open_queue
from jobs.worker.worker import close_overdue


class Command(BaseCommand):
    help = "Ends the jobs that are past their deadline and removes their photos. For cron; safe to run twice at once."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            count = asyncio.run(release_expired())
        except QueueUnavailable as error:
            raise CommandError(f"The database does not answer ({error}).") from error
        self.stdout.write(f"Ended {count} overdue jobs.")


async def release_expired() -> int:
    async with open_queue(connections=1) as queue:
        return sum([await close_overdue(queue, job_id) for job_id in await queue.overdue()])
