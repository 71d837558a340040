"""A storm's service as real processes, and the faults that hit it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
from django.conf import settings
from django.contrib.auth.hashers import make_password

from core.database import connection_kwargs, in_thread
from ingest.models import IngestSettings
from photoslot.embedded_postgres import EmbeddedPostgres
from photoslot.supervisor import build_web_command, find_free_port
from slots.models import Slot
from tests.faults.storm_plan import SLOTS, Fault
from tests.queue_helpers import DatabaseProxy, run_proxy

logger = logging.getLogger(__name__)

WEBS, WORKERS = 2, 2
WORKER_CONCURRENCY = 24
START_SECONDS = 30.0
STOPPED = (0, 130, -signal.SIGTERM)  # exit codes after SIGTERM; the last two of one that had just been started
# The texts after which a connection is cut, so that the server has done what the client never hears of.
ACKNOWLEDGEMENTS = (
    (b"COMMIT",),
    (b"INSERT INTO jobs_job", b"COMMIT"),
    (b"claim_token = gen_random_uuid()", b"COMMIT"),
    (b"INSERT INTO providers_providercall", b"COMMIT"),
    (b"UPDATE providers_providercall", b"COMMIT"),
    (b"result_inline_base64 =", b"COMMIT"),
    (b"SET provider_job_reference",),
    (b"delivered_at = coalesce",),
    (b"SET lease_expires_at",),
)


def build_child_command(*arguments: str) -> list[str]:
    """A command of Python that ends with this process, however that ends."""
    return [sys.executable, "-m", "photoslot.parent_death_signal", str(os.getpid()), sys.executable, *arguments]


class Member:
    """A web or worker process, its own proxies to the database, and when it was away."""

    def __init__(self, name: str, command: list[str], proxy: DatabaseProxy, listen: DatabaseProxy) -> None:
        self.name = name
        self.command = command
        self.proxy = proxy
        self.listen = listen
        self.lock = asyncio.Lock()  # one fault at a time
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}

    def start(self) -> None:
        database = self.proxy.environment
        listen = {"DATABASE_LISTEN_URL": self.listen.environment["TEST_DATABASE_URL"]}
        self.process = subprocess.Popen(
            build_child_command(*self.command),
            cwd=settings.BASE_DIR,
            env=os.environ | database | listen | self.environment,
        )

    async def end(self, number: int) -> int:
        """Sends the signal; returns the exit code."""
        assert self.process
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait)


class Service:
    """All processes of a storm."""

    def __init__(self, server: EmbeddedPostgres, password: str) -> None:
        self.server = server
        self.password = password
        self.webs: list[Member] = []
        self.workers: list[Member] = []
        self.urls: list[str] = []
        self.outages: defaultdict[str, list[list[float]]] = defaultdict(list)  # by what was away: [from, until]
        self.deaths: list[str] = []  # of processes that no fault has ended
        self.played: Counter[str] = Counter()
        self.postgres = asyncio.Lock()
        self.folders = asyncio.Lock()
        self.leaving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def run(self, sandbox_url: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            ports = [find_free_port() for _ in range(WEBS)]
            environment = {
                "SANDBOX_URL": sandbox_url,
                "PUBLIC_BASE_URL": f"http://127.0.0.1:{ports[0]}",
                "QUEUE_MAX_IN_FLIGHT_JOBS": "48",
                "WORKER_CONCURRENCY": str(WORKER_CONCURRENCY),
                "PROVIDER_RETRY_PAUSE_SECONDS": "0",
                "LEASE_SECONDS": "3",
            }
            commands = [build_web_command(port)[1:] for port in ports] + [["manage.py", "run_workers"]] * WORKERS
            for number, command in enumerate(commands):
                name = f"web {number}" if number < WEBS else f"worker {number - WEBS}"
                proxies = [await stack.enter_async_context(run_proxy()) for _ in range(2)]
                member = Member(name, command, *proxies)
                member.environment = environment
                member.start()
                (self.webs if number < WEBS else self.workers).append(member)
            self.urls = [f"http://127.0.0.1:{port}" for port in ports]
            try:
                for number in range(WEBS):
                    await self.wait_until_ready(number)
                yield
            finally:
                await self.stop()

    async def wait_until_ready(self, number: int) -> None:
        async with asyncio.timeout(START_SECONDS), httpx.AsyncClient() as client:
            while True:
                try:
                    await client.get(f"{self.urls[number]}/healthz", timeout=5)
                    return
                except httpx.TransportError:
                    await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """All of them at once; who does not stop is killed, and a death."""
        for member in (*self.webs, *self.workers):
            assert member.process
            member.process.terminate()
        for member in (*self.webs, *self.workers):
            assert member.process
            try:
                code = await asyncio.to_thread(member.process.wait, 40)
            except subprocess.TimeoutExpired:
                code = await member.end(signal.SIGKILL)
            if code not in STOPPED:
                self.deaths.append(f"{member.name} stopped with code {code}")

    async def watch(self) -> None:
        """Starts a process that ended by itself again, and notes it."""
        while True:
            for member in (*self.webs, *self.workers):
                if not member.lock.locked() and member.process and (code := member.process.poll()) is not None:
                    self.deaths.append(f"{member.name} ended by itself with code {code}")
                    member.start()
            await asyncio.sleep(0.3)

    @contextmanager
    def note_outage(self, what: str) -> Iterator[None]:
        outage = [time.time(), float("inf")]
        self.outages[what].append(outage)
        try:
            yield
        finally:
            outage[1] = time.time()

    def describe_faults(self) -> str:
        seconds = [until - since for since, until in self.outages["postgres"]]
        away = f"; Postgres was away {sum(seconds):.0f} s, at most {max(seconds, default=0):.1f} s in a row"
        return ", ".join(f"{number} x {name}" for name, number in self.played.most_common()) + away

    def was_away(self, what: str, start: float, end: float) -> bool:
        """Whether it was away at any moment between these, or came back just before."""
        return any(since < end + 0.5 and start < until + 0.5 for since, until in self.outages[what])


async def kill_worker(service: Service, fault: Fault) -> None:
    member = service.workers[fault.target % WORKERS]
    async with member.lock:
        await member.end(signal.SIGKILL)
        member.start()


async def roll_worker(service: Service, fault: Fault) -> None:
    """SIGTERM; its successor starts at once."""
    member = service.workers[fault.target % WORKERS]
    async with member.lock:
        old = member.process
        assert old
        old.terminate()
        member.start()

    async def leave() -> None:
        if (code := await asyncio.to_thread(old.wait)) not in STOPPED:
            service.deaths.append(f"{member.name} stopped with code {code}")

    task = asyncio.create_task(leave())
    service.leaving.add(task)
    task.add_done_callback(service.leaving.discard)


async def _restart_web(service: Service, fault: Fault, number: int) -> None:
    index = fault.target % WEBS
    member = service.webs[index]
    async with member.lock:
        with service.note_outage(member.name):
            await member.end(number)
            member.start()
            await service.wait_until_ready(index)


async def kill_web(service: Service, fault: Fault) -> None:
    await _restart_web(service, fault, signal.SIGKILL)


async def stop_web(service: Service, fault: Fault) -> None:
    await _restart_web(service, fault, signal.SIGTERM)


async def restart_postgres(service: Service, fault: Fault) -> None:
    mode = "fast" if fault.variant < 0.5 else "immediate"
    data = str(service.server.data)
    async with service.postgres:
        with service.note_outage("postgres"):
            await asyncio.to_thread(service.server._run, "pg_ctl", "stop", "-w", "-m", mode, "-D", data)
            await asyncio.sleep(fault.seconds / 3 if fault.variant < 0.8 else fault.seconds)
            await asyncio.to_thread(service.server._launch)


async def freeze_postgres(service: Service, fault: Fault) -> None:
    """The whole server stands still, connections stay open."""
    async with service.postgres:
        with service.note_outage("postgres"):
            pids = _find_postgres(service.server.data)
            try:
                for pid in pids:
                    _signal(pid, signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
            finally:
                for pid in reversed(pids):
                    _signal(pid, signal.SIGCONT)


def _find_postgres(data: Path) -> list[int]:
    """The postmaster, then its children."""
    main = int((data / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    return [main, *map(int, children)]


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # a backend that has ended
        os.kill(pid, number)


async def terminate_connections(service: Service, fault: Fault) -> None:
    """Some of them, or all."""
    statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND random() < %s"
    arguments = settings.DATABASES["default"]["NAME"], max(fault.variant, 0.2)
    async with service.postgres:
        kwargs = connection_kwargs() | {"dbname": "postgres", "autocommit": True}
        async with await psycopg.AsyncConnection.connect(**kwargs) as connection:
            await connection.execute(statement, arguments)


def _choose(service: Service, fault: Fault) -> Member:
    members = [*service.webs, *service.workers]
    return members[int(fault.variant * 1000) % len(members)]


async def cut_off(service: Service, fault: Fault) -> None:
    """One process loses the database for some seconds."""
    member = _choose(service, fault)
    with service.note_outage(f"database of {member.name}"):
        member.proxy.cut()
        await asyncio.sleep(fault.seconds / 2)
        member.proxy.mend()


async def lose_acknowledgement(service: Service, fault: Fault) -> None:
    member = _choose(service, fault)
    member.proxy.sever_at = ACKNOWLEDGEMENTS[int(fault.seconds * 1000) % len(ACKNOWLEDGEMENTS)]


async def deafen(service: Service, fault: Fault) -> None:
    """LISTEN goes silent, its connection stays open."""
    member = _choose(service, fault)
    member.listen.is_mute = True
    await asyncio.sleep(fault.seconds)
    member.listen.is_mute = False


async def fill_disk(service: Service, fault: Fault) -> None:
    """Nothing can be written to a folder, nor read from it: a file is in its place. (Root ignores permissions.)"""
    folder = settings.MEDIA_ROOT / ("results" if fault.variant < 0.6 else "payloads")
    async with service.folders:
        if folder.is_dir():
            with service.note_outage("folder"):
                aside = folder.rename(folder.with_name(f"{folder.name}-aside"))
                folder.touch()
                await asyncio.sleep(min(fault.seconds, 4))
                folder.unlink()
                aside.rename(folder)


async def edit_slot(service: Service, fault: Fault) -> None:
    """Archived, and brought back; or edited."""
    slots = Slot.objects.filter(pk=f"slot-{int(fault.variant * 100) % len(SLOTS) + 1:03}")
    if fault.target:
        with service.note_outage("slot"):
            await _write(service, slots.archive)
            await asyncio.sleep(0.5)
            await _write(service, slots.restore)
    else:
        await _write(service, lambda: slots.update(name=f"edited {fault.at:.1f}"))


async def rotate_password(service: Service, fault: Fault) -> None:
    with service.note_outage("password"):
        password = f"password of {fault.at:.1f}"
        await _write(service, lambda: IngestSettings.objects.update(password_hash=make_password(password)))
        service.password = password


async def _write(service: Service, work: Callable[[], Any]) -> None:
    """As staff do, once the database is there."""
    async with service.postgres:
        await in_thread(work)


FAULTS: dict[str, Callable[[Service, Fault], Coroutine[Any, Any, None]]] = {
    fault.__name__: fault
    for fault in (
        kill_worker, roll_worker, kill_web, stop_web, restart_postgres, freeze_postgres, terminate_connections, cut_off,
        lose_acknowledgement, deafen, fill_disk, edit_slot, rotate_password,
    )
}  # fmt: skip
WEIGHTS = {
    "kill_worker": 4, "roll_worker": 2, "kill_web": 2, "stop_web": 1, "restart_postgres": 2, "freeze_postgres": 2,
    "terminate_connections": 3, "cut_off": 3, "lose_acknowledgement": 6, "deafen": 2, "fill_disk": 2, "edit_slot": 2,
    "rotate_password": 1,
}  # fmt: skip


async def play(service: Service, faults: list[Fault], over: asyncio.Event) -> None:
    """All faults at their moments, until it is over; they may overlap where they hit different things."""
    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            try:
                async with asyncio.timeout(max(0, begun + fault.at - time.monotonic())):
                    await over.wait()
                    return
            except TimeoutError:
                service.played[fault.name] += 1
                logger.info("%s", fault)
                group.create_task(FAULTS[fault.name](service, fault), name=fault.name)
