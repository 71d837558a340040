from django.apps import AppConfig


class PhotoslotConfig(AppConfig):
    name = "photoslot"
