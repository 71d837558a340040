"""Form fields for an operation's settings, one for each, made from its declaration.

They only turn what a browser sends into JSON values. The declaration validates these, in
`settings_validation.validate`, so that each rule is written once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from django import forms
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from providers import registry
from providers.declaration import Group, Setting

PREFIX = "settings."  # of a field's name; the setting's path follows
EMPTY: tuple[object, ...] = (None, "", [], {})
LONG_TEXT = 255  # characters; a longer text gets a box of several lines


class TextField(forms.CharField):
    """Browsers send line ends as CR LF; this keeps them as LF."""

    def to_python(self, value: Any) -> str:
        return (super().to_python(value) or "").replace("\r\n", "\n")


class ChoiceField(forms.TypedChoiceField):
    """Accepts values that are not offered: the declaration refuses them and names the alternatives."""

    def valid_value(self, value: Any) -> bool:
        return True


class KeysField(forms.CharField):
    """Template keys in their order, separated by commas or blanks."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return re.findall(r"[^\s,]+", super().to_python(value) or "")

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class PrettyJSONField(forms.JSONField):
    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, forms.fields.InvalidJSONInput):
            return value
        return "" if value in EMPTY else json.dumps(value, indent=2, ensure_ascii=False)


class KeyInput(forms.TextInput):
    """Suggests the slot's keys; others may be typed, for images that are added in the same form."""

    def __init__(self, keys: Collection[str]) -> None:
        super().__init__({"autocomplete": "off"})
        self.keys = sorted(keys)

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        options = format_html_join("", '<option value="{}"></option>', ((key,) for key in self.keys))
        list_id = f"{name}.keys"
        field = super().render(name, value, {**(attrs or {}), "list": list_id}, renderer)
        return format_html('{}<datalist id="{}">{}</datalist>', field, list_id, options)


def make_field(setting: Setting, keys: Collection[str], saved: Any) -> forms.Field:
    """The form decides whether it is required. `saved` stays a choice even if the declaration no longer has it."""
    field = _choose_field(setting, keys, saved)
    field.label = setting.title
    field.help_text = escape(" ".join(filter(None, [setting.description, _describe_keys(setting, keys)])))
    return field


def initial_values(settings_json: Mapping[str, Any], group: Group) -> dict[str, Any]:
    """The saved values for the group's fields, by the settings' paths."""
    values = settings_json.get(group.path) if group.path else settings_json
    if not isinstance(values, Mapping):
        return {}
    defaults = {s.path: s.default for s in group.settings}
    found = {s.path: values[name] for s in group.settings if (name := _last_part(s)) in values}
    if group.path and not values:  # {} means the defaults; with all fields empty it would be lost
        found = dict([(path, value) for path, value in defaults.items() if value not in EMPTY][:1])
    return found


def build_settings_json(settings: Iterable[Setting], cleaned: Mapping[str, Any]) -> dict[str, Any]:
    """The settings from the cleaned fields. An empty field is left out, so that the declaration's default applies."""
    settings_json: dict[str, Any] = {}
    for setting in settings:
        value = cleaned.get(PREFIX + setting.path)
        if value in EMPTY or (isinstance(value, bool) and value == setting.default):
            continue
        group, _dot, name = setting.path.rpartition(".")
        (settings_json.setdefault(group, {}) if group else settings_json)[name] = value
    return settings_json


def _choose_field(setting: Setting, keys: Collection[str], saved: Any) -> forms.Field:
    hint = "" if setting.default in EMPTY else str(setting.default)
    if choices := _get_choices(setting):
        return _make_choice_field(choices, hint, saved)
    if setting.is_key:
        return TextField(widget=KeyInput(keys))
    if setting.is_list_of_keys:
        return KeysField(widget=forms.TextInput({"class": "vTextField", "autocomplete": "off"}))
    return _make_plain_field(setting.schema, hint)


def _make_plain_field(schema: Mapping[str, Any], hint: str) -> forms.Field:
    match schema.get("type"):
        case "boolean":
            return forms.BooleanField()
        case "integer" | "number":
            return _make_number_field(schema, hint)
        case "string":
            return _make_text_field(schema, hint)
    return PrettyJSONField(widget=forms.Textarea({"rows": 3, "spellcheck": "false", "class": "vLargeTextField code"}))


def _get_choices(setting: Setting) -> list[tuple[Any, str]]:
    """Adds the choices of a fallback: a declaration does not know the other providers."""
    match setting.path.rpartition(".")[2]:
        case "provider_id":
            return [(pk, str(provider.name)) for pk, provider in registry.get_classes().items()]
        case "operation_id":
            offered = {o.id: o.id for provider in registry.get_classes().values() for o in provider.operations}
            return list(offered.items())
    return setting.choices


def _make_choice_field(choices: list[tuple[Any, str]], default: str, saved: Any) -> forms.Field:
    values = {str(value): value for value, _label in choices}
    labels = {str(value): label for value, label in choices}
    empty = gettext("default: %(default)s") % {"default": labels.get(default, default)} if default else "—"
    offered = [("", empty), *labels.items()]
    if saved not in EMPTY and str(saved) not in values:
        offered.append((str(saved), gettext("%(value)s (not offered any more)") % {"value": saved}))
    return ChoiceField(choices=offered, coerce=lambda value: values.get(value, value), empty_value="")


def _make_number_field(schema: Mapping[str, Any], hint: str) -> forms.Field:
    kind = forms.IntegerField if schema["type"] == "integer" else forms.FloatField
    bounds = {"min": schema.get("minimum", schema.get("exclusiveMinimum")), "max": schema.get("maximum")}
    attributes = {name: bound for name, bound in bounds.items() if bound is not None}
    return kind(widget=forms.NumberInput({"placeholder": hint, "class": "setting-number", **attributes}))


def _make_text_field(schema: Mapping[str, Any], hint: str) -> forms.Field:
    if schema.get("maxLength", 0) > LONG_TEXT:
        return TextField(widget=forms.Textarea({"rows": 5, "class": "vLargeTextField"}))
    return TextField(widget=forms.TextInput({"class": "vTextField", "placeholder": hint}))


def _describe_keys(setting: Setting, keys: Collection[str]) -> str:
    if not (setting.is_key or setting.is_list_of_keys):
        return ""
    if not keys:
        return gettext("The slot has no template images yet: add one below.")
    return gettext("The slot has: %(keys)s.") % {"keys": ", ".join(sorted(keys))}


def _last_part(setting: Setting) -> str:
    return setting.path.rpartition(".")[2]
