"""A slot's history on its page in the admin: `history.list_differences`, with labels and translated values."""

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
from slots.history import list_differences
from slots.models import Slot, SlotChange, TemplateBinding, TemplateMedia

PAGE_SIZE = 50
IMAGE = "template_media."
Setting = tuple[str, Sequence[tuple[Any, str]]]  # its title, and its values with their names


def make_context(slot: Slot, page: str | None) -> dict[str, Any]:
    """The template's context: the entries of a page, each with its rows of field, from and to."""
    entries = Paginator(slot.changes.order_by("-id"), PAGE_SIZE).get_page(page)
    formatter = EntryFormatter(list(entries))
    return {"entries": entries, "changes": [(entry, formatter.format_entry(entry)) for entry in entries]}


class EntryFormatter:
    """Formats the entries of a page; loads the names of all their images with one query."""

    def __init__(self, entries: list[SlotChange]) -> None:
        sides = [side for entry in entries for side in (entry.before, entry.after) if side]
        image_ids = {value for side in sides for field, value in side.items() if field.startswith(IMAGE)}
        self.images = TemplateMedia.objects.in_bulk(image_ids)
        self.settings: dict[tuple[str, str], dict[str, Setting]] = {}

    def format_entry(self, entry: SlotChange) -> list[tuple[str, str, str]]:
        old, new = entry.before or {}, entry.after
        return [
            (
                self._format_label(change["field"], old, new),
                self._format_value(change["field"], change["from"], old),
                self._format_value(change["field"], change["to"], new),
            )
            for change in list_differences(entry)
        ]

    def _format_label(self, field: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
        kind, _dot, rest = field.partition(".")
        label = _field_label(TemplateBinding, "media") if field.startswith(IMAGE) else _field_label(Slot, kind)
        title, _choices = self._find_setting(new, rest) or self._find_setting(old, rest) or (rest, ())
        return f"{label}: {title}" if rest else label

    def _format_value(self, field: str, value: Any, side: Mapping[str, Any]) -> str:
        kind, _dot, rest = field.partition(".")
        _title, choices = self._find_setting(side, rest) or (rest, ())
        readable = next((name for choice, name in choices if choice == value), value)
        match kind, readable:
            case "provider_id", str():
                readable = registry.get_provider_name(value)
            case "operation_id", str():
                readable = registry.get_operation_name(side["provider_id"], value)
            case "template_media", str():
                readable = self.images.get(UUID(value), value)
        return _format_plain(readable)

    def _find_setting(self, side: Mapping[str, Any], path: str) -> Setting | None:
        """The setting as declared by the operation of that side of the entry."""
        operation = (side.get("provider_id", ""), side.get("operation_id", ""))
        if operation not in self.settings:
            self.settings[operation] = _describe_settings(*operation)
        return self.settings[operation].get(path)


def _describe_settings(provider_id: str, operation_id: str) -> dict[str, Setting]:
    """The titles and choices of the settings, by path."""
    operation = registry.get_operation(provider_id, operation_id)
    return {
        setting.path: (f"{group.title}: {setting.title}" if group.path else setting.title, setting.choices)
        for group in (declaration.list_groups(operation) if operation else ())
        for setting in group.settings
    }


def _field_label(model: type[Model], field: str) -> str:
    """The field's own name if an upgrade of the service has removed it."""
    try:
        return capfirst(str(label_for_field(field, model)))
    except AttributeError:
        return field


def _format_plain(value: Any) -> str:
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
