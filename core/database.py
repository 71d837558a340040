"""Reaching the one database: bounded connections, a pool for async SQL, and threads for the ORM.

A server that hangs is treated as one that is gone: whoever has waited for its bound closes the socket and goes on.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import psycopg
from django.conf import settings
from django.db import connection
from psycopg import AsyncConnection, Connection, waiting
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

T = TypeVar("T")

# Seconds to wait for a connection and, in sync code, for the server's first sign of life on it. A running server needs
# milliseconds; if it is down, the booth should learn it at once.
CONNECT_SECONDS = 1.0

# How long a peer that is gone, or whose network is, is waited for: options of libpq that are the client's own, so that
# PgBouncer sees none of them.
PEER_TIMEOUTS: Mapping[str, Any] = {
    "connect_timeout": 2,  # s, the least that libpq takes
    "tcp_user_timeout": 5000,  # ms until what was sent must have been received
    "keepalives_idle": 10,  # s; a connection that only listens must notice too
    "keepalives_interval": 5,
    "keepalives_count": 3,
}

# How often psycopg's waits look for signals; its own default, which it does not export.
WAIT_INTERVAL = 0.1

# The server's share of the bounds: it ends a statement, and a transaction whose client has stopped, so that neither
# keeps a lock of the queue. Only where this session is ours alone: behind a pooler, whose process number is another
# than the server's, a session's settings would reach the pooler's other clients.
LIMIT_SESSION = """
SELECT set_config('statement_timeout', %(bound)s, false),
    set_config('idle_in_transaction_session_timeout', %(bound)s, false)
WHERE pg_backend_pid() = %(pid)s
"""

# What psycopg raises when the database cannot serve: gone, overloaded, or not migrated to this version yet.
UNAVAILABLE_ERRORS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,  # this process was stopped inside a transaction (LIMIT_SESSION)
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    PoolTimeout,
    PoolClosed,
    TimeoutError,
)


class DatabaseUnavailable(Exception):
    """The database did not answer in time. Whether it has committed a change is unknown."""


# How long sync code waits for the response to one statement, in seconds; None: as long as it takes.
_statement_seconds: ContextVar[float | None] = ContextVar("statement_seconds", default=None)


@contextmanager
def limit_statements(seconds: float) -> Iterator[None]:
    """Bounds each statement of the ORM in this thread. One that takes longer raises `django.db.OperationalError`, and
    its connection is closed."""
    token = _statement_seconds.set(seconds)
    try:
        yield
    finally:
        _statement_seconds.reset(token)


class BoundedConnection(Connection[Any]):
    """The ORM's connection. It obeys `limit_statements`, where psycopg waits for a server that hangs without end."""

    def wait(self, gen: PQGen[T], interval: float = WAIT_INTERVAL, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, _statement_seconds.get() if timeout is None else timeout)
        except psycopg.OperationalError:
            _close_if_active(self)
            raise


class BoundedAsyncConnection(AsyncConnection[Any]):
    """A connection that is closed at once when the task that waits for its statement is cancelled. psycopg would ask
    the server to cancel the statement first, and wait ten seconds for one that hangs."""

    async def wait(self, gen: PQGen[T], interval: float = WAIT_INTERVAL, timeout: float | None = None) -> T:
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            _close_if_active(self)
            raise


def _close_if_active(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    """Closes the socket without a word to the server if the response to a statement is still to come."""
    if connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
        connection.pgconn.finish()


def is_alive(connection: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether an idle connection is still open, as far as this side knows; costs no round trip. When the server has
    closed it, as at a restart, its socket has the end of the stream to read."""
    poll = select.poll()
    try:
        poll.register(connection.fileno(), select.POLLIN)
        while poll.poll(0):
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return False
    return True


class Database:
    """A pool of connections for async SQL, bound to the event loop that opened it (`open_database`)."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
        self._pool = pool
        # The semaphore serves waiters in their order, and a long wait at it is legitimate. A long wait for the pool to
        # open a connection is not: it has a bound of its own.
        self._semaphore = asyncio.Semaphore(pool.max_size)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection for one unit of work. Waiting for it and the work itself may take QUEUE_STATEMENT_TIMEOUT_MS
        together. Raises `DatabaseUnavailable`."""
        try:
            async with (
                asyncio.timeout(settings.QUEUE_STATEMENT_TIMEOUT_MS / 1000),
                self._semaphore,
                self._check_out() as connection,
            ):
                yield connection
        except UNAVAILABLE_ERRORS as error:
            raise DatabaseUnavailable(type(error).__name__) from error

    @asynccontextmanager
    async def _check_out(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection that the server has not closed: after its restart, all that were idle are replaced first."""
        while not is_alive(connection := await self._pool.getconn(CONNECT_SECONDS)):
            await self._pool.putconn(connection)
        try:
            async with connection:
                yield connection
        finally:
            await self._pool.putconn(connection)

    async def execute(self, statement: str, values: Any = None) -> int:
        """Runs one statement. Returns how many rows it changed or found."""
        async with self.connection() as connection:
            return (await connection.execute(statement, values)).rowcount

    async def fetch_one(self, record: type[T], statement: str, values: Any = None) -> T | None:
        """The statement's row as a record with its columns. None: there is no row."""
        async with self.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(record))
            return await (await cursor.execute(statement, values)).fetchone()

    async def fetch_column(self, statement: str, values: Any = None) -> list[Any]:
        """The first column of the statement's rows."""
        async with self.connection() as connection:
            return [row[0] for row in await (await connection.execute(statement, values)).fetchall()]


@asynccontextmanager
async def open_database(connections: int = 8, address: Mapping[str, Any] | None = None) -> AsyncIterator[Database]:
    """A pool for the running event loop. Does not wait for the database; `connection` raises if it is unavailable.
    `address` changes how it is reached (arguments of `psycopg.connect`)."""
    pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
        kwargs={**connection_kwargs(), **(address or {}), "autocommit": True},
        connection_class=BoundedAsyncConnection,
        configure=_limit_session,
        min_size=1,
        max_size=connections,
        reconnect_timeout=CONNECT_SECONDS,  # then the next caller retries: recovery waits for no back-off of the pool
        open=False,
    )
    await pool.open()
    try:
        yield Database(pool)
    finally:
        await pool.close()


async def _limit_session(connection: AsyncConnection[Any]) -> None:
    bound = str(settings.QUEUE_STATEMENT_TIMEOUT_MS)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await connection.execute(LIMIT_SESSION, {"bound": bound, "pid": connection.info.backend_pid})
    except BaseException:
        await connection.close()
        raise


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Runs one unit of ORM work in a thread and gives that thread's connection back to Django's pool. Each of its
    statements may take QUEUE_STATEMENT_TIMEOUT_MS."""

    def run() -> T:
        try:
            with limit_statements(settings.QUEUE_STATEMENT_TIMEOUT_MS / 1000):
                return work(*args)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


def make_storable(text: str) -> str:
    """Without what Postgres does not store: NULs, and halves of surrogate pairs. Providers' words may have both."""
    return text.replace("\0", "").encode(errors="replace").decode()


def connection_kwargs() -> dict[str, Any]:
    """What `psycopg.connect` needs to reach Django's default database.

    Statements are prepared (a twentieth more photos a second) only where the server is certainly our own:
    PgBouncer before 1.21 does not support prepared statements in transaction mode.
    """
    config = connection.settings_dict
    known = {
        "dbname": config["NAME"],
        "user": config["USER"],
        "password": config["PASSWORD"],
        "host": config["HOST"],
        "port": config["PORT"],
    }
    extra = {k: v for k, v in config["OPTIONS"].items() if k != "pool"}
    prepare = {} if settings.EMBEDDED_POSTGRES else {"prepare_threshold": None}
    return {k: v for k, v in known.items() if v} | extra | prepare


def listen_kwargs() -> dict[str, Any] | None:
    """The same for LISTEN, which needs a session of its own (`DATABASE_LISTEN_URL`); None: polling only."""
    url: str = settings.DATABASE_LISTEN_URL
    if url == "off":
        return None
    return {"conninfo": url, **PEER_TIMEOUTS} if url else connection_kwargs()
