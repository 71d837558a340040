from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from photoslot.bootstrap import Credentials, bootstrap


class Command(BaseCommand):
    help = "Creates the administrators, the ingest password and the booth settings where they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        created = bootstrap()
        self.stdout.write(described(created) if created else "Nothing to do: everything is there already.")


def described(created: Credentials) -> str:
    lines = [f"  administrator {name}: {password}" for name, password in created.admins.items()]
    if created.ingest_password:
        lines.append(f"  ingest password for booths: {created.ingest_password}")
    return "\n".join(["Passwords, shown this once:", *lines, f"Kept in {settings.RUNTIME_CREDENTIALS_FILE}"])
