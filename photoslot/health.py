"""`/healthz`, `/readyz` and `/metrics` (contract §7)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_address
from tempfile import NamedTemporaryFile

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from core.database import CONNECT_SECONDS, limit_statements
from core.errors import ApiError
from core.uploads import make_upload_dir
from core.views import read_only
from ingest.metrics import BoothSettings
from jobs.metrics import SEEN_SECONDS, JobsCollector
from jobs.models import Process
from providers.metrics import Accounts
from slots.metrics import Budgets
from stats.metrics import FinishedJobs

registry = CollectorRegistry(auto_describe=False)
for collector in (FinishedJobs(), JobsCollector(), BoothSettings(), Budgets(), Accounts()):
    registry.register(collector)


@never_cache
@read_only
def healthz(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "ok"})


@never_cache
@read_only
def readyz(request: HttpRequest) -> HttpResponse:
    verdicts: dict[str, bool] = {}
    with limit_statements(CONNECT_SECONDS):
        for name, check in CHECKS.items():
            # Without the database, what is asked of it is unknown, and asking would only take more time.
            is_answerable = name not in ASKED_OF_DATABASE or verdicts["database"]
            verdicts[name] = is_answerable and _run_check(check)
    is_ready = all(verdicts.values())
    return JsonResponse({"ready": is_ready, "checks": verdicts}, status=200 if is_ready else 503)


@never_cache
@read_only
def metrics(request: HttpRequest) -> HttpResponse:
    given, wanted = request.headers.get("Authorization", ""), f"Bearer {settings.METRICS_TOKEN}"
    if settings.METRICS_TOKEN and not secrets.compare_digest(given.encode(), wanted.encode()):
        raise ApiError("invalid_credentials", _("Send METRICS_TOKEN as a bearer token."))
    if not settings.METRICS_TOKEN and not _is_from_this_machine(request):
        message = _("Without METRICS_TOKEN only this machine reads them. Set it, and send it as a bearer token.")
        raise ApiError("invalid_credentials", message)
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _is_from_this_machine(request: HttpRequest) -> bool:
    """A proxy here that is not in TRUSTED_PROXIES is known by its headers."""
    if any(name in request.headers for name in ("Forwarded", "Via", "X-Forwarded-For", "X-Real-Ip")):
        return False
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:  # a Unix socket, behind which there is a proxy
        return False


def _run_check(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except (DatabaseError, OSError):
        return False


def _check_database() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return True


def _check_migrations() -> bool:
    executor = MigrationExecutor(connection)
    return not executor.migration_plan(executor.loader.graph.leaf_nodes())


def _check_storage() -> bool:
    with NamedTemporaryFile(dir=make_upload_dir()) as probe:
        probe.write(b"writable")
        probe.flush()  # a full disk says so only now
    return True


def _check_worker() -> bool:
    since = Now() - timedelta(seconds=SEEN_SECONDS)  # the database's clock, as in `seen_at`
    return Process.objects.filter(kind=Process.Kind.WORKER, seen_at__gte=since).exists()


CHECKS: dict[str, Callable[[], bool]] = {
    "database": _check_database,
    "migrations": _check_migrations,
    "storage": _check_storage,
    "worker": _check_worker,
}
ASKED_OF_DATABASE = ("migrations", "worker")
