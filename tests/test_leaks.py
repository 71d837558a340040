"""The search for secrets in logs finds them: each test writes one where a fault would, and looks."""

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

PROMPT = "Tanzende Bären im Regenmantel"  # like no other, so that nobody else's line is found
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
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
    assert list(leaks.in_text(f"INFO {line}".encode()))


def test_raw_bytes_are_found() -> None:
    assert list(leaks.in_text(b"x" + jpeg()))
    assert list(leaks.in_text(PNG))


def test_an_innocent_line_is_none() -> None:
    assert not list(leaks.in_text(b"INFO Picture made in 3 s: results/8f14e45f.jpg, image/jpeg"))


def test_what_any_process_logs_at_any_level_is_kept() -> None:
    marks = {level: str(uuid4()) for level in ("DEBUG", "INFO", "ERROR")}
    for level, mark in marks.items():
        logging.getLogger("providers.anything").log(logging.getLevelName(level), mark)
        code = f"import django, logging; django.setup(); logging.getLogger('jobs').log(logging.{level}, '{mark}')"
        subprocess.run([sys.executable, "-c", code], cwd=settings.BASE_DIR, check=True)
    kept = [path.read_text() for path in LOGS.iterdir() if path != leaks.PRINTED]
    assert {mark: sum(mark in text for text in kept) for mark in marks.values()} == dict.fromkeys(marks.values(), 2)


class Host(wire.Speaker):
    """A provider that is sent a key and a prompt."""

    prefix = "host"

    def answer(self, request: wire.Received) -> wire.Reply:
        self.scenario(request.body.decode())
        return wire.Reply()


def test_what_a_provider_is_sent_is_looked_for() -> None:
    key, prompt = f"key-{uuid4()}", f"like a mosaic, {uuid4()}"
    with wire.WireSandbox([Host]).run() as sandbox:
        headers = {"Authorization": f"Bearer {key}"}
        httpx.post(f"{sandbox.url}/host/", content=f"[[ok]] {prompt}", headers=headers).raise_for_status()
    assert list(leaks.in_text(f"sent {key}".encode()))
    assert list(leaks.in_text(f"refused: {prompt}".encode()))


@pytest.mark.usefixtures("database")
def test_rows_are_looked_at() -> None:
    ProcessingLog.objects.create(job_id=uuid4(), slot_id="slot-001", status="failed", details={"error": PROMPT})
    assert PROMPT in str(leaks.in_rows())
    ProcessingLog.objects.all().delete()
    assert leaks.in_rows() == []


@pytest.mark.parametrize("runners", ["0", "2"])
def test_a_run_that_leaks_fails(runners: str, tmp_path: Path) -> None:
    """One test, that logs what the sandbox has seen."""
    test = tmp_path / "test_it.py"
    test.write_text(
        "import logging\nfrom tests import leaks\n"
        "def test_it():\n    leaks.note('a prompt of some length')\n"
        "    logging.getLogger('x').debug('a prompt of some length')\n"
    )
    command = f"-m pytest {test} -p tests.leaks -q --rootdir={tmp_path} -c pyproject.toml -n {runners}".split()
    own = os.environ | {"TEST_FOLDER": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, *command], cwd=settings.BASE_DIR, env=own, capture_output=True, text=True, check=False
    )
    assert "1 passed" in run.stdout
    assert run.returncode == 1
    assert "LEAKED into a log: " in run.stdout
