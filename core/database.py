"""Reaching the one database: from the queue's own SQL, and with the ORM from async code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from django.conf import settings
from django.db import connection

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Runs one unit of ORM work in a thread and gives that thread's connection back to Django's pool."""

    def unit() -> T:
        try:
            return work(*args)
        finally:
            connection.close()

    return await asyncio.to_thread(unit)


def connection_kwargs() -> dict[str, Any]:
    """What `psycopg.connect` needs to reach Django's default database.

    Statements are prepared (a twentieth more photos a second) only where the server is surely our own: PgBouncer
    before 1.21 knows no prepared statements in transaction mode.
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
    # TCP keepalive: a connection that only listens must notice a peer that is gone.
    keepalive = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    return ({"conninfo": url} if url else connection_kwargs()) | keepalive
