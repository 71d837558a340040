from __future__ import annotations

import stat
from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.utils.translation import gettext_lazy as _

from core.uploads import make_upload_dir


class JobsConfig(AppConfig):
    name = "jobs"
    verbose_name = _("Jobs")

    def ready(self) -> None:
        checks.register(check_media_root)
        with suppress(OSError):  # Django's own system check reports it
            make_upload_dir()


def check_media_root(**_kwargs: Any) -> list[checks.CheckMessage]:
    """`jobs.W001`: a file's name is all that a guest needs to fetch it, so other users of the machine must not list the
    folders. It may have been created by hand, or by an older version."""
    with suppress(OSError):
        mode = stat.S_IMODE(settings.MEDIA_ROOT.stat().st_mode)
        if mode & stat.S_IRWXO:
            return [
                checks.Warning(
                    f"MEDIA_ROOT ({settings.MEDIA_ROOT}) is open to all users of this machine: its mode is {mode:o}.",
                    hint="chmod it to 700, or to 750 with the group of a web server that serves its files.",
                    id="jobs.W001",
                )
            ]
    return []
