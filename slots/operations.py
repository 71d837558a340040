"""A slot's settings against the one declaration of its operation (`providers.base.OperationSettings`)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import pydantic
from django.core.exceptions import ValidationError
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from providers import registry
from providers.base import OperationSettings

# pydantic's words are English; these say the same to staff in their own language. The keys are pydantic's error types.
MESSAGES: Mapping[str, str | Promise] = {
    "missing": _("This setting is required."),
    "extra_forbidden": _("This operation has no such setting."),
    "literal_error": _("Must be one of: %(expected)s."),
    "enum": _("Must be one of: %(expected)s."),
    "greater_than_equal": _("Must be at least %(ge)s."),
    "less_than_equal": _("Must be at most %(le)s."),
    "int_type": _("Must be a whole number."),
    "float_type": _("Must be a number."),
    "string_type": _("Must be text."),
    "bool_type": _("Must be true or false."),
    "list_type": _("Must be a list."),
    "string_pattern_mismatch": _("Use a-z, 0-9, - and _, beginning with a letter."),
    "string_too_long": _("Must be at most %(max_length)s characters."),
    "string_too_short": _("Must be at least %(min_length)s characters."),
    "model_type": _("Must be an object."),
    "model_attributes_type": _("Must be an object."),
}


def load(provider_id: str, operation_id: str, settings_json: object) -> OperationSettings:
    """The settings as their operation's own type. Raises `ValidationError` with the fields at fault."""
    if "\\u0000" in json.dumps(settings_json):
        raise ValidationError({"settings_json": _("The character NUL cannot be stored.")})
    operation = registry.operation(provider_id, operation_id)
    if provider_id not in registry.classes():
        raise ValidationError({"provider_id": _("There is no such provider.")})
    if operation is None:
        raise ValidationError({"operation_id": _("The provider has no such operation.")})
    try:
        return operation.settings.model_validate(settings_json)
    except pydantic.ValidationError as error:
        raise ValidationError({"settings_json": [_sentence(fault) for fault in error.errors()]}) from error


def validate(provider_id: str, operation_id: str, settings_json: object, template_keys: Collection[str]) -> None:
    """All that must hold before a slot is saved; `template_keys` are the keys the slot has template media for."""
    missing = sorted(set(load(provider_id, operation_id, settings_json).template_keys()) - set(template_keys))
    if missing:
        text = _("The slot has no template image under the key: %(keys)s.")
        raise ValidationError({"settings_json": ValidationError(text, params={"keys": ", ".join(missing)})})


def _sentence(fault: Any) -> str:
    template = MESSAGES.get(fault["type"])
    text = gettext("Is not valid.") if template is None else str(template) % fault.get("ctx", {})
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {text}" if where else text
