"""Behind PgBouncer in transaction mode: photos are made, and who hears no notifications says so and polls."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from django.db import connection
from psycopg.conninfo import make_conninfo

from core.database import connection_kwargs
from jobs.models import Process
from photoslot.embedded_postgres import ACCOUNT
from photoslot.supervisor import find_free_port
from stats.models import HourlyCounter
from tests.conftest import Booth, Processes, jpeg, use_sandbox
from tests.ingest.helpers import eventually
from tests.sandbox.server import Sandbox, developed
from tests.settings import LOGS

pytestmark = pytest.mark.e2e

PHOTOS = 6
# One server connection for each transaction, whoever's it is: what a session says is forgotten or somebody else's.
CONFIGURATION = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 6
"""


def list_listening(started: Iterable[subprocess.Popen[bytes]]) -> list[str]:
    """Which of these processes say that they hear notifications; the tests share others."""
    names = Process.objects.filter(is_listening=True).values_list("name", flat=True)
    return [name for name in names if name.rpartition(" ")[2] in {str(process.pid) for process in started}]


@pytest.fixture
def bouncer(database: None, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of processes that connect through it."""
    config, port = connection.settings_dict, find_free_port()
    server = f"host={config['HOST']} port={config['PORT']} user={config['USER']}"
    if config["PASSWORD"]:
        server += f" password={config['PASSWORD']}"
    file = Path("/tmp", f"{tmp_path.parent.name}-{port}.ini")  # noqa: S108 - where its own user can read it
    file.write_text(CONFIGURATION.format(server=server, port=port))
    user = ["-u", ACCOUNT] if os.geteuid() == 0 else []
    with subprocess.Popen(["pgbouncer", "-q", *user, str(file)]) as process:
        try:
            eventually(lambda: is_open(port))
            yield {"TEST_DATABASE_URL": f"postgres://{config['USER']}@127.0.0.1:{port}/{config['NAME']}"}
        finally:
            process.terminate()
            file.unlink()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def make_direct_url() -> str:
    return make_conninfo(**{name: value for name, value in connection_kwargs().items() if name != "prepare_threshold"})


def has_said_so(process_id: int) -> bool:
    log = LOGS / f"{process_id}.log"
    return log.exists() and "LISTEN does not work" in log.read_text()


@pytest.mark.parametrize("listen", ["through it", "to the server"])
def test_photos_are_made_and_who_is_deaf_says_so(
    bouncer: dict[str, str], processes: Processes, sandbox: Sandbox, listen: str
) -> None:
    environment = bouncer | ({} if listen == "through it" else {"DATABASE_LISTEN_URL": make_direct_url()})
    use_sandbox("queued")
    started = [processes.web(**environment), processes.worker(**environment)]
    for number in range(PHOTOS):
        assert Booth(processes.url).post(jpeg(), id=str(number)).body == developed(jpeg())
    assert len([call for call in sandbox.journal if call.method == "POST"]) == PHOTOS
    assert HourlyCounter.objects.get().success == PHOTOS
    if listen == "through it":
        for process in started:
            eventually(partial(has_said_so, process.pid), 30)
        assert not list_listening(started)
    else:
        eventually(lambda: list_listening(started), 30)
