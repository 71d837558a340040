"""The supervisor behind `run` and `demo`: web and worker are its child processes, the purge is a thread of its own.

A child that dies is started again. Shutdown: the web process admits no more photos and the worker finishes those under
way; booths that still wait at the end of the grace period get 503, and their jobs are released.
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
from django.core.management.base import CommandError
from django.db import connection

from jobs.management.commands.release_expired import release_expired
from jobs.retention.purge import purge
from jobs.retention.requests import run_all

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0  # imports and connections take about two on a slow machine
RESTART_PAUSE_SECONDS = 1.0  # a child that cannot start must not spin
MEDIA_PURGE_SECONDS = 60  # contract §2
RESULTS_PURGE_SECONDS = 15 * 60
# After the grace period: for the responses to booths whose photo could not be finished, and for closing.
ANSWER_SECONDS = 2


class StartError(CommandError):
    """The service did not come up; the message says what to do."""


@dataclass(slots=True)
class Child:
    """One child process, started again whenever it ends by itself."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0

    def start(self) -> None:
        command = [sys.executable, "-m", "photoslot.parent_death_signal", str(os.getpid()), *self.command]
        # A session of its own: Ctrl-C goes to the parent alone, which stops its children in order.
        self.process = subprocess.Popen(command, cwd=settings.BASE_DIR, start_new_session=True)
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
        """Waits for its end, and kills it after that time."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            logger.error("%s did not stop in time; killed", self.name)
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Supervisor:
    """Use as a context manager around `run` or around what needs the service."""

    port: int = settings.PORT
    children: list[Child] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _scheduler: threading.Thread | None = None

    @property
    def url(self) -> str:
        host = "127.0.0.1" if settings.HOST == "0.0.0.0" else settings.HOST  # noqa: S104
        return f"http://{host}:{self.port}"

    def __enter__(self) -> Supervisor:
        """Raises `StartError`, with nothing started, when the port is taken."""
        _check_port(self.port)
        self.children = [Child("web", build_web_command(self.port))]
        if settings.WORKER_CONCURRENCY:
            self.children.append(Child("worker", [sys.executable, "manage.py", "run_workers"]))
        for child in self.children:
            child.start()
        self._scheduler = threading.Thread(target=self._purge_on_schedule, name="purge", daemon=True)
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
            self._scheduler.join(max(0.1, deadline - time.monotonic()))  # a purge may be broken off anywhere

    def wait_until_ready(self) -> bool:
        """Until the service can take a photo. False: `stop` was called before. Raises `StartError`."""
        deadline = time.monotonic() + READY_SECONDS
        while not self._stopping.wait(0.05):
            if dead := next((c for c in self.children if c.process and c.process.poll() is not None), None):
                raise StartError(f"The {dead.name} process ended at once; its message is above.")
            missing = self._find_missing()
            if not missing:
                return True
            if time.monotonic() > deadline:
                raise StartError(f"Not ready after {READY_SECONDS:.0f} s: {missing}. The messages above say why.")
        return False

    def run(self) -> None:
        """Keeps the children alive until `stop`."""
        while not self._stopping.wait(0.2):
            for child in self.children:
                child.keep_alive()

    def stop(self) -> None:
        """Called by a signal. The first lets photos under way finish; a second one stops at once."""
        if self._stopping.is_set():
            for child in self.children:
                child.signal(signal.SIGINT)
        self._stopping.set()

    def _find_missing(self) -> str:
        """What the service still lacks to take a photo, in words; empty: nothing."""
        try:
            checks: dict[str, bool] = httpx.get(f"{self.url}/readyz", timeout=10).json()["checks"]
        except (httpx.HTTPError, ValueError, KeyError):
            return "web"
        needed = {name: well for name, well in checks.items() if name != "worker" or settings.WORKER_CONCURRENCY}
        return ", ".join(name for name, well in needed.items() if not well)

    def _purge_on_schedule(self) -> None:
        due: dict[Callable[[], None], float] = {_purge_media: 0, _purge_results: 0}
        every = {_purge_media: MEDIA_PURGE_SECONDS, _purge_results: RESULTS_PURGE_SECONDS}
        while not self._stopping.wait(1):
            for task, at in due.items():
                if time.monotonic() >= at:
                    due[task] = time.monotonic() + every[task]
                    _run_guarded(task)


def find_free_port() -> int:
    """A free port, which no other process that asks at the same time gets."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _check_port(port: int) -> None:
    """Checked before anything starts: another program on the port would be taken for our own web process. Raises
    `StartError`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.HOST, port))
        except OSError as error:
            raise StartError(
                f"Port {port} cannot be used: {error.strerror}. Stop what uses it (this service, started before?), "
                "or set PORT to another one."
            ) from None


def build_web_command(port: int) -> list[str]:
    """The web server. At shutdown it waits for its booths for as long as the worker may take to finish their photos."""
    options = {
        "--host": settings.HOST,
        "--port": str(port),
        "--workers": str(settings.WEB_PROCESSES),
        "--timeout-graceful-shutdown": str(settings.WORKER_GRACE_SECONDS),
        "--loop": "uvloop",
        "--http": "photoslot.http_protocol:LimitedProtocol",
        "--log-level": "warning",
    }
    command = [sys.executable, "-m", "uvicorn", "photoslot.asgi:application", "--no-access-log", "--no-server-header"]
    if settings.TRUSTED_PROXIES:
        options["--forwarded-allow-ips"] = ",".join(settings.TRUSTED_PROXIES)
    else:
        command.append("--no-proxy-headers")  # uvicorn believes everyone on 127.0.0.1 unless told otherwise
    return command + [part for option in options.items() for part in option]


def _purge_media() -> None:
    asyncio.run(release_expired())
    purge(["media"])
    run_all()  # where no worker does


def _purge_results() -> None:
    purge(["results", "log"])


def _run_guarded(task: Callable[[], None]) -> None:
    """A purge that fails is logged and tried again at its next time."""
    try:
        task()
    except Exception:  # whatever it is, the booths go on; `purge_last_run_timestamp_seconds` shows it
        logger.exception("The purge failed")
    finally:
        connection.close()
