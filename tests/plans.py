"""Query plans: the index by which Postgres finds a query's rows."""

from __future__ import annotations

import re

from django.db import connection


def assert_uses_index(index: str, query: str, table: str = "") -> None:
    """Raises `AssertionError` unless the plan uses the index, and scans the table (by default, any) nowhere in full."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {query}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert re.search(rf"(using|on) {index}\b", plan), plan
    assert f"Seq Scan on {table}" not in plan, plan
