"""A slot's history as its page in the admin tells it: `history.differences`, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib.admin.utils import label_for_field
from django.core.paginator import Paginator
from django.db.models import Model
from django.template.defaultfilters import yesno
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.text import capfirst

from providers import declaration, registry
from slots.history import differences
from slots.models import Slot, SlotChange, TemplateBinding, TemplateMedia

PAGE_SIZE = 50
IMAGE = "template_media."
Setting = tuple[str, Sequence[tuple[Any, str]]]  # its title, and its values with their names


def context(slot: Slot, page: str | None) -> dict[str, Any]:
    """What the template shows: the entries of a page, each with its rows of field, from and to."""
    entries = Paginator(slot.changes.order_by("-id"), PAGE_SIZE).get_page(page)
    words = Words(list(entries))
    return {"entries": entries, "changes": [(entry, words.rows(entry)) for entry in entries]}


class Words:
    """For the entries of a page; the images' names take one query for all."""

    def __init__(self, entries: list[SlotChange]) -> None:
        sides = [side for entry in entries for side in (entry.before, entry.after) if side]
        named = {value for side in sides for field, value in side.items() if field.startswith(IMAGE)}
        self.images = TemplateMedia.objects.in_bulk(named)
        self.settings: dict[tuple[str, str], dict[str, Setting]] = {}

    def rows(self, entry: SlotChange) -> list[tuple[str, str, str]]:
        old, new = entry.before or {}, entry.after
        return [
            (
                self._label(change["field"], old, new),
                self._value(change["field"], change["from"], old),
                self._value(change["field"], change["to"], new),
            )
            for change in differences(entry)
        ]

    def _label(self, field: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        kind, _dot, rest = field.partition(".")
        label = _name(TemplateBinding, "media") if field.startswith(IMAGE) else _name(Slot, kind)
        title, _choices = self._setting(new, rest) or self._setting(old, rest) or (rest, ())
        return f"{label}: {title}" if rest else label

    def _value(self, field: str, value: Any, side: Mapping[str, Any]) -> str:
        kind, _dot, rest = field.partition(".")
        _title, choices = self._setting(side, rest) or (rest, ())
        named = next((name for choice, name in choices if choice == value), value)
        match kind, named:
            case "provider_id", str():
                named = registry.provider_name(value)
            case "operation_id", str():
                named = registry.operation_name(side["provider_id"], value)
            case "template_media", str():
                named = self.images.get(UUID(value), value)
        return _written(named)

    def _setting(self, side: Mapping[str, Any], path: str) -> Setting | None:
        """What the operation of that side says of it."""
        recipe = (side.get("provider_id", ""), side.get("operation_id", ""))
        if recipe not in self.settings:
            self.settings[recipe] = _settings(*recipe)
        return self.settings[recipe].get(path)


def _settings(provider_id: str, operation_id: str) -> dict[str, Setting]:
    """By path."""
    operation = registry.operation(provider_id, operation_id)
    return {
        setting.path: (f"{group.title}: {setting.title}" if group.path else setting.title, setting.choices)
        for group in (declaration.groups(operation) if operation else ())
        for setting in group.settings
    }


def _name(model: type[Model], field: str) -> str:
    """Also of one that an upgrade of the service has taken away since."""
    try:
        return capfirst(str(label_for_field(field, model)))
    except AttributeError:
        return field


def _written(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return str(yesno(value))
        case datetime():
            return date_format(timezone.localtime(value), "DATETIME_FORMAT")
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
    return str(value)
