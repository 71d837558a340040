from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from photoslot import embedded_postgres
from photoslot.embedded_postgres import PORT, EmbeddedPostgres, EmbeddedPostgresError

pytestmark = pytest.mark.integration

CODE = Path(embedded_postgres.__file__).parents[1]
OTHER_PROCESS = """
import sys
from pathlib import Path
from photoslot.embedded_postgres import EmbeddedPostgres

with EmbeddedPostgres(Path(sys.argv[1]), sys.argv[2], system_dir=Path(sys.argv[3])) as server:
    print((server.data / "postmaster.pid").read_text().split()[0], flush=True)
    sys.stdin.readline()
"""

Make = Callable[..., EmbeddedPostgres]
Spawn = Callable[[EmbeddedPostgres], "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def system_dir() -> Iterator[Path]:
    """Stands for /var/lib/photoslot. Not in tmp_path, which is closed to the user root's server runs as."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make(tmp_path: Path, system_dir: Path) -> Iterator[Make]:
    made: list[EmbeddedPostgres] = []

    def build(name: str = "test", root: Path = tmp_path) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(root, name, system_dir=system_dir))
        return made[-1]

    yield build
    for server in made:
        server.stop()
        if (server.data / "postmaster.pid").exists():  # left by a failed test; its number alone proves nothing
            with server:
                pass
        shutil.rmtree(server.host, ignore_errors=True)


@pytest.fixture
def server(make: Make) -> EmbeddedPostgres:
    return make()


@pytest.fixture
def spawn(tmp_path: Path, system_dir: Path) -> Iterator[Spawn]:
    """Another process, head of a process group of its own, that uses the server until its stdin ends."""
    spawned: list[subprocess.Popen[str]] = []

    def start(server: EmbeddedPostgres) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), server.data.name, str(system_dir)]
        pipe = subprocess.PIPE
        spawned.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=CODE, start_new_session=True))
        return spawned[-1]

    yield start
    for process in spawned:
        process.kill()
        process.communicate()


def connect(server: EmbeddedPostgres) -> psycopg.Connection:
    return psycopg.connect(host=server.host, port=PORT, user="photoslot", dbname="photoslot", autocommit=True)


def ask(server: EmbeddedPostgres, question: str) -> object:
    with connect(server) as connection:
        row = connection.execute(question.encode()).fetchone()
        return row and row[0]


def is_up(server: EmbeddedPostgres) -> bool:
    try:
        return ask(server, "SELECT 1") == 1
    except psycopg.OperationalError:
        return False


def postmaster(server: EmbeddedPostgres) -> int:
    return int((server.data / "postmaster.pid").read_text().split()[0])


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def modes(path: Path) -> dict[Path, int]:
    return {parent: parent.stat().st_mode for parent in (path, *path.parents)}


def test_constructing_starts_and_creates_nothing(server: EmbeddedPostgres, tmp_path: Path) -> None:
    assert not Path(server.host).exists()
    assert not server.data.exists()
    assert list(tmp_path.iterdir()) == []


def test_host_is_the_same_for_every_process_and_way_to_the_checkout(make: Make, tmp_path: Path) -> None:
    (tmp_path / "checkout").mkdir()
    (tmp_path / "link").symlink_to("checkout")
    assert make(root=tmp_path / "checkout").host == make(root=tmp_path / "link").host
    assert len({make("test").host, make("run").host, make("test", tmp_path / "checkout").host}) == 3


@pytest.mark.parametrize(("name", "fsync"), [("run", "on"), ("test", "off")])
def test_started_it_answers_and_stopped_it_does_not(make: Make, name: str, fsync: str) -> None:
    server = make(name)
    with server:
        assert ask(server, "SHOW fsync") == fsync
        assert ask(server, "SHOW server_encoding") == "UTF8"
        assert ask(server, "SHOW timezone") == "UTC"
        assert ask(server, "SHOW listen_addresses") == ""
    assert not is_up(server)


def test_started_again_it_has_its_data(server: EmbeddedPostgres) -> None:
    with server, connect(server) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with server:
        assert ask(server, "SELECT answer FROM kept") == 42


def test_another_checkout_at_the_same_path_begins_empty(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    with make(root=root) as first, connect(first) as connection:
        connection.execute("CREATE TABLE kept ()")
    shutil.rmtree(root)
    with make(root=root) as second, connect(second) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)


def test_the_last_user_stops_it(make: Make) -> None:
    first, second = make(), make()
    first.start()
    second.start()
    first.stop()
    assert is_up(second)
    second.stop()
    assert not is_up(second)


def test_starting_twice_counts_once(server: EmbeddedPostgres) -> None:
    server.start()
    server.start()
    server.stop()
    assert not is_up(server)
    server.stop()


def test_a_server_left_by_a_killed_process_is_found_again(server: EmbeddedPostgres, spawn: Spawn) -> None:
    process = spawn(server)
    left = int(first_line(process))
    process.kill()
    process.wait()
    assert is_up(server)
    server.start()
    assert postmaster(server) == left
    server.stop()
    assert not is_up(server)


def test_a_stale_pid_file_whose_number_another_process_has_now(server: EmbeddedPostgres) -> None:
    files = server.data / "postmaster.pid", Path(server.host) / f".s.PGSQL.{PORT}.lock"
    with server:
        texts = [file.read_text() for file in files]
        owner, number = server.data.owner(), str(postmaster(server))
    user = owner if os.geteuid() == 0 else None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd="/", user=user) as other:
        for file, text in zip(files, texts, strict=True):
            file.write_text(text.replace(number, str(other.pid), 1))
        with server:
            assert is_up(server)


def test_a_server_whose_postmaster_was_killed_comes_back(server: EmbeddedPostgres) -> None:
    server.start()
    killed = postmaster(server)
    with connect(server) as connection:
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):  # its other processes leave when they notice
            connection.execute("SELECT pg_sleep(10)")
    server.start()
    assert is_up(server)
    assert postmaster(server) != killed


def test_names_and_checkouts_have_servers_of_their_own(make: Make, tmp_path: Path) -> None:
    one, two, three = make("test"), make("run"), make("test", tmp_path / "other")
    with two, three:
        with one:
            assert len({postmaster(one), postmaster(two), postmaster(three)}) == 3
        assert not is_up(one)
        assert is_up(two)
        assert is_up(three)


def test_a_checkout_deep_down_with_an_odd_name(make: Make, tmp_path: Path) -> None:
    root = tmp_path / ("deep" * 20) / ("down" * 20) / "with spaces, it's ü"
    root.mkdir(parents=True)
    with make(root=root) as server:
        assert is_up(server)


def test_ctrl_c_ends_its_starter_but_not_the_server(server: EmbeddedPostgres, spawn: Spawn) -> None:
    process = spawn(server)
    started = int(first_line(process))
    server.start()
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
    assert is_up(server)
    assert postmaster(server) == started
    server.stop()
    assert not is_up(server)


def test_three_processes_that_start_at_once_share_one_server(server: EmbeddedPostgres, spawn: Spawn) -> None:
    processes = [spawn(server) for _ in range(3)]
    assert len({first_line(process) for process in processes} | {str(postmaster(server))}) == 1
    for process in processes:
        assert is_up(server)
        process.communicate("stop\n")
        assert process.returncode == 0
    assert not is_up(server)


def test_no_mode_above_or_in_the_checkout_changes(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "private" / "checkout"
    root.mkdir(parents=True)
    root.chmod(0o700)
    root.parent.chmod(0o700)
    before = modes(root)
    with make(root=root) as server:
        assert is_up(server)
        assert modes(root) == before
        assert server.data.stat().st_mode & 0o077 == 0
        assert Path(server.host).stat().st_mode & 0o077 == 0


def test_data_of_another_major_version_is_refused(server: EmbeddedPostgres) -> None:
    with server:
        pass
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match="written by Postgres 9, but Postgres 18 is installed"):
        server.start()


def test_a_failed_start_shows_the_log_and_can_be_repeated(server: EmbeddedPostgres) -> None:
    with server:
        configuration = server.data / "postgresql.conf"
    good = configuration.read_text()
    configuration.write_text(f"{good}\nnonsense_parameter = 1\n")
    with pytest.raises(EmbeddedPostgresError, match=r"failed at pg_ctl(.|\n)*nonsense_parameter"):
        server.start()
    configuration.write_text(good)
    with server:
        assert is_up(server)


def test_a_running_server_without_its_socket_is_stopped_and_started_anew(
    server: EmbeddedPostgres, spawn: Spawn
) -> None:
    process = spawn(server)
    first_line(process)
    process.kill()
    process.wait()
    (Path(server.host) / f".s.PGSQL.{PORT}").unlink()
    with pytest.raises(EmbeddedPostgresError, match="has no socket in"):
        server.start()
    with server:
        assert is_up(server)


def test_what_an_interrupted_initdb_left_is_cleared(server: EmbeddedPostgres) -> None:
    left = server.data.parent / ".test-left"
    left.mkdir(parents=True)
    (left / "PG_VERSION").write_text("18\n")
    left.parent.chmod(0o755)  # whatever the umask of whoever runs the tests
    with server:
        assert not left.exists()
        assert is_up(server)


def test_the_log_keeps_no_data_and_no_more_than_a_week(server: EmbeddedPostgres) -> None:
    with server:
        old = server.data / "log" / "server-old.log"
        old.touch()
        os.utime(old, (0, 0))
        with pytest.raises(psycopg.DataError, match="hush"):
            ask(server, "SELECT 'hush'::int")
    with server:
        assert not old.exists()
    logs = "".join(log.read_text() for log in old.parent.iterdir())
    assert "ready to accept connections" in logs
    assert "hush" not in logs


@pytest.mark.parametrize("trap", ["link", "wide"])
def test_a_prepared_directory_is_refused(tmp_path: Path, trap: str) -> None:
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EmbeddedPostgresError, match="must be a directory of your own"):
        embedded_postgres._own_directory(tmp_path / trap, 0o700)


def test_without_the_package_it_says_what_to_install(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(EmbeddedPostgresError, match="pip install"):
        server.start()


def test_without_useradd_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded_postgres, "ACCOUNT", "photoslot-absent")
    monkeypatch.setitem(embedded_postgres.ENVIRONMENT, "PATH", str(tmp_path))
    with pytest.raises(EmbeddedPostgresError, match="Add that user yourself"):
        embedded_postgres._system_account(tmp_path)
