"""Starts and stops what is measured, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.core.management import call_command

from bench.booths import PASSWORD, Plan, Sample
from bench.settings import POSTGRES
from ingest.models import IngestSettings
from jobs.models import Process
from photoslot.supervisor import build_web_command, find_free_port
from providers.models import ProviderAccount
from slots.models import Slot

READY_SECONDS = 30.0
STOP_SECONDS = 30.0
ADDRESSES = {"gemini": "gemini", "openai": "openai/v1", "turbotext": "turbotext"}
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

# As `build_web_command` starts the service; floor and fakes need no lifespan events.
UVICORN = ("-m", "uvicorn", "--host", "127.0.0.1", "--loop", "uvloop", "--http", "httptools", "--log-level", "warning")
# Connections stay open while the other is measured: one closed just as it is used again would look like our fault.
FAKE_OPTIONS = ("--no-access-log", "--lifespan", "off", "--timeout-keep-alive", "75")


class BenchError(Exception):
    """The bench could not be run; the message names the step."""


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A started process, with figures from the kernel."""

    process: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def memory_mb(self) -> float:
        return self._status_mb("VmRSS")

    def peak_memory_mb(self) -> float:
        return self._status_mb("VmHWM")

    def _status_mb(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"{name}:\s+(\d+) kB", status)
        assert match
        return int(match[1]) / 1024


@dataclass(frozen=True, slots=True)
class Target:
    """What booths can post to."""

    url: str  # with {slot}
    processes: dict[str, RunningProcess]


@contextmanager
def create_database() -> Iterator[None]:
    """A fresh database with the migrations' fifteen slots, removed at the end."""
    try:
        with POSTGRES:
            call_command("migrate", verbosity=0)
            IngestSettings.objects.update_or_create(
                pk=1, defaults={"password_hash": make_password(PASSWORD), "sync_response_seconds": 60}
            )
            yield
    finally:
        for folder in (POSTGRES.data.parent, POSTGRES.host):
            shutil.rmtree(folder, ignore_errors=True)


def set_latency(seconds: float) -> None:
    """Sets how long the fake provider takes for the service's next photos."""
    Slot.objects.update(provider_id="bench", operation_id="image_edit", settings_json={"seconds": seconds})


def use_fake_services(seconds: Mapping[str, float]) -> None:
    """Spreads the slots over these providers, whose fakes take the given seconds."""
    ProviderAccount.objects.all().delete()
    for provider_id, path in ADDRESSES.items():
        if provider_id in seconds:
            url = f"{os.environ['BENCH_SERVICES_URL']}{seconds[provider_id]}/{path}"
            account = ProviderAccount(provider_id=provider_id, base_url=url)
            account.set_key("bench")
            account.save()
    operation = {"operation_id": "image_edit", "settings_json": {"prompt": "a bench"}}
    for slot, provider_id in zip(Slot.objects.all(), cycle(seconds), strict=False):
        Slot.objects.filter(pk=slot.pk).update(provider_id=provider_id, **operation)


@contextmanager
def run_fakes() -> Iterator[None]:
    """Runs the fake providers; their addresses are in the environment of processes started meanwhile."""
    with _serve("fake_provider", "BENCH_PROVIDER_URL"), _serve("fake_services", "BENCH_SERVICES_URL"):
        yield


@contextmanager
def _serve(module: str, variable: str) -> Iterator[None]:
    port = find_free_port()
    with _run_process(*UVICORN, *FAKE_OPTIONS, "--port", str(port), f"bench.{module}:app") as running:
        _wait_until(lambda: _is_open(port), running)
        os.environ[variable] = f"http://127.0.0.1:{port}/"
        yield


@contextmanager
def run_floor(latency: float) -> Iterator[Target]:
    port = find_free_port()
    with _run_process(*UVICORN, *FAKE_OPTIONS, "--port", str(port), "bench.floor:app") as running:
        _wait_until(lambda: _is_open(port), running)
        yield Target(f"http://127.0.0.1:{port}/{latency}", {"floor": running})


@contextmanager
def run(capacity: int) -> Iterator[Target]:
    """Runs web and worker, for at most `capacity` concurrent jobs."""
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    os.environ |= {"HOST": "127.0.0.1", "PUBLIC_BASE_URL": url, "QUEUE_MAX_IN_FLIGHT_JOBS": str(capacity)}
    with ExitStack() as stack:
        worker = stack.enter_context(_run_process("manage.py", "run_workers", "--concurrency", str(capacity)))
        web = stack.enter_context(_run_process(*build_web_command(port)[1:]))
        _wait_until(lambda: _is_open(port) and _is_seen("worker") and _is_seen("web"), worker, web)
        yield Target(f"{url}/ingest/{{slot}}", {"web": web, "worker": worker})


def run_booths(plan: Plan) -> list[Sample]:
    """Raises `BenchError` unless every post brought its picture."""
    command = [sys.executable, "-m", "bench.booths", json.dumps(asdict(plan))]
    result = subprocess.run(command, cwd=settings.BASE_DIR, stdout=subprocess.PIPE, check=False)
    if result.returncode:
        raise BenchError(f"The booths' process ended with code {result.returncode}; its message is above.")
    samples = [Sample(*values) for values in json.loads(result.stdout)]
    if errors := [sample.error for sample in samples if sample.error]:
        raise BenchError(f"{len(errors)} of {len(samples)} posts to {plan.url} brought no picture, first: {errors[0]}")
    return samples


@contextmanager
def _run_process(*command: str) -> Iterator[RunningProcess]:
    process = subprocess.Popen([sys.executable, *command], cwd=settings.BASE_DIR)
    try:
        yield RunningProcess(process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BenchError(f"{command[-1]} did not stop within {STOP_SECONDS:.0f} s.") from None


def _wait_until(is_ready: Callable[[], bool], *needed: RunningProcess) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready():
        if any(running.process.poll() is not None for running in needed):
            raise BenchError("A process ended before it was ready; its message is above.")
        if time.monotonic() > deadline:
            raise BenchError(f"A process was not ready within {READY_SECONDS:.0f} s; its messages are above.")
        time.sleep(0.05)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_seen(kind: str) -> bool:
    """A stopped process removes its row, so a row is that of the process just started."""
    return Process.objects.filter(kind=kind).exists()
