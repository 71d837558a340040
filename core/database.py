"""Reaching the one database from async code: a bounded connection pool for SQL, and threads for the ORM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from django.conf import settings
from django.db import connection
from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

T = TypeVar("T")

# Seconds to wait for one new connection. A running server needs milliseconds; if it is down, the booth should learn it
# at once.
CONNECT_SECONDS = 1.0

# What psycopg raises when the database cannot serve: gone, overloaded, or not migrated to this version yet.
UNAVAILABLE_ERRORS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    PoolTimeout,
    PoolClosed,
    TimeoutError,
)


class DatabaseUnavailable(Exception):
    """The database did not answer in time; nothing was changed."""


class Database:
    """A pool of connections for async SQL, bound to the event loop that opened it (`open_database`)."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
        self._pool = pool
        # The semaphore serves waiters in their order, and a long wait at it is legitimate. A long wait for the pool to
        # open a connection is not: it has a bound of its own.
        self._semaphore = asyncio.Semaphore(pool.max_size)
        self._repair: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection for one unit of work, which may take QUEUE_STATEMENT_TIMEOUT_MS. Raises
        `DatabaseUnavailable`."""
        bound = settings.QUEUE_STATEMENT_TIMEOUT_MS / 1000
        try:
            async with asyncio.timeout(bound):
                await self._semaphore.acquire()
            try:
                async with asyncio.timeout(bound), self._pool.connection(timeout=CONNECT_SECONDS) as connection:
                    yield connection
            finally:
                self._semaphore.release()
        except UNAVAILABLE_ERRORS as error:
            self._replace_dead_connections()
            raise DatabaseUnavailable(type(error).__name__) from error

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

    def _replace_dead_connections(self) -> None:
        if self._repair is None or self._repair.done():
            self._repair = asyncio.create_task(self._pool.check(), name="repair the pool")


@asynccontextmanager
async def open_database(connections: int = 8) -> AsyncIterator[Database]:
    """A pool for the running event loop. Does not wait for the database; `connection` raises if it is unavailable."""
    pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
        kwargs=connection_kwargs() | {"autocommit": True},
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


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Runs one unit of ORM work in a thread and gives that thread's connection back to Django's pool."""

    def run() -> T:
        try:
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
    return {k: v for k, v in known.items() if v} | extra | prepare | {"connect_timeout": 5}


def listen_kwargs() -> dict[str, Any] | None:
    """The same for LISTEN, which needs a session of its own (`DATABASE_LISTEN_URL`); None: polling only."""
    url: str = settings.DATABASE_LISTEN_URL
    if url == "off":
        return None
    # TCP keepalive: a connection that only listens must notice a dead peer.
    keepalive = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    return ({"conninfo": url} if url else connection_kwargs()) | keepalive
