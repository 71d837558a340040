"""Checks that no key, prompt or picture reaches a log, by searching everything that a run of the tests has written.

At the end of the run it searches the log files of all processes (at DEBUG level, `tests.settings`) and everything that
was printed; after each test, the rows that staff read. It searches for the keys and prompts that the sandbox received,
in every form that a log could give them, for the ingest password, and for the first bytes of pictures.

`conftest` imports pytest's hooks from here.
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
SHORTEST = 8  # characters; shorter strings are in logs for other reasons
LONGEST = 40  # characters of a prompt that are searched for: finds truncated prompts too
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
_leaks: list[str] = []


def note(*secrets: str) -> None:
    """Adds secrets that no log may contain."""
    for secret in secrets:
        start = SCENARIO.sub("", secret).strip()[:LONGEST]
        if len(start) >= SHORTEST:
            _secrets.update((start, json.dumps(start)[1:-1], quote(start), quote_plus(start)))


wire.listeners.append(note)


def search_text(text: bytes) -> Iterator[str]:
    """Yields each leak with the text around it."""
    for needle in (*SIGNATURES, *(secret.encode() for secret in (*PICTURES, *_secrets))):
        if (start := text.find(needle)) >= 0:
            yield f"{needle!r} in: {text[max(0, start - 150) : start + len(needle) + 50]!r}"


def search_files() -> list[str]:
    return [f"{path.name}: {leak}" for path in LOGS.iterdir() for leak in search_text(path.read_bytes())]


def search_rows() -> list[str]:
    """Searches the tables whose rows staff read; stops at the first with a leak."""
    pattern = "|".join(re.escape(secret) for secret in (*PICTURES, *_secrets))
    with connection.cursor() as cursor:
        for table, text in ROWS.items():
            cursor.execute(f"SELECT {text} FROM {table} AS row WHERE {text} ~ %s LIMIT 3", [pattern])  # noqa: S608
            if leaks := [f"{table}: {row}" for row in cursor.fetchall()]:
                return leaks
    return []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Stores what the test, and all processes during it, printed."""
    with PRINTED.open("a") as file:
        file.writelines(text for _, text in report.sections)


@pytest.hookimpl(tryfirst=True)  # before the summary, which reports the exit status
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With several runners, each searches its own output and hands the leaks to the controlling process."""
    _leaks.extend(search_files())
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leaks"] = _leaks
    if _leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _leaks.extend(getattr(node, "workeroutput", {}).get("leaks", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for leak in _leaks:
        terminalreporter.write_line(f"LEAKED into a log: {leak}", red=True)
