from django.apps import AppConfig


class StaffConfig(AppConfig):
    name = "staff"

    def ready(self) -> None:
        from jobs.retention.purge import purge_with  # noqa: PLC0415 - models can be imported only now
        from staff.retention import purge_logins  # noqa: PLC0415

        purge_with("log", purge_logins)
