"""The history of slots: who changed what, when, from what to what. It is kept for good.

Triggers write it (migration `0002_history`): a `SlotChange` for each row that an INSERT, UPDATE or DELETE changes. So
it has every change, also those of `update()` and of plain SQL, and what was really there before, which of two who write
at once neither knows. django-simple-history goes by Django's signals, which those do not send. All that is left to say
here is who it was (`HistoryMiddleware`) and how an entry reads.
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
    A write outside of a request (a command, a migration) is nobody's."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        def sign(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
            if many or not WRITES.match(sql):
                return execute(sql, params, many, context)
            # One round trip and one implicit transaction with the write, so that the name never outlives it.
            signed = f"SELECT set_config('photoslot.user', %s, true); {sql}"
            result = execute(signed, (request.user.get_username(), *(params or ())), many, context)
            context["cursor"].nextset()
            return result

        with connection.execute_wrapper(sign):
            return self.get_response(request)


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
