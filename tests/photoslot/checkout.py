"""A checkout of its own in a temporary folder, and the commands of a newcomer in it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
from django.conf import settings

from photoslot.embedded_postgres import PORT, EmbeddedPostgres
from photoslot.supervisor import find_free_port

NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "var", "secrets", "tests", "bench")
SECONDS = 120


class Checkout:
    """Nothing of the tests' own environment reaches its processes."""

    def __init__(self, root: Path) -> None:
        shutil.copytree(settings.BASE_DIR, root, ignore=NOT_COPIED)
        self.root = root
        self.port = find_free_port()
        self.server = EmbeddedPostgres(root, "run")
        self.messages = root / "messages.log"
        self.messages.touch()
        self._started: list[subprocess.Popen[str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        with self.messages.open("a") as messages:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=self.root,
                env={"PATH": os.environ["PATH"], "HOME": str(self.root), "PORT": str(self.port)} | environment,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
            )
        self._started.append(process)
        return process

    def manage(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Runs a command to its end. Exit code, and all that it said."""
        said_before = len(self.messages.read_text())
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=SECONDS)
        return process.returncode, output + self.messages.read_text()[said_before:]

    def run(self, **environment: str) -> tuple[subprocess.Popen[str], str]:
        """`run`, and its welcome once it is up."""
        process = self.start("run", **environment)
        assert process.stdout
        welcome = ""
        while "/ingest/slot-001\n" not in welcome.partition("Try it:")[2]:
            line = process.stdout.readline()
            assert line, self.messages.read_text()
            welcome += line
        return process, welcome

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(host=self.server.host, port=PORT, user="photoslot", dbname="photoslot", autocommit=True)

    def process_id(self, kind: str) -> int:
        """The pid of the web or worker process that was seen last."""
        with self.connect() as connection:
            query = "SELECT name FROM jobs_process WHERE kind = %s ORDER BY started_at DESC LIMIT 1"
            row = connection.execute(query, (kind,)).fetchone()
        assert row
        return int(row[0].split()[-1])

    def database_runs(self) -> bool:
        return (self.server.data / "postmaster.pid").exists()

    def port_is_taken(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def remove(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS)
        if self.database_runs():  # left by a failed test
            with self.server:
                pass
        shutil.rmtree(self.server.host, ignore_errors=True)
        if os.geteuid() == 0:
            shutil.rmtree(self.server.data.parent, ignore_errors=True)
