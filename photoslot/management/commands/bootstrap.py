from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from photoslot.bootstrap import Credentials, bootstrap


class Command(BaseCommand):
    help = "Creates the administrators, the ingest password and the booth settings where they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        created = bootstrap()
        self.stdout.write(
            describe(created, self.stdout.isatty()) if created else "Nothing to do: everything is there already."
        )


def describe(created: Credentials, is_terminal: bool) -> str:
    """Generated passwords are shown on a terminal only: a journal or a container's log would keep them. One that was
    given (INGEST_PASSWORD) is shown nowhere."""
    kept = f"Passwords are kept in {settings.RUNTIME_CREDENTIALS_FILE}"
    lines = [f"  administrator {name}: {password}" for name, password in created.admins.items()]
    if created.ingest_password and not settings.INGEST_PASSWORD:
        lines.append(f"  ingest password for booths: {created.ingest_password}")
    return "\n".join(["Passwords, shown this once:", *lines, kept]) if lines and is_terminal else kept
