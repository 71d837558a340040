"""Settings from the environment: nonsense is refused at start-up, in a sentence; secrets are made once."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from photoslot import environment
from tests.photoslot.checkout import Checkout

OTHER_PROCESS = """
import sys
from pathlib import Path
from photoslot.environment import generate_secret

print("ready", flush=True)
sys.stdin.readline()
print([generate_secret(Path(sys.argv[1], str(number))) for number in range(100)])
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    made = Checkout(tmp_path_factory.mktemp("settings") / "checkout")
    yield made
    made.remove()


@pytest.mark.unit
@pytest.mark.parametrize(("text", "value"), [(None, 7), ("", 7), (" ", 7), ("1", 1), (" 9 ", 9)])
def test_an_integer(monkeypatch: pytest.MonkeyPatch, text: str | None, value: int) -> None:
    monkeypatch.delenv("N", raising=False) if text is None else monkeypatch.setenv("N", text)
    assert environment.Environment().integer("N", 7, 1, 9) == value


@pytest.mark.unit
@pytest.mark.parametrize("text", ["$ecret", "$T", "a#b", "100%"])
def test_a_text_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("T", text)
    assert environment.Environment().text("T") == text


@pytest.mark.unit
@pytest.mark.parametrize(("text", "words"), [(None, ["a", "b"]), ("", []), (" c,, d ", ["c", "d"])])
def test_words(monkeypatch: pytest.MonkeyPatch, text: str | None, words: list[str]) -> None:
    monkeypatch.delenv("W", raising=False) if text is None else monkeypatch.setenv("W", text)
    assert environment.Environment().words("W", "a,b") == words


@pytest.mark.unit
def test_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "127.0.0.1, 10.0.0.0/24,2001:db8::/64")
    assert environment.Environment().networks("N") == ["127.0.0.1", "10.0.0.0/24", "2001:db8::/64"]


@pytest.mark.unit
@pytest.mark.parametrize("text", ["*", "proxy.example", "10.0.0.1/24", "10.0.0.1,x"])
def test_no_networks(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("N", text)
    with pytest.raises(ImproperlyConfigured, match=r"^N: .*Give addresses such as"):
        environment.Environment().networks("N")


@pytest.mark.unit
@pytest.mark.parametrize("text", ["0", "10", "-1", "1.5", "seven", "0x1"])
def test_no_integer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("N", text)
    with pytest.raises(ImproperlyConfigured, match=f"N='{text}' must be a whole number from 1 to 9"):
        environment.Environment().integer("N", 7, 1, 9)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "value"), [("", True), ("1", True), ("on", True), ("Yes", True), ("0", False), ("FALSE", False)]
)
def test_a_flag(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv("F", text)
    assert environment.Environment().flag("F", True) is value


@pytest.mark.unit
def test_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("F", "maybe")
    with pytest.raises(ImproperlyConfigured, match="F='maybe' must be 1 or 0"):
        environment.Environment().flag("F", True)


@pytest.mark.unit
def test_a_secret_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "key"
    first = environment.generate_secret(path)
    assert len(first) >= 50
    assert environment.generate_secret(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.integration
def test_processes_that_start_at_once_share_a_secret(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=settings.BASE_DIR) for _ in range(6)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    secrets = {process.communicate(timeout=30)[0] for process in processes}
    assert len(secrets) == 1
    assert len(list(tmp_path.iterdir())) == 100  # no draft is left


SHORT_KEY = (
    "SECRET_KEY needs at least 32 characters, 5 of them different. "
    "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
)

NOT_WRITABLE = (
    "MEDIA_ROOT='/dev/null/media' cannot be written: Not a directory. Make it writable for the user who starts this, "
    "or set MEDIA_ROOT to another folder."
)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"PORT": "eight thousand"}, "PORT='eight thousand' must be a whole number from 1 to 65535."),
        ({"SYNC_RESPONSE_SECONDS": "61"}, "SYNC_RESPONSE_SECONDS='61' must be a whole number from 10 to 60."),
        ({"DEBUG": "maybe"}, "DEBUG='maybe' must be 1 or 0."),
        (
            {"DATABASE_URL": "postgres://u@h/d", "DEBUG": "0"},
            "SECRET_KEY must be set when DATABASE_URL is set and DEBUG is off.",
        ),
        ({"SECRET_KEY": "x"}, SHORT_KEY),
        ({"SECRET_KEY": "abcd" * 10}, SHORT_KEY),
        (
            {"MEDIA_ROOT": "/dev/null/media"},
            NOT_WRITABLE,
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_nonsense_ends_the_start_with_a_sentence(
    checkout: Checkout, environment: dict[str, str], sentence: str
) -> None:
    assert checkout.manage("run", **environment) == (1, f"{sentence}\n")


@pytest.mark.e2e
def test_what_needs_no_database_starts_none(checkout: Checkout) -> None:
    code, said = checkout.manage("check")
    assert code == 0, said
    assert checkout.manage("check", DATABASE_URL="postgres://u@h/d", DEBUG="1")[0] == 0
    assert checkout.manage("run", "--help")[0] == 0
    assert not checkout.server.data.exists()
    assert not Path(checkout.server.host).exists()
