from __future__ import annotations

import json
import signal
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from photoslot.bootstrap import bootstrap
from photoslot.management.commands.bootstrap import described
from photoslot.processes import Service, StartError

WELCOME = """
photoslot is running. Ctrl-C stops it.
  admin       {url}/admin/
  booth door  {url}/ingest/slot-001   (to slot-015)
  passwords   {credentials}
Try it:
  curl -f -o picture.jpg -F password={password} -F fileToUpload=@photo.jpg {url}/ingest/slot-001
"""


class Command(BaseCommand):
    help = "Runs the whole service: database, web, worker and purge, until Ctrl-C."

    def handle(self, *args: Any, **options: Any) -> None:
        prepare(self)
        service = Service()
        # SIGTERM must end like Ctrl-C, or the embedded Postgres would be left running.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: service.stop())
        try:
            with service:
                service.wait_until_ready()
                self.stdout.write(welcome())
                service.run()
                self.stdout.write("Stopping …")
        except StartError as error:
            raise CommandError(str(error)) from None


def prepare(command: BaseCommand) -> None:
    """The schema and the first accounts; done already, it changes nothing."""
    call_command("migrate", verbosity=0)
    if created := bootstrap():
        command.stdout.write(described(created))


def welcome() -> str:
    path = settings.RUNTIME_CREDENTIALS_FILE
    known = json.loads(path.read_text()).get("ingest_password") if path.exists() else None
    return WELCOME.format(
        url=settings.PUBLIC_BASE_URL,
        credentials=path,
        password=f'$(python3 -c \'import json; print(json.load(open("{path}"))["ingest_password"])\')'
        if known
        else "…",
    )
