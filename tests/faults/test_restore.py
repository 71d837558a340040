"""Dump, wipe, restore: with the database and the files back, the service goes on where it was."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import httpx
import psycopg
import pytest
from django.conf import settings
from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper

from core.database import connection_kwargs
from jobs.models import Job
from slots.models import SlotChange
from stats.models import HourlyCounter, ProcessingLog
from tests.conftest import Booth, Processes, jpeg, use_sandbox
from tests.sandbox.server import developed
from tests.settings import TEST_POSTGRES

pytestmark = pytest.mark.e2e


def run_tool(name: str, *arguments: str) -> None:
    """One of Postgres's own programs, on the tests' database."""
    kwargs = connection_kwargs()
    names = {"dbname": "PGDATABASE", "user": "PGUSER", "password": "PGPASSWORD", "host": "PGHOST", "port": "PGPORT"}
    environment = {names[key]: str(value) for key, value in kwargs.items() if key in names}
    program = str(TEST_POSTGRES._binaries / name) if TEST_POSTGRES else name
    subprocess.run([program, *arguments], env=os.environ | environment, check=True)


def wipe_database() -> None:
    connection.close()
    cast(DatabaseWrapper, connection).close_pool()
    kwargs = connection_kwargs()
    with psycopg.connect(**kwargs | {"dbname": "postgres"}, autocommit=True) as server:
        server.execute(f'DROP DATABASE "{kwargs["dbname"]}" WITH (FORCE)')
        server.execute(f'CREATE DATABASE "{kwargs["dbname"]}"')


def read_books() -> list[Any]:
    return [
        list(Job.objects.values()),
        list(ProcessingLog.objects.order_by("id").values("job_id", "status", "message", "details")),
        list(HourlyCounter.objects.values()),
        list(SlotChange.objects.order_by("id").values()),
    ]


def test_what_was_there_is_there_again(processes: Processes, tmp_path: Path) -> None:
    use_sandbox("instant")
    web, worker = processes.web(), processes.worker()
    booth = Booth(processes.url)
    job_id = booth.post(jpeg()).headers["x-job-id"]
    worker.terminate()
    worker.wait()
    web.terminate()
    web.wait()
    books = read_books()
    run_tool("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}")
    shutil.copytree(settings.MEDIA_ROOT, tmp_path / "media")

    wipe_database()
    shutil.rmtree(settings.MEDIA_ROOT)
    run_tool("pg_restore", "--exit-on-error", f"--dbname={connection_kwargs()['dbname']}", str(tmp_path / "dump"))
    shutil.copytree(tmp_path / "media", settings.MEDIA_ROOT)

    assert read_books() == books
    processes.web()
    processes.worker()
    link = f"{processes.url}/public/results/{job_id}"
    assert httpx.get(link, follow_redirects=True).content == developed(jpeg())
    assert booth.post(jpeg(colour="tomato")).status == 200
    assert HourlyCounter.objects.get(slot_id="slot-001").success == 2
