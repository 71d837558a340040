"""The search for secrets in logs finds them: each test writes one as a bug would, and searches."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import pytest
from django.conf import settings

from stats.models import ProcessingLog
from tests import leaks
from tests.conftest import PASSWORD, jpeg
from tests.sandbox import wire
from tests.settings import LOGS

pytestmark = pytest.mark.integration

PROMPT = "Tanzende Bären im Regenmantel"  # unique, so that no other test's lines match
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def restore_secrets() -> Iterator[None]:
    before = set(leaks._secrets)
    leaks.note(PROMPT)
    yield
    leaks._secrets.clear()
    leaks._secrets.update(before)


@pytest.mark.parametrize(
    "line",
    [
        PROMPT,
        f"refused: {PROMPT[:40]}…",
        f"{ {'prompt': PROMPT} }",
        urlencode({"prompt": PROMPT}),
        f"password={PASSWORD}",
        str(jpeg()[:20]),
        str(PNG),
        base64.b64encode(jpeg()).decode(),
        base64.urlsafe_b64encode(jpeg()).decode(),
        base64.b64encode(PNG).decode(),
    ],
)
def test_each_shape_is_found(line: str) -> None:
    assert list(leaks.search_text(f"INFO {line}".encode()))


def test_raw_bytes_are_found() -> None:
    assert list(leaks.search_text(b"x" + jpeg()))
    assert list(leaks.search_text(PNG))


def test_an_innocent_line_is_no_leak() -> None:
    assert not list(leaks.search_text(b"INFO Picture made in 3 s: results/8f14e45f.jpg, image/jpeg"))


def test_what_any_process_logs_at_any_level_is_kept() -> None:
    marks = {level: str(uuid4()) for level in ("DEBUG", "INFO", "ERROR")}
    for level, mark in marks.items():
        logging.getLogger("providers.anything").log(logging.getLevelName(level), mark)
        code = f"import django, logging; django.setup(); logging.getLogger('jobs').log(logging.{level}, '{mark}')"
        subprocess.run([sys.executable, "-c", code], cwd=settings.BASE_DIR, check=True)
    logs = [path.read_text() for path in LOGS.iterdir() if path != leaks.PRINTED]
    assert {mark: sum(mark in text for text in logs) for mark in marks.values()} == dict.fromkeys(marks.values(), 2)


class Host(wire.Speaker):
    """A provider that receives a key and a prompt."""

    prefix = "host"

    def answer(self, request: wire.Received) -> wire.Reply:
        self.scenario(request.body.decode())
        return wire.Reply()


def test_what_a_provider_receives_is_searched_for() -> None:
    key, prompt = f"key-{uuid4()}", f"like a mosaic, {uuid4()}"
    with wire.WireSandbox([Host]).run() as sandbox:
        headers = {"Authorization": f"Bearer {key}"}
        httpx.post(f"{sandbox.url}/host/", content=f"[[ok]] {prompt}", headers=headers).raise_for_status()
    assert list(leaks.search_text(f"sent {key}".encode()))
    assert list(leaks.search_text(f"refused: {prompt}".encode()))


@pytest.mark.usefixtures("database")
def test_rows_are_searched() -> None:
    ProcessingLog.objects.create(job_id=uuid4(), slot_id="slot-001", status="failed", details={"error": PROMPT})
    assert PROMPT in str(leaks.search_rows())
    ProcessingLog.objects.all().delete()
    assert leaks.search_rows() == []


@pytest.mark.parametrize("runners", ["0", "2"])
def test_a_run_that_leaks_fails(runners: str, tmp_path: Path) -> None:
    """Runs one test, which logs what the sandbox received."""
    test = tmp_path / "test_it.py"
    test.write_text(
        "import logging\nfrom tests import leaks\n"
        "def test_it():\n    leaks.note('a prompt of some length')\n"
        "    logging.getLogger('x').debug('a prompt of some length')\n"
    )
    command = f"-m pytest {test} -p tests.leaks -q --rootdir={tmp_path} -c pyproject.toml -n {runners}".split()
    environment = os.environ | {"TEST_FOLDER": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, *command], cwd=settings.BASE_DIR, env=environment, capture_output=True, text=True, check=False
    )
    assert "1 passed" in run.stdout
    assert run.returncode == 1
    assert "LEAKED into a log: " in run.stdout
