"""The whole service in one command: web, worker and purge as children of one process, started and stopped in order.

A child that dies is started again. Stopping: the web process takes no more photos and the worker finishes those under
way; whoever is left at the end of the grace is answered 503 and handed back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from django.conf import settings
from django.db import connection

from jobs.management.commands.release_expired import release_expired
from jobs.purge import purge

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0  # imports and connections take about two on a slow machine
RESTART_PAUSE_SECONDS = 1.0  # a child that cannot start must not spin
MEDIA_PURGE_SECONDS = 60  # contract §2
RESULTS_PURGE_SECONDS = 15 * 60
# Of the grace, what remains for answering those whose photo could not be finished, and for closing.
ANSWER_SECONDS = 2


class StartError(Exception):
    """The service did not come up; the message says what to do."""


@dataclass(slots=True)
class Child:
    """One child process, started again whenever it ends by itself."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0

    def start(self) -> None:
        # A session of its own: Ctrl-C goes to the parent alone, which stops its children in order.
        self.process = subprocess.Popen(self.command, cwd=settings.BASE_DIR, start_new_session=True)
        self.started = time.monotonic()

    def keep_alive(self) -> None:
        if self.process is None or self.process.poll() is None:
            return
        if time.monotonic() - self.started >= RESTART_PAUSE_SECONDS:
            logger.error("%s ended with code %s; starting it again", self.name, self.process.returncode)
            self.start()

    def signal(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, seconds: float) -> None:
        """Waits for its end; kills what does not end."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            logger.error("%s did not stop in time; killed", self.name)
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Service:
    """Use as a context manager around `run` or around what needs the service."""

    port: int = settings.PORT
    children: list[Child] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _scheduler: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Service:
        self.children = [Child("web", web_command(self.port))]
        if settings.WORKER_CONCURRENCY:
            self.children.append(Child("worker", [sys.executable, "manage.py", "run_workers"]))
        for child in self.children:
            child.start()
        self._scheduler = threading.Thread(target=self._purge_on_schedule, name="purge")
        self._scheduler.start()
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + settings.WORKER_GRACE_SECONDS + ANSWER_SECONDS
        self._stopping.set()
        for child in self.children:
            child.signal(signal.SIGTERM)
        for child in self.children:
            child.wait(deadline - time.monotonic())
        if self._scheduler:
            self._scheduler.join()

    def wait_until_ready(self) -> None:
        """Until the service can take a photo. Raises `StartError`."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if dead := next((c for c in self.children if c.process and c.process.poll() is not None), None):
                raise StartError(f"The {dead.name} process ended at once; its message is above.")
            if self._is_ready():
                return
            time.sleep(0.05)
        raise StartError(f"The service did not become ready in {READY_SECONDS:.0f} s; its messages are above.")

    def run(self) -> None:
        """Keeps the children alive until `stop`."""
        while not self._stopping.wait(0.2):
            for child in self.children:
                child.keep_alive()

    def stop(self) -> None:
        self._stopping.set()

    def _is_ready(self) -> bool:
        path = "/readyz" if settings.WORKER_CONCURRENCY else "/healthz"
        try:
            return httpx.get(self.url + path, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def _purge_on_schedule(self) -> None:
        due: dict[Callable[[], None], float] = {_purge_media: 0, _purge_results: 0}
        every = {_purge_media: MEDIA_PURGE_SECONDS, _purge_results: RESULTS_PURGE_SECONDS}
        while not self._stopping.wait(1):
            for task, at in due.items():
                if time.monotonic() >= at:
                    due[task] = time.monotonic() + every[task]
                    _guarded(task)


def free_port(wished: int) -> int:
    """The wished port, or another one where that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wished))
        except OSError:
            probe.bind(("", 0))
        return int(probe.getsockname()[1])


def web_command(port: int) -> list[str]:
    """The web server. One that is told to stop waits for its booths as long as the worker has to finish them."""
    options = {
        "--host": os.environ.get("HOST", "0.0.0.0"),  # noqa: S104 - booths are other machines
        "--port": str(port),
        "--workers": str(settings.WEB_PROCESSES),
        "--timeout-graceful-shutdown": str(settings.WORKER_GRACE_SECONDS),
        "--loop": "uvloop",
        "--http": "httptools",
        "--log-level": "warning",
    }
    command = [sys.executable, "-m", "uvicorn", "photoslot.asgi:application", "--no-access-log", "--no-server-header"]
    return command + [part for option in options.items() for part in option]


def _purge_media() -> None:
    asyncio.run(release_expired())
    purge(["media"])


def _purge_results() -> None:
    purge(["results", "log"])


def _guarded(task: Callable[[], None]) -> None:
    """A purge that fails is told and tried again at its next time."""
    try:
        task()
    except Exception:  # whatever it is, the booths go on; `purge_last_run_timestamp_seconds` tells on it
        logger.exception("The purge failed")
    finally:
        connection.close()
