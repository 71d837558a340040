from __future__ import annotations

import hashlib
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError

from photoslot.apps import StaticFilesConfig
from photoslot.bootstrap import bootstrap, read_ingest_password
from photoslot.management.commands.bootstrap import describe
from photoslot.supervisor import Supervisor

WELCOME = """
photoslot is running. Ctrl-C stops it.
  admin       {url}/admin/
  booths      {url}/ingest/slot-001   (to slot-015)
  passwords   {credentials}
Try it:
  curl -f -o picture.jpg --form-string "password={password}" -F fileToUpload=@photo.jpg {url}/ingest/slot-001
"""
CREDENTIALS_READER = "import json, sys; print(json.load(open(sys.argv[1]))['ingest_password'])"


class Command(BaseCommand):
    help = "Runs the whole service: database, web, worker and purge, until Ctrl-C."

    def handle(self, *args: Any, **options: Any) -> None:
        service = Supervisor()
        prepare(self)
        # SIGTERM must end like Ctrl-C, or the embedded Postgres would be left running.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: service.stop())
        with service:
            if service.wait_until_ready():
                self.stdout.write(format_welcome())
                self.stdout.flush()  # also into a pipe or a log
                service.run()
            self.stdout.write("Stopping …")


def prepare(command: BaseCommand) -> None:
    """The schema and the first accounts; done already, it changes nothing."""
    with explain("Preparing the database", "Check that it can be reached (DATABASE_URL) and that its disk has space."):
        call_command("migrate", verbosity=0)
    with explain("Collecting static files", f"Check that {settings.STATIC_ROOT} can be written."):
        _collect_static_files()
    with explain("Creating the first accounts", f"Check that {settings.RUNTIME_CREDENTIALS_FILE} can be written."):
        created = bootstrap()
    if created:
        command.stdout.write(describe(created, command.stdout.isatty()))
        command.stdout.flush()


def _collect_static_files() -> None:
    """Collecting takes a second, so it is done on the first start and after an upgrade."""
    ignored = StaticFilesConfig.ignore_patterns
    files = [storage.path(path) for finder in get_finders() for path, storage in finder.list(ignored)]
    found = sorted((file, stat.st_size, stat.st_mtime_ns) for file in files for stat in [Path(file).stat()])
    digest, record = hashlib.sha256(repr(found).encode()).hexdigest(), settings.STATIC_ROOT / "collected.txt"
    if not record.exists() or record.read_text() != digest:
        call_command("collectstatic", interactive=False, verbosity=0)
        record.write_text(digest)


@contextmanager
def explain(name: str, advice: str) -> Iterator[None]:
    """A failure becomes a sentence: which step it was, why, and what to do."""
    try:
        yield
    except (DatabaseError, OSError, httpx.HTTPError) as error:
        raise CommandError(f"{name} failed: {str(error).strip() or type(error).__name__}. {advice}") from error


def format_welcome() -> str:
    path = settings.RUNTIME_CREDENTIALS_FILE
    password = f"$(python3 -c {shlex.quote(CREDENTIALS_READER)} {shlex.quote(str(path))})"
    return WELCOME.format(
        url=settings.PUBLIC_BASE_URL, credentials=path, password=password if read_ingest_password() else "…"
    )
