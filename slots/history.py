"""The history of slots: who changed what, when, from what to what. It is kept for good.

Triggers write it (migration `0002_history`), a row of `SlotChange` for each row that comes to say something else. So it has
every change, also those of `update()` and of plain SQL, and what was really there before, which of two who write at
once neither knows. django-simple-history goes by Django's signals, which those do not send. All that is left to say
here is who it is (`sign`) and how an entry reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db import connection

from slots.models import SlotChange


def sign(by: Any) -> None:
    """What this transaction changes from here on is the work of that user. Ends with the transaction."""
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('photoslot.user', %s, true)", [by.get_username()])


def differences(entry: SlotChange) -> list[dict[str, Any]]:
    """Each `field` that changed, `from` what and `to` what, by the API's names; settings one by one. None: not set."""
    return [*_between("", entry.before, entry.after)]


def _between(field: str, old: Any, new: Any) -> Iterator[dict[str, Any]]:
    inside = [{} if value is None else value for value in (old, new)]
    if any(inside) and all(isinstance(value, dict) for value in inside):
        for name in sorted(inside[0].keys() | inside[1].keys()):
            yield from _between(f"{field}.{name}".lstrip("."), inside[0].get(name), inside[1].get(name))
    elif old != new:
        yield {"field": field, "from": _value(field, old), "to": _value(field, new)}


def _value(field: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if field == "archived_at" and value else value
