"""ENGINE `core.postgresql`: a connection of the pool is lent only if the server shows that it lives."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base
from psycopg_pool import ConnectionPool

from core.database import CONNECT_SECONDS, is_alive, limit_statements


class DatabaseWrapper(base.DatabaseWrapper):
    """In place of Django's own health check, which waits without end for a server that hangs, and a second for each
    connection but the first that a restarted server has closed."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        if not self.pool:
            return connection
        while not is_alive(connection):
            self.pool.putconn(connection)  # the pool replaces it
            connection = super().get_new_connection(conn_params)
        try:
            with limit_statements(CONNECT_SECONDS):
                ConnectionPool.check_connection(connection)
        except BaseException:
            self.pool.putconn(connection)
            raise
        return connection
