from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class IngestConfig(AppConfig):
    name = "ingest"
    verbose_name = _("Booths")

    def ready(self) -> None:
        from ingest.retention import purge_failures  # noqa: PLC0415 - models can be imported only now
        from jobs.retention.purge import purge_with  # noqa: PLC0415

        purge_with("log", purge_failures)
