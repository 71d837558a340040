from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from core import image_work
from core.database import DatabaseUnavailable, open_database
from jobs.queue.verbs import Queue
from jobs.worker.worker import Worker
from providers import registry

SPARE_THREADS = 4  # as many as asyncio's own default has beside one for each processor


class Command(BaseCommand):
    help = "Works off the queue until told to stop (SIGTERM, SIGINT). Start as many of these as you like."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--concurrency", type=int, default=settings.WORKER_CONCURRENCY, help="jobs at once")
        parser.add_argument("--once", action="store_true", help="work off what waits now, then leave")
        parser.add_argument("--provider", action="append", help="only jobs of this provider; may be repeated")

    def handle(self, *args: Any, concurrency: int, once: bool, provider: list[str] | None, **options: Any) -> None:
        if concurrency < 1:
            raise CommandError("--concurrency (WORKER_CONCURRENCY) must be at least 1 to run a worker.")
        known = list(registry.get_classes())
        if unknown := set(provider or ()) - set(known):
            raise CommandError(f"No such provider: {', '.join(sorted(unknown))}. There are: {', '.join(known)}.")
        try:
            asyncio.run(work(provider or known, concurrency, once))
        except DatabaseUnavailable as error:
            raise CommandError(f"The database does not answer ({error}).") from error


async def work(providers: list[str], concurrency: int, once: bool) -> None:
    image_work.set_budget(image_work.WORKER_BYTES)
    # Threads that wait for memory must leave some for everything else.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * concurrency + SPARE_THREADS))
    async with open_database() as database, open_database(connections=1) as heartbeat:
        await Worker(
            Queue(database), Queue(heartbeat), providers, concurrency, settings.WORKER_GRACE_SECONDS, once
        ).run()
