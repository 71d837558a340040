"""Serializers that accept only what the document declares: other fields and other types are refused, not converted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from django.db.models import QuerySet
from django.http import QueryDict
from django.utils.translation import gettext as _
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.utils import json

from staff.api.exceptions import make_unknown_field_error, refuse_fields


# Fields that are not declared are refused by name. (Not a docstring: the document would show it.)
class StrictSerializer(serializers.Serializer[Any]):
    refusal_code = "validation_failed"  # the envelope's code for a value that is not accepted

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping) and self.parent is None:
            raise exceptions.ParseError
        if isinstance(data, Mapping) and (unknown := data.keys() - self.fields.keys()):
            raise serializers.ValidationError({name: [make_unknown_field_error()] for name in sorted(unknown)})
        return super().to_internal_value(data)


class StrictCharField(serializers.CharField):
    """A JSON string."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictIntegerField(serializers.IntegerField):
    """A JSON number without a fraction."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictBooleanField(serializers.BooleanField):
    """JSON's true or false."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class QueryIntegerField(serializers.IntegerField):
    """An integer in a query string: at most 18 digits, which fit into a bigint."""

    def to_internal_value(self, data: Any) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", data):
            self.fail("invalid")
        return super().to_internal_value(data)


class QueryBooleanField(serializers.BooleanField):
    """`true` or `false` in a query string or a form."""

    def to_internal_value(self, data: Any) -> bool:
        if data not in ("true", "false"):
            self.fail("invalid", input=data)
        return bool(data == "true")


class JSONTextField(serializers.DictField):
    """A JSON object as the text of a form's field."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except (TypeError, ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise serializers.ValidationError(_("Must be an object."))
        return value


class PageQuery(StrictSerializer):
    page = QueryIntegerField(min_value=1, max_value=100_000, default=1)
    page_size = QueryIntegerField(min_value=1, max_value=100, default=20)


class PageMeta(serializers.Serializer[Any]):
    page = serializers.IntegerField()
    page_size = serializers.IntegerField()
    total = serializers.IntegerField(help_text="Of all pages.")


def paginate(rows: QuerySet[Any, Any], query: Mapping[str, Any], represent: Callable[[Any], Any]) -> dict[str, Any]:
    """The page that the query, a `PageQuery`, selects. `represent` makes the JSON of a row."""
    page, size = query["page"], query["page_size"]
    page_rows = rows[(page - 1) * size : page * size]
    meta = {"page": page, "page_size": size, "total": rows.count()}
    return {"data": [represent(row) for row in page_rows], "meta": meta}


def parse_query(request: Request, serializer: type[StrictSerializer]) -> dict[str, Any]:
    """The validated query string, each parameter at most once. Raises `ApiError`."""
    return _validate(serializer, _flatten(request.query_params))


def parse_body(request: Request, serializer: type[StrictSerializer]) -> dict[str, Any]:
    """The validated JSON body. Raises `ApiError`."""
    return _validate(serializer, request.data)


def parse_form(request: Request, serializer: type[StrictSerializer]) -> dict[str, Any]:
    """The validated parts of a form with a `file`, each at most once. Raises `ApiError`: without a file the form is
    malformed, as for booths."""
    parts: Any = request.data or QueryDict()  # without a body, DRF gives a dict
    return _validate(serializer, _flatten(parts))


def _validate(serializer: type[StrictSerializer], data: Any) -> dict[str, Any]:
    bound = serializer(data=data)
    if not bound.is_valid():
        code = "invalid_payload" if "file" in bound.errors else serializer.refusal_code
        raise refuse_fields(bound.errors, code)
    return dict(bound.validated_data)


def _flatten(data: QueryDict) -> dict[str, Any]:
    repeated = {name: [_("Give it once.")] for name, values in data.lists() if len(values) > 1}
    if repeated:
        raise refuse_fields(repeated, "invalid_payload")
    return data.dict()
