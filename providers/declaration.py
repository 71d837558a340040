"""The declaration of an operation's settings in two forms: JSON Schema for programs; titles, values and defaults for
the admin's form and the page that explains the settings.

Titles and descriptions in a declaration are English and marked with `gettext_noop`; they are translated here, when they
are displayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings as django_settings
from django.urls import reverse
from django.utils import translation
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from providers import registry
from providers.base import TEMPLATE_KEY, Operation, OperationSettings, Text

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Setting:
    """`schema` is the JSON Schema of its value, with references resolved and without the null of optional settings."""

    path: str  # "strength", "output.width"
    schema: Mapping[str, Any]
    is_required: bool

    @property
    def title(self) -> str:
        return _translate(self.schema.get("title", ""))

    @property
    def description(self) -> str:
        return _translate(self.schema.get("description", ""))

    @property
    def default(self) -> Any:
        return self.schema.get("default")

    @property
    def default_in_words(self) -> str:
        match self.default:
            case None | "" | []:
                return "–"
            case bool(value):
                return str(value).lower()
        return str(self.default)

    @property
    def is_key(self) -> bool:
        return bool(self.schema.get("format") == TEMPLATE_KEY)

    @property
    def is_list_of_keys(self) -> bool:
        return bool(self.schema.get("items", {}).get("format") == TEMPLATE_KEY)

    @property
    def choices(self) -> list[tuple[Any, str]]:
        """The allowed values, each with its display name; empty if any value of the type is allowed."""
        values = self.schema.get("enum", [])
        names = self.schema.get("enumNames", values)
        return [(value, str(name)) for value, name in zip(values, names, strict=True)]

    @property
    def values(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return ", ".join(str(value) for value, _name in self.choices)
        if self.is_key:
            return gettext("the key of a template image of the slot")
        if self.is_list_of_keys:
            return gettext("a list of keys of template images of the slot")
        return _describe_values(self.schema)


@dataclass(frozen=True, slots=True)
class Group:
    """Settings that are displayed together: the operation's own, those that every operation has, or one object's."""

    title: Text
    description: str
    settings: tuple[Setting, ...]
    path: str = ""  # of the object


def list_groups(operation: Operation) -> list[Group]:
    """First the operation's own settings, the required ones in front; then those every operation has; then objects."""
    schema = operation.settings.model_json_schema()
    definitions = schema.get("$defs", {})
    required = schema.get("required", ())
    found = [Setting(n, _value_schema(node, definitions), n in required) for n, node in schema["properties"].items()]
    plain = [setting for setting in found if "properties" not in setting.schema]
    common = [setting for setting in plain if setting.path in OperationSettings.model_fields]
    own = sorted((setting for setting in plain if setting not in common), key=lambda setting: not setting.is_required)
    objects = [_build_group(setting, definitions) for setting in found if "properties" in setting.schema]
    return [Group(operation.name, "", tuple(own)), Group(_("For every operation"), "", tuple(common)), *objects]


def list_settings(operation: Operation) -> Iterator[Setting]:
    for group in list_groups(operation):
        yield from group.settings


def json_schema(provider_id: str, operation: Operation) -> dict[str, Any]:
    """For programs, in English. It leaves out rules that span several settings: only validation checks those."""
    with translation.override("en"):
        schema = operation.settings.model_json_schema()
        schema["title"] = f"{registry.get_provider_name(provider_id)}: {operation.name}"
    address = django_settings.PUBLIC_BASE_URL + schema_ref(provider_id, operation.id)
    return {"$schema": DIALECT, "$id": address, **schema}


def schema_ref(provider_id: str, operation_id: str) -> str:
    """The path at which this service serves the JSON Schema of an operation's settings."""
    return reverse("operation-schema", args=[provider_id, operation_id])


def _build_group(setting: Setting, definitions: Mapping[str, Any]) -> Group:
    """The object's fields as settings: none is required, since the object itself is optional."""
    inner = setting.schema["properties"].items()
    fields = (Setting(f"{setting.path}.{name}", _value_schema(node, definitions), False) for name, node in inner)
    return Group(setting.title, setting.description, tuple(fields), setting.path)


def _value_schema(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The node merged with the schema that it refers to; the node's own keys win."""
    outer = {key: value for key, value in node.items() if key not in ("anyOf", "$ref")}
    inner = next((option for option in node.get("anyOf", ()) if option.get("type") != "null"), node)
    if "$ref" in inner:
        inner = definitions[inner["$ref"].rpartition("/")[2]]
    merged = {**inner, **outer}
    merged.pop("anyOf", None)
    return merged | ({"enum": [merged["const"]]} if "const" in merged else {})


def _translate(text: str) -> str:
    return gettext(text) if text else ""


def _describe_values(schema: Mapping[str, Any]) -> str:
    match schema.get("type"):
        case "boolean":
            return gettext("true or false")
        case "integer" | "number":
            return _describe_number(schema)
        case "string":
            return _describe_text(schema)
    return gettext("JSON")


def _describe_number(schema: Mapping[str, Any]) -> str:
    kind = gettext("a whole number") if schema["type"] == "integer" else gettext("a number")
    above, least, most = schema.get("exclusiveMinimum"), schema.get("minimum"), schema.get("maximum")
    if above is not None and most is not None:
        return gettext("%(kind)s above %(above)s, at most %(most)s") % {"kind": kind, "above": above, "most": most}
    if least is not None and most is not None:
        return gettext("%(kind)s from %(least)s to %(most)s") % {"kind": kind, "least": least, "most": most}
    return kind


def _describe_text(schema: Mapping[str, Any]) -> str:
    most = schema.get("maxLength")
    return gettext("text") if most is None else gettext("text of at most %(most)s characters") % {"most": most}
