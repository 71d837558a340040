#!/usr/bin/env python
"""Django's command line. Commands that use the database start the embedded Postgres if it is the one in use."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext

# What needs no database, and so starts no server.
WITHOUT_DATABASE = {"check", "compilemessages", "diffsettings", "help", "makemessages", "version"}

# What serves booths or makes their pictures, and so must be able to write files.
WITH_FILES = {"run", "demo", "run_workers"}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "photoslot.settings")
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    from photoslot.embedded_postgres import EmbeddedPostgresError
    from photoslot.environment import check_media_root

    # Ends like Ctrl-C, so that the server is stopped then too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    needs_none = command in WITHOUT_DATABASE or not {"--help", "--version"}.isdisjoint(sys.argv)
    try:
        if command in WITH_FILES and not needs_none:
            check_media_root(settings.FILE_UPLOAD_TEMP_DIR)
        with nullcontext() if needs_none else settings.EMBEDDED_POSTGRES or nullcontext():
            execute_from_command_line(sys.argv)
    except (ImproperlyConfigured, EmbeddedPostgresError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says it


if __name__ == "__main__":
    main()
