"""`manage.py run`: the whole service in one command, as a newcomer starts it, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.booth_client import Reply, fields, post_photo
from tests.conftest import in_background, jpeg
from tests.photoslot.checkout import Checkout
from tests.photoslot.waiting import until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Where the service runs all the time."""
    made = Checkout(tmp_path_factory.mktemp("run") / "photo slot")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def welcome(checkout: Checkout) -> str:
    return checkout.run()[1]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """For starting and stopping."""
    made = Checkout(tmp_path_factory.mktemp("run") / "other")
    yield made
    made.remove()


def credentials(checkout: Checkout) -> dict[str, object]:
    read: dict[str, object] = json.loads((checkout.root / "secrets/runtime_credentials.json").read_text())
    return read


def post(checkout: Checkout, photo: bytes, slot: str = "slot-001") -> Reply:
    form = fields(str(credentials(checkout)["ingest_password"]), photo)
    return post_photo(f"{checkout.url}/ingest/{slot}", photo, form)


def under_way(checkout: Checkout, worker: int) -> Callable[[], Reply]:
    """A photo that a worker has just taken up."""
    os.kill(worker, signal.SIGSTOP)
    with checkout.connect() as connection:
        reply = in_background(lambda: post(checkout, jpeg(1200, 900), "slot-003"))
        jobs = "SELECT FROM jobs_job WHERE slot_id = 'slot-003'"
        until(lambda: connection.execute(jobs).rowcount == 1)
        os.kill(worker, signal.SIGCONT)
        until(lambda: connection.execute(f"{jobs} AND status = 'processing'").rowcount == 1)
    return reply


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_it_says_where_everything_is(checkout: Checkout, welcome: str) -> None:
    admins = credentials(checkout)["admins"]
    assert isinstance(admins, dict)
    assert set(admins) == {"serg", "igor"}
    for password in (*admins.values(), credentials(checkout)["ingest_password"]):
        assert password not in welcome  # which goes to a pipe here, and not to a terminal
    assert str(checkout.root / "secrets/runtime_credentials.json") in welcome
    assert httpx.get(re.search(r"http\S+/admin/", welcome)[0], follow_redirects=True).status_code == 200  # type: ignore[index]


def test_style_sheets_are_compressed_and_kept_for_good(welcome: str) -> None:
    page = httpx.get(re.search(r"http\S+/admin/", welcome)[0], follow_redirects=True)  # type: ignore[index]
    sheets = re.findall(r'href="(/static/[^"]+\.css)"', page.text)
    assert sheets
    for sheet in sheets:
        answer = httpx.get(page.url.join(sheet))
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/css")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert "immutable" in answer.headers["Cache-Control"]
    missing = httpx.get(page.url.join("/static/no.css"))
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


def test_the_line_to_try_works(checkout: Checkout, welcome: str, tmp_path: Path) -> None:
    (tmp_path / "curl").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")  # says what the shell makes of the line
    (tmp_path / "curl").chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    line = next(line for line in welcome.splitlines() if line.strip().startswith("curl"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=True).stdout
    arguments = said.splitlines()
    assert arguments[:4] == ["-f", "-o", "picture.jpg", "--form-string"]
    name, _, password = arguments[4].partition("=")
    assert arguments[5:7] == ["-F", "fileToUpload=@photo.jpg"]
    answer = httpx.post(arguments[7], data={name: password}, files={"fileToUpload": jpeg()}, timeout=60)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")


def test_a_killed_worker_is_replaced_and_the_booth_gets_its_picture(checkout: Checkout, welcome: str) -> None:
    killed = checkout.process_id("worker")
    os.kill(killed, signal.SIGSTOP)
    reply = in_background(lambda: post(checkout, jpeg(), "slot-002"))
    with checkout.connect() as connection:
        until(lambda: connection.execute("SELECT FROM jobs_job WHERE slot_id = 'slot-002'").rowcount == 1)
    os.kill(killed, signal.SIGKILL)
    assert reply().status == 200
    assert checkout.process_id("worker") != killed
    assert "worker ended with code -9; starting it again" in checkout.messages.read_text()


def test_a_killed_web_process_is_replaced(checkout: Checkout, welcome: str) -> None:
    os.kill(checkout.process_id("web"), signal.SIGKILL)
    until(lambda: not checkout.port_is_taken() or "web ended with code -9" in checkout.messages.read_text())
    until(checkout.port_is_taken)
    assert post(checkout, jpeg(colour="red")).status == 200


def test_the_purge_runs(checkout: Checkout, welcome: str) -> None:
    query = "SELECT FROM jobs_purgetotal WHERE kind IN ('media', 'results', 'log')"
    with checkout.connect() as connection:
        until(lambda: connection.execute(query.encode()).rowcount == 3)


def test_started_a_second_time_it_says_so(checkout: Checkout, welcome: str) -> None:
    code, said = checkout.manage("run")
    assert code == 1
    assert f"Port {checkout.port} cannot be used: Address already in use." in said
    assert "set PORT" in said
    assert "Traceback" not in said
    assert httpx.get(f"{checkout.url}/readyz").status_code == 200


def test_the_demo_runs_beside_it(checkout: Checkout, welcome: str) -> None:
    code, said = checkout.manage("demo")
    assert code == 0, said
    assert (checkout.root / "var/demo/slot-012.jpg").exists()
    assert httpx.get(f"{checkout.url}/readyz").status_code == 200
    assert checkout.database_runs()


def test_ctrl_c_finishes_the_photo_under_way_and_stops_all_of_it(other: Checkout) -> None:
    process, _ = other.run()
    children = [other.process_id("web"), other.process_id("worker")]
    reply = under_way(other, worker=children[1])
    process.send_signal(signal.SIGINT)
    assert reply().status == 200
    output, _ = process.communicate(timeout=25)
    assert process.returncode == 0
    assert output.endswith("Stopping …\n")
    assert [is_alive(child) for child in children] == [False, False]
    assert not other.database_runs()
    assert not other.port_is_taken()
    assert "Traceback" not in other.messages.read_text()
    again, welcome = other.run()
    assert "Passwords, shown this once" not in welcome
    page = httpx.URL(httpx.Headers(dict(reply().headers))["X-Result-Url"]).path
    assert httpx.get(other.url + page).status_code == 200
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=25)
    assert again.returncode == 0


def test_killed_it_leaves_nothing_in_the_way_of_the_next(other: Checkout) -> None:
    process, _ = other.run()
    children = [other.process_id("web"), other.process_id("worker")]
    process.kill()
    process.wait()
    until(lambda: not any(is_alive(child) for child in children))
    again, _ = other.run()
    assert post(other, jpeg(colour="red")).status == 200
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=25)
    assert again.returncode == 0
    assert not other.database_runs()


def test_ctrl_c_while_it_starts(other: Checkout) -> None:
    said_before = len(other.messages.read_text())
    process = other.start("run")
    until(other.database_runs)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=25)
    assert process.returncode in (0, 130)  # after or before it had begun to start its children
    assert "Traceback" not in other.messages.read_text()[said_before:]
    assert not other.database_runs()
    assert not other.port_is_taken()


def test_a_database_that_is_not_there_is_said_in_a_sentence(other: Checkout) -> None:
    code, said = other.manage("run", DATABASE_URL="postgres://nobody@127.0.0.1:1/none", DEBUG="1")
    assert code == 1
    assert "Preparing the database failed" in said
    assert "DATABASE_URL" in said
    assert "Traceback" not in said
