"""Form fields for an operation's settings, one for each, drawn from the declaration.

They only turn what a browser sends into JSON's values. What may be given is judged by the declaration, in
`operations.validate`, so that each rule stands once.
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

PREFIX = "settings."  # of the fields' names, before the setting's path
EMPTY: tuple[object, ...] = (None, "", [], {})
LONG_TEXT = 255  # characters; what may be longer has a box of several lines


class TextField(forms.CharField):
    """Browsers send every line's end as CR LF; a prompt has them as it was written."""

    def to_python(self, value: Any) -> str:
        return (super().to_python(value) or "").replace("\r\n", "\n")


class ChoiceField(forms.TypedChoiceField):
    """A value that is not offered gets through, for the declaration to refuse with the alternatives."""

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
    """Offers the keys that the slot has; another may be typed, for an image that is added in the same form."""

    def __init__(self, keys: Collection[str]) -> None:
        super().__init__({"autocomplete": "off"})
        self.keys = sorted(keys)

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        options = format_html_join("", '<option value="{}"></option>', ((key,) for key in self.keys))
        offered = f"{name}.keys"
        field = super().render(name, value, {**(attrs or {}), "list": offered}, renderer)
        return format_html('{}<datalist id="{}">{}</datalist>', field, offered, options)


def field_for(setting: Setting, keys: Collection[str], saved: Any) -> forms.Field:
    """Whether it is required is for the form to say. `saved` stays on offer also where the declaration drops it."""
    field = _field(setting, keys, saved)
    field.label = setting.title
    field.help_text = escape(" ".join(filter(None, [setting.description, _keys_in_words(setting, keys)])))
    return field


def shown(settings_json: Mapping[str, Any], group: Group) -> dict[str, Any]:
    """The values for the group's fields, by the settings' paths."""
    values = settings_json.get(group.path) if group.path else settings_json
    if not isinstance(values, Mapping):
        return {}
    defaults = {s.path: s.default for s in group.settings}
    found = {s.path: values[name] for s in group.settings if (name := _name(s)) in values}
    if group.path and not values:  # an object without entries means its defaults; without any field it would be none
        found = dict([(path, value) for path, value in defaults.items() if value not in EMPTY][:1])
    return found


def as_json(settings: Iterable[Setting], cleaned: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the fields say. What was left empty is left out, so that the declaration's default holds."""
    made: dict[str, Any] = {}
    for setting in settings:
        value = cleaned.get(PREFIX + setting.path)
        if value in EMPTY or (isinstance(value, bool) and value == setting.default):
            continue
        group, _dot, name = setting.path.rpartition(".")
        (made.setdefault(group, {}) if group else made)[name] = value
    return made


def _field(setting: Setting, keys: Collection[str], saved: Any) -> forms.Field:
    hint = "" if setting.default in EMPTY else str(setting.default)
    if choices := _choices(setting):
        return _choice_field(choices, hint, saved)
    if setting.is_key:
        return TextField(widget=KeyInput(keys))
    if setting.is_list_of_keys:
        return KeysField(widget=forms.TextInput({"class": "vTextField", "autocomplete": "off"}))
    return _plain_field(setting.schema, hint)


def _plain_field(schema: Mapping[str, Any], hint: str) -> forms.Field:
    match schema.get("type"):
        case "boolean":
            return forms.BooleanField()
        case "integer" | "number":
            return _number_field(schema, hint)
        case "string":
            return _text_field(schema, hint)
    return PrettyJSONField(widget=forms.Textarea({"rows": 3, "spellcheck": "false", "class": "vLargeTextField code"}))


def _choices(setting: Setting) -> list[tuple[Any, str]]:
    """A declaration knows no other providers, so it cannot name those that a fallback may go to."""
    match setting.path.rpartition(".")[2]:
        case "provider_id":
            return [(pk, str(provider.name)) for pk, provider in registry.classes().items()]
        case "operation_id":
            offered = {o.id: o.id for provider in registry.classes().values() for o in provider.operations}
            return list(offered.items())
    return setting.choices


def _choice_field(choices: list[tuple[Any, str]], default: str, saved: Any) -> forms.Field:
    values = {str(value): value for value, _label in choices}
    labels = {str(value): label for value, label in choices}
    empty = gettext("default: %(default)s") % {"default": labels.get(default, default)} if default else "—"
    offered = [("", empty), *labels.items()]
    if saved not in EMPTY and str(saved) not in values:
        offered.append((str(saved), gettext("%(value)s (not offered any more)") % {"value": saved}))
    return ChoiceField(choices=offered, coerce=lambda value: values.get(value, value), empty_value="")


def _number_field(schema: Mapping[str, Any], hint: str) -> forms.Field:
    kind = forms.IntegerField if schema["type"] == "integer" else forms.FloatField
    bounds = {"min": schema.get("minimum", schema.get("exclusiveMinimum")), "max": schema.get("maximum")}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return kind(widget=forms.NumberInput({"placeholder": hint, "class": "setting-number", **given}))


def _text_field(schema: Mapping[str, Any], hint: str) -> forms.Field:
    if schema.get("maxLength", 0) > LONG_TEXT:
        return TextField(widget=forms.Textarea({"rows": 5, "class": "vLargeTextField"}))
    return TextField(widget=forms.TextInput({"class": "vTextField", "placeholder": hint}))


def _keys_in_words(setting: Setting, keys: Collection[str]) -> str:
    if not (setting.is_key or setting.is_list_of_keys):
        return ""
    if not keys:
        return gettext("The slot has no template images yet: add one below.")
    return gettext("The slot has: %(keys)s.") % {"keys": ", ".join(sorted(keys))}


def _name(setting: Setting) -> str:
    return setting.path.rpartition(".")[2]
