from contextlib import suppress

from django.apps import AppConfig
from django.conf import settings
from django.utils.translation import gettext_lazy as _


class JobsConfig(AppConfig):
    name = "jobs"
    verbose_name = _("Jobs")

    def ready(self) -> None:
        with suppress(OSError):  # Django's own system check reports it
            settings.FILE_UPLOAD_TEMP_DIR.mkdir(parents=True, exist_ok=True)
