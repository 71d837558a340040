"""How Postgres would find a query's rows."""

from __future__ import annotations

import re

from django.db import connection


def goes_by(index: str, query: str, table: str = "") -> None:
    """Raises unless the query goes by that index, and reads the table (any, unless one is named) nowhere in full."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {query}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert re.search(rf"(using|on) {index}\b", plan), plan
    assert f"Seq Scan on {table}" not in plan, plan
