from django.apps import AppConfig
from django.contrib.staticfiles import apps


class PhotoslotConfig(AppConfig):
    name = "photoslot"


class StaticFilesConfig(apps.StaticFilesConfig):
    """Without what no page of ours uses: three quarters of what would be compressed."""

    ignore_patterns = [*apps.StaticFilesConfig.ignore_patterns, "redoc", "rest_framework"]
