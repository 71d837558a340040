"""No key, no prompt and no picture ever reaches a log: all that a run of the tests has written is searched for them.

Searched are, at the end of the run, the log files of all processes (at DEBUG level, `tests.settings`) and all that was
printed; and after each test the rows that staff read. What is looked for: keys and prompts that the sandbox was sent,
in every shape that a log would give them, the ingest password, and the first bytes of pictures.

`conftest` takes the hooks of pytest from here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from django.db import connection

from tests.sandbox import wire
from tests.settings import LOGS

PRINTED = LOGS / "printed.log"
SHORTEST = 8  # characters; what is shorter stands in logs for other reasons
LONGEST = 40  # characters of a prompt that are looked for, so that one that was cut is found too
SCENARIO = re.compile(r"\[\[[^\]]*\]\]")  # for the sandbox, in a prompt
PICTURES = (
    r"/9j/",
    r"_9j_",
    "iVBORw0KGgo",
    "UklGR",
    r"\xff\xd8\xff",
    r"\x89PNG",
)  # in base64, and as Python shows bytes
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG")
ROWS = {
    "stats_processinglog": "details::text || message",
    "jobs_job": "coalesce(error_message, '')",
    "providers_providercall": "row.*::text",
    "axes_accessattempt": "get_data || post_data",
    "django_admin_log": "change_message || object_repr",
}
_secrets: set[str] = set()
_found: list[str] = []


def note(*secrets: str) -> None:
    """These must be in no log."""
    for secret in secrets:
        start = SCENARIO.sub("", secret).strip()[:LONGEST]
        if len(start) >= SHORTEST:
            _secrets.update((start, json.dumps(start)[1:-1], quote(start), quote_plus(start)))


wire.listeners.append(note)


def in_text(text: bytes) -> Iterator[str]:
    """Each find with what stands around it."""
    for needle in (*SIGNATURES, *(secret.encode() for secret in (*PICTURES, *_secrets))):
        if (at := text.find(needle)) >= 0:
            yield f"{needle!r} in: {text[max(0, at - 150) : at + len(needle) + 50]!r}"


def in_files() -> list[str]:
    return [f"{path.name}: {leak}" for path in LOGS.iterdir() for leak in in_text(path.read_bytes())]


def in_rows() -> list[str]:
    """Of the tables whose rows staff read."""
    pattern = "|".join(re.escape(secret) for secret in (*PICTURES, *_secrets))
    with connection.cursor() as cursor:
        for table, text in ROWS.items():
            cursor.execute(f"SELECT {text} FROM {table} AS row WHERE {text} ~ %s LIMIT 3", [pattern])  # noqa: S608
            if leaks := [f"{table}: {row}" for row in cursor.fetchall()]:
                return leaks
    return []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keeps what the test and all processes printed meanwhile."""
    with PRINTED.open("a") as file:
        file.writelines(text for _, text in report.sections)


@pytest.hookimpl(tryfirst=True)  # before the summary, which says that all is well or not
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where several runners share the tests, each searches what it wrote and hands its finds to the first process."""
    _found.extend(in_files())
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leaks"] = _found
    if _found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _found.extend(getattr(node, "workeroutput", {}).get("leaks", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for leak in _found:
        terminalreporter.write_line(f"LEAKED into a log: {leak}", red=True)
