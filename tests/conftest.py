"""The cast of the tests: a database, the sandbox provider, the service as real processes, and a booth."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import setup_databases, teardown_databases
from PIL import Image
from pytest_django.plugin import DjangoDbBlocker

from core.database import open_database
from ingest.models import IngestSettings
from jobs.models import Process
from jobs.queue.verbs import Queue
from photoslot.supervisor import build_web_command, find_free_port
from providers.models import ProviderAccount
from slots.models import Slot, SlotChange
from tests import leaks, log_rows
from tests.booth_client import Reply, fields, post_photo
from tests.leaks import (  # noqa: F401 - hooks
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from tests.sandbox.server import Sandbox
from tests.settings import TEST_POSTGRES

# Who starts the tests in the background of a script leaves Ctrl-C ignored, for all that the tests start too.
signal.signal(signal.SIGINT, signal.default_int_handler)

PASSWORD = "open sesame"
leaks.note(PASSWORD)
# What tests write to, in an order in which rows can go: those that refer to others first.
MUTABLE_TABLES = (
    "jobs_mediaobject",
    "jobs_job",
    "jobs_purgerun",
    "jobs_purgetotal",
    "stats_processinglog",
    "stats_hourlycounter",
    "stats_hourlytotal",
    "stats_countertotal",
    "stats_slotfigures",
    "providers_providercall",
    "providers_provideraccount",
    "ingest_passwordfailure",
    "axes_accessattemptexpiration",
    "axes_accessattempt",
    "django_session",
    "slots_templatebinding",
    "slots_templatemedia",
    "auth_user",
    "auth_group",
)
COUNT_ROWS = " UNION ALL ".join(
    f"SELECT '{table}', (SELECT count(*) FROM (SELECT FROM {table} LIMIT 1001) AS rows)"  # noqa: S608
    for table in MUTABLE_TABLES
)
WITH_REFERENCES: dict[str, Any] = {
    "auth_user": get_user_model(),
    "auth_group": Group,
}  # deleted with what refers to them
FOLDERS = ("payloads", "results", "thumbnails", "templates", "media")


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The test database, made by the migrations; the embedded server runs as long as it is needed."""
    with TEST_POSTGRES or nullcontext(), django_db_blocker.unblock():
        config = setup_databases(verbosity=0, interactive=False)
        yield
        teardown_databases(config, verbosity=0)


@pytest.fixture(scope="session")
def first_slots(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> list[dict[str, Any]]:
    """The slots of a new database, and in it the booth settings."""
    with django_db_blocker.unblock():
        _reset_booth_settings()
        return [dict(values) for values in Slot.objects.values()]


@pytest.fixture
def database(first_slots: list[dict[str, Any]], django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The database as other processes see it: what a test writes is committed, and gone after it."""
    with django_db_blocker.unblock():
        _reset_booth_settings()
        cache.clear()
        yield
        found = _check_rows()
        _delete_rows()
        _restore_slots(first_slots)
        _remove_files()
        assert not found


@pytest.fixture
def rolled_back_database(request: pytest.FixtureRequest, first_slots: None) -> Iterator[None]:
    """The database as this process alone sees it: what a test writes is in one transaction and rolled back. Quicker
    than `database`, for tests that need neither another process, nor another connection, nor `on_commit`; those ask for
    `database`, itself or by `web` and the like, and then this is no more than that."""
    if "database" in request.fixturenames:
        yield
        return
    request.getfixturevalue("db")
    cache.clear()
    yield
    found = _check_rows()
    _remove_files()
    assert not found


def _reset_booth_settings() -> None:
    first = {"password_hash": make_password(PASSWORD), "password_updated_at": None, "sync_response_seconds": 48}
    IngestSettings.objects.update_or_create(pk=1, defaults=first)


def _check_rows() -> list[str]:
    """Secrets in rows that staff read, and rows of the log that are not as the document says."""
    return [*leaks.search_rows(), *log_rows.find_invalid_rows()]


def _delete_rows() -> None:
    """Few rows are deleted, since a TRUNCATE makes new files for the table and each of its indexes."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(COUNT_ROWS)
        counts = dict(cursor.fetchall())
        if counts["jobs_job"]:
            cursor.execute("LOCK TABLE jobs_job")  # first, as the queue's own transactions do, or they would deadlock
        for table in MUTABLE_TABLES:
            if table in WITH_REFERENCES and counts[table]:
                WITH_REFERENCES[table]._default_manager.all().delete()
            elif counts[table] > 1000:
                cursor.execute(f"TRUNCATE {table} CASCADE")
            elif counts[table]:
                cursor.execute(f"DELETE FROM {table}")  # noqa: S608 - a name of ours


def _restore_slots(first_slots: list[dict[str, Any]]) -> None:
    """With their history: that they were made."""
    if [*Slot.objects.values()] == first_slots and SlotChange.objects.count() == len(first_slots):
        return
    Slot.objects.all().delete()
    SlotChange.objects.all().delete()
    Slot.objects.bulk_create([Slot(**values) for values in first_slots])


def _remove_files() -> None:
    for folder in FOLDERS:
        shutil.rmtree(settings.MEDIA_ROOT / folder, ignore_errors=True)


@asynccontextmanager
async def open_queue(connections: int = 8) -> AsyncIterator[Queue]:
    """The queue on a pool of its own."""
    async with open_database(connections) as database:
        yield Queue(database)


@pytest.fixture
async def queue(database: None) -> AsyncIterator[Queue]:
    async with open_queue() as opened:
        yield opened


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[Sandbox]:
    with Sandbox().run() as running:
        os.environ["SANDBOX_URL"] = running.url
        yield running


@pytest.fixture
def sandbox(sandbox_server: Sandbox) -> Iterator[Sandbox]:
    """The provider, with a clean journal."""
    sandbox_server.reset()
    yield sandbox_server
    sandbox_server.let_go()


@dataclass
class Processes:
    """Starts the service's own processes, on the tests' database."""

    port: int
    started: list[subprocess.Popen[bytes]]
    shared_worker: subprocess.Popen[bytes] | None = None
    without: str | None = None  # a guard of `tests.faults.unguarded` that the next processes lack

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def web(self, **environment: str) -> subprocess.Popen[bytes]:
        process = self.start(*build_web_command(self.port)[1:], **environment)
        for _ in range(200):
            assert process.poll() is None, "the web process died"
            try:
                httpx.get(f"{self.url}/healthz")
                return process
            except httpx.TransportError:
                threading.Event().wait(0.05)  # until the port is open; there is nothing to be told by
        raise AssertionError("the web process did not start")

    def worker(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("manage.py", "run_workers", *arguments, **environment)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        return self._spawn(command, environment, None)

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A management command whose output and errors the test reads."""
        return self._spawn(("manage.py", *arguments), {}, subprocess.PIPE)

    def _spawn(
        self, command: Sequence[str], environment: dict[str, str], output: int | None
    ) -> subprocess.Popen[bytes]:
        name = connection.settings_dict["NAME"]
        if self.without:
            command = ("-m", "tests.faults.unguarded", self.without, "--", *command)
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=output,
            cwd=settings.BASE_DIR,
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_DATABASE_NAME": name} | environment,
        )
        self.started.append(process)
        return process

    def start_worker(self) -> None:
        """Sees to it that a worker is at work."""
        if self.shared_worker is None:
            self.shared_worker = self.worker(PROVIDER_RETRY_PAUSE_SECONDS="0", PUBLIC_BASE_URL=self.url)

    def stop_worker(self) -> None:
        if self.shared_worker is not None:
            self.shared_worker.terminate()
            self.shared_worker.wait(30)
            self.shared_worker = None

    def stop(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.started:
            process.wait(30)


@pytest.fixture(scope="session")
def shared_services() -> list[Processes]:
    """The service that all tests share, once one of them has asked for it."""
    return []


@pytest.fixture
def alone(shared_services: list[Processes], sandbox: Sandbox) -> None:
    """For tests that claim jobs themselves: the shared service has no worker to take them away."""
    for shared in shared_services:
        shared.stop_worker()


@pytest.fixture
def processes(database: None, alone: None, sandbox: Sandbox) -> Iterator[Processes]:
    """For tests that need processes of their own: to kill, or with other settings."""
    own = Processes(find_free_port(), [])
    yield own
    sandbox.let_go()  # a worker waits for its calls before it ends, also those of a test that failed
    own.stop()
    names = [f"{socket.gethostname()} {process.pid}" for process in own.started]
    Process.objects.filter(name__in=names).delete()  # of those that were killed


@pytest.fixture(scope="session")
def shared_processes(
    django_db_setup: None, sandbox_server: Sandbox, django_db_blocker: DjangoDbBlocker, shared_services: list[Processes]
) -> Iterator[Processes]:
    shared = Processes(find_free_port(), [])
    shared_services.append(shared)
    try:
        with django_db_blocker.unblock():
            call_command("collectstatic", interactive=False, verbosity=0)
            shared.web(PROVIDER_RETRY_PAUSE_SECONDS="0")
        yield shared
    finally:
        shared.stop()


class Booth:
    """Posts photos to the running service, as a booth does."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, photo: bytes, slot: str = "slot-001", password: str = PASSWORD, **form: str) -> Reply:
        return post_photo(f"{self.url}/ingest/{slot}", photo, fields(password, photo) | form)


@pytest.fixture
def service(shared_processes: Processes, database: None, sandbox: Sandbox) -> Processes:
    """The shared service, with a web process and a worker that runs four jobs at once."""
    shared_processes.start_worker()
    return shared_processes


@pytest.fixture
def booth(service: Processes) -> Booth:
    """A booth that posts to the shared service."""
    return Booth(service.url)


@pytest.fixture
def web(service: Processes) -> Iterator[httpx.Client]:
    """A browser or script on the same service."""
    with closing(httpx.Client(base_url=service.url, timeout=70)) as client:
        yield client


def jpeg(width: int = 320, height: int = 240, colour: str = "steelblue", **options: Any) -> bytes:
    """A small photo; its colour makes it another photo."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "JPEG", **options)
    return out.getvalue()


def set_slot(slot_id: str = "slot-001", **changes: Any) -> None:
    Slot.objects.filter(pk=slot_id).update(**changes)


def use_sandbox(provider: str, scenario: str = "ok", slot_id: str = "slot-001", **more: Any) -> None:
    """Points a slot at the sandbox."""
    recipe = {"scenario": scenario} | more
    set_slot(slot_id, provider_id=provider, operation_id="image_edit", settings_json=recipe)


def use_account(provider_id: str, base_url: str, key: str, **more: Any) -> None:
    """How the provider is reached from now on."""
    account = ProviderAccount(provider_id=provider_id, base_url=base_url, **more)
    account.set_key(key)
    account.save()


def stored_files() -> list[str]:
    """All files the service keeps now, thumbnails aside: those come after the answer."""
    root = Path(settings.MEDIA_ROOT)
    paths = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted(path for path in paths if not path.startswith(("thumbnails/", "secrets/")))


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Starts the work in a thread; calling the answer waits for its result."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()

    def wait() -> Any:
        thread.join(90)
        assert result, "the background work did not end, or failed"
        return result[0]

    return wait
