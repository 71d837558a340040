"""The history of slots: who changed what, when, from what to what. It is never purged.

Triggers write it (migration `0002_history`): a `SlotChange` for each row that an INSERT, UPDATE or DELETE changes. So
it has every change, including those of `update()` and plain SQL, and the true previous values, which neither of two
concurrent writers knows. django-simple-history relies on Django's signals, which those changes do not send. This module
adds the user (`HistoryMiddleware`) and compares an entry's two sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from django.db import connection
from django.http import HttpRequest, HttpResponseBase

from slots.models import SlotChange

WRITES = re.compile(r'(INSERT INTO|UPDATE|DELETE FROM) "slots_(slot|templatebinding)"')


class HistoryMiddleware:
    """Signs each write to a slot or its template images with the name of the request's user, whichever view writes it.
    A write outside a request (a command, a migration) has no user."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        def sign(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
            if many or not WRITES.match(sql):
                return execute(sql, params, many, context)
            # In one round trip and one implicit transaction with the write: the name never outlives it.
            signed = f"SELECT set_config('photoslot.user', %s, true); {sql}"
            result = execute(signed, (request.user.get_username(), *(params or ())), many, context)
            context["cursor"].nextset()
            return result

        with connection.execute_wrapper(sign):
            return self.get_response(request)


def list_differences(entry: SlotChange) -> list[dict[str, Any]]:
    """Each `field` that changed, `from` and `to` which value, by the API's names; settings one by one. None: unset."""
    return [*_compare("", entry.before, entry.after)]


def _compare(field: str, old: Any, new: Any) -> Iterator[dict[str, Any]]:
    sides = [{} if value is None else value for value in (old, new)]
    if any(sides) and all(isinstance(side, dict) for side in sides):
        for name in sorted(sides[0].keys() | sides[1].keys()):
            yield from _compare(f"{field}.{name}".lstrip("."), sides[0].get(name), sides[1].get(name))
    elif old != new:
        yield {"field": field, "from": _parse_value(field, old), "to": _parse_value(field, new)}


def _parse_value(field: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if field == "archived_at" and value else value
