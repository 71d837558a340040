"""Serializers that take exactly what the document names, by type and by field; pages of a list."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from django.db.models import QuerySet
from django.http import QueryDict
from django.utils.translation import gettext as _
from rest_framework import exceptions, serializers
from rest_framework.request import Request

from staff.api.exceptions import refused_fields, unknown_field


# What a request may say, at one level; other fields are refused by name. (Not a docstring: the document would show it.)
class Fields(serializers.Serializer[Any]):
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping) and self.parent is None:
            raise exceptions.ParseError
        if isinstance(data, Mapping) and (unknown := data.keys() - self.fields.keys()):
            raise serializers.ValidationError({name: [unknown_field()] for name in sorted(unknown)})
        return super().to_internal_value(data)


class Text(serializers.CharField):
    """A string, and nothing that could be made one."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Whole(serializers.IntegerField):
    """A whole number, and nothing that could be made one."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class Flag(serializers.BooleanField):
    """True or false, and nothing that could be made one."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class QueryWhole(serializers.IntegerField):
    """A whole number as an address has it: digits, as many as fit into a column."""

    def to_internal_value(self, data: Any) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", data):
            self.fail("invalid")
        return super().to_internal_value(data)


class WrittenFlag(serializers.BooleanField):
    """`true` or `false`, in an address or a form."""

    def to_internal_value(self, data: Any) -> bool:
        if data not in ("true", "false"):
            self.fail("invalid", input=data)
        return bool(data == "true")


class PageQuery(Fields):
    page = QueryWhole(min_value=1, max_value=100_000, default=1)
    page_size = QueryWhole(min_value=1, max_value=100, default=20)


class PageMeta(serializers.Serializer[Any]):
    page = serializers.IntegerField()
    page_size = serializers.IntegerField()
    total = serializers.IntegerField(help_text="Of all pages.")


def asked(request: Request, form: type[Fields] = Fields) -> dict[str, Any]:
    """What stands in the address behind the question mark, each once; what the form does not have is refused."""
    given = form(data=_each_once(request.query_params))
    given.is_valid(raise_exception=True)
    return dict(given.validated_data)


def posted(request: Request, form: type[Fields]) -> dict[str, Any]:
    """The parts of a form with a `file`, each once. No file is malformed, as at the booths' door; other values are
    refused."""
    parts: Any = request.data or QueryDict()  # of no body, DRF makes a dict
    given = form(data=_each_once(parts))
    if not given.is_valid():
        code = "invalid_payload" if "file" in given.errors else "validation_failed"
        raise refused_fields(exceptions.ValidationError(given.errors), code)
    return dict(given.validated_data)


def _each_once(given: QueryDict) -> dict[str, Any]:
    again = {name: [_("Give it once.")] for name, values in given.lists() if len(values) > 1}
    if again:
        raise refused_fields(exceptions.ValidationError(again), "invalid_payload")
    return given.dict()


def page_of(rows: QuerySet[Any, Any], query: Mapping[str, Any], shown: Callable[[Any], Any]) -> dict[str, Any]:
    """The page that `PageQuery` asks for."""
    page, size = query["page"], query["page_size"]
    found = rows[(page - 1) * size : page * size]
    meta = {"page": page, "page_size": size, "total": rows.count()}
    return {"data": [shown(row) for row in found], "meta": meta}
