"""The sandbox as a process of its own, as a person starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from django.conf import settings

from photoslot.embedded_postgres import EmbeddedPostgres
from tests.booth_client import fields, post_photo
from tests.conftest import in_background, jpeg
from tests.photoslot.checkout import Checkout
from tests.sandbox import gemini, openai, turbotext

pytestmark = pytest.mark.e2e

KEYS = (gemini.KEY, openai.KEY, turbotext.KEY)


@contextmanager
def run_sandbox(*arguments: str, root: Path = settings.BASE_DIR, until: str, **environment: str) -> Iterator[str]:
    """Yields the output until the sandbox is up. Ctrl-C ends it, with nothing left running."""
    command = [sys.executable, "-m", "tests.sandbox", *arguments]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        output = ""
        while until not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        yield output
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0


def test_it_says_where_it_is_and_keeps_a_journal_without_keys() -> None:
    with run_sandbox("--port", "0", until="[[overloaded]]") as output:
        variables = dict(re.findall(r"(\w+)=(\S+)", output))
        photo = ("photo.jpg", jpeg(), "image/jpeg")
        created = httpx.post(
            f"{variables['OPENAI_BASE_URL']}/images/edits",
            headers={"Authorization": f"Bearer {variables['OPENAI_API_KEY']}"},
            data={"prompt": "x"},
            files={"image[]": photo},
        )
        journal = httpx.get(re.search(r"journal: (\S+)", output)[1])  # type: ignore[index]
    assert created.status_code == 200
    [entry] = journal.json()
    assert (entry["provider"], entry["method"], entry["path"]) == ("openai", "POST", "/v1/images/edits")
    assert (entry["parts"], entry["images"]) == (["prompt", "image[]"], [sha256(photo[1]).hexdigest()])
    assert "authorization" in entry["headers"]
    assert not [key for key in KEYS if key in journal.text]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    created = Checkout(tmp_path / "played")
    for part in ("__init__.py", "sandbox"):
        source, target = settings.BASE_DIR / "tests" / part, created.root / "tests" / part
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    yield created
    created.remove()
    shutil.rmtree(EmbeddedPostgres(created.root, "sandbox").host, ignore_errors=True)


def test_the_whole_service_runs_against_it_and_touches_nothing_real(checkout: Checkout) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(checkout.root), "PORT": str(checkout.port)}
    with run_sandbox("run", "--port", "0", root=checkout.root, until="curl -f", **environment) as output:
        slots = re.findall(r"/ingest/(slot-\d+)$", output, re.MULTILINE)
        known = json.loads((checkout.root / "var/sandbox/runtime_credentials.json").read_text())
        photo = jpeg()
        form = fields(known["ingest_password"], photo)
        posts = [f"{checkout.url}/ingest/{slot}" for slot in slots if slot != "slot-001"]
        replies = [in_background(partial(post_photo, url, photo, form)) for url in posts]
        assert [reply().status for reply in replies] == [200] * 8
    assert not (checkout.root / "secrets").exists()
    assert not (checkout.root / "var/media").exists()
    assert not checkout.server.data.exists()
