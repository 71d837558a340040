"""A slot's settings against the one declaration of its operation (`providers.base.OperationSettings`)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pydantic
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from providers import declaration, faults, registry
from providers.base import SLOT_SETTINGS, Fallback, Operation, OperationSettings
from providers.models import ProviderAccount

# pydantic's words are English; these say the same to staff in their own language. The keys are pydantic's error types.
MESSAGES: Mapping[str, str | Promise] = {
    "missing": _("This setting is required."),
    "extra_forbidden": _("This operation has no such setting."),
    "literal_error": _("Must be one of: %(expected)s."),
    "enum": _("Must be one of: %(expected)s."),
    "greater_than": _("Must be more than %(gt)s."),
    "greater_than_equal": _("Must be at least %(ge)s."),
    "less_than_equal": _("Must be at most %(le)s."),
    "finite_number": _("Must be a number."),
    "int_type": _("Must be a whole number."),
    "float_type": _("Must be a number."),
    "string_type": _("Must be text."),
    "bool_type": _("Must be true or false."),
    "list_type": _("Must be a list."),
    "dict_type": _("Must be an object."),
    "string_pattern_mismatch": _("Does not have the form that is described for this setting."),
    r"^[a-z][a-z0-9_-]*$": _("Use a-z, 0-9, - and _, beginning with a letter."),  # the pattern of a template key
    "string_too_long": _("Must be at most %(max_length)s characters."),
    "string_too_short": _("Must be at least %(min_length)s characters."),
    "too_long": _("Must have at most %(max_length)s entries."),
    "model_type": _("Must be an object."),
    "model_attributes_type": _("Must be an object."),
}


def load(provider_id: str, operation_id: str, settings_json: object) -> OperationSettings:
    """The settings as their operation's own type. Raises `ValidationError`, which `by_field` takes apart."""
    if "\\u0000" in json.dumps(settings_json):
        raise ValidationError({"settings_json": _("The character NUL cannot be stored.")})
    try:
        return _operation(provider_id, operation_id).settings.model_validate(settings_json)
    except pydantic.ValidationError as error:
        found = [_at(".".join(map(str, fault["loc"])), _sentence(fault)) for fault in error.errors()]
        raise ValidationError({"settings_json": found}) from error


def validate(provider_id: str, operation_id: str, settings_json: object, template_keys: Collection[str]) -> None:
    """All that must hold before a slot is saved; `template_keys` are the keys the slot has template media for."""
    loaded = load(provider_id, operation_id, settings_json)
    _check_public_address(provider_id)
    _check_keys(_operation(provider_id, operation_id), loaded, template_keys)
    if loaded.fallback:
        _check_fallback(loaded.fallback, template_keys)


def named_keys(provider_id: str, operation_id: str, settings_json: object) -> set[str]:
    """The template keys that a recipe, or the one it falls back to, points to; none where it is not valid any more."""
    try:
        loaded = load(provider_id, operation_id, settings_json)
    except ValidationError:
        return set()
    then = loaded.fallback
    more = named_keys(then.provider_id, then.operation_id, then.settings_json) if then else set()
    return {*loaded.template_keys(), *more}


def _check_keys(operation: Operation, loaded: OperationSettings, template_keys: Collection[str]) -> None:
    missing = sorted(set(loaded.template_keys()) - set(template_keys))
    if missing:
        text = gettext("The slot has no template image under the key: %(keys)s.")
        places = dict(_named_keys(operation, loaded))
        found = [_at(places.get(key, ""), text % {"keys": key}) for key in missing]
        raise ValidationError({"settings_json": found})


def _check_fallback(fallback: Fallback, template_keys: Collection[str]) -> None:
    """The same of the recipe that a slot falls back to, which has no settings that are the slot's."""
    try:
        if taken := [name for name in SLOT_SETTINGS if name in fallback.settings_json]:
            raise ValidationError({"settings_json": [_at(name, str(MESSAGES["extra_forbidden"])) for name in taken]})
        validate(fallback.provider_id, fallback.operation_id, fallback.settings_json, template_keys)
    except ValidationError as error:
        found = [_at(f"fallback.{path}", said) for path, sentences in by_field(error).items() for said in sentences]
        raise ValidationError({"settings_json": found}) from error


def by_field(error: ValidationError) -> dict[str, list[str]]:
    """The sentences by field; those about one setting by its place, such as `settings_json.output.width`."""
    found: dict[str, list[str]] = {}
    for field, problems in error.error_dict.items():
        for problem in problems:
            path = place(problem)
            found.setdefault(f"{field}.{path}" if path else field, []).append(sentence(problem))
    return found


def place(problem: ValidationError) -> str:
    """Which setting it is about, by its path: "output.width". Empty: all of them, or none."""
    return str((problem.params or {}).get("path", ""))


def sentence(problem: ValidationError) -> str:
    """Without the place."""
    return str((problem.params or {}).get("sentence", problem.messages[0]))


def _operation(provider_id: str, operation_id: str) -> Operation:
    if provider_id not in registry.classes():
        raise ValidationError({"provider_id": _("There is no such provider.")})
    operation = registry.operation(provider_id, operation_id)
    if operation is None:
        raise ValidationError({"operation_id": _("The provider has no such operation.")})
    return operation


def _check_public_address(provider_id: str) -> None:
    """A provider that fetches the photo by a link must be able to reach us."""
    provider = registry.classes()[provider_id]
    if provider.requires_public_media:
        account = ProviderAccount.objects.filter(pk=provider_id).first()
        address = (account and account.base_url) or provider.default_base_url
        if problem := provider.public_base_url_problem(settings.PUBLIC_BASE_URL, address):
            raise ValidationError({"provider_id": problem})


def _named_keys(operation: Operation, loaded: OperationSettings) -> Iterator[tuple[str, str]]:
    """Each template key with the setting that names it."""
    for setting in declaration.settings(operation):
        named: Any = getattr(loaded, setting.path, None)  # none of the settings within an object is a key
        for key in [named] if setting.is_key else named if setting.is_list_of_keys else []:
            yield key, setting.path


def _at(path: str, sentence: str) -> ValidationError:
    """Knows its place, for `by_field` and the form; whoever shows only messages has it in front of the sentence."""
    text = "%(path)s: %(sentence)s" if path else "%(sentence)s"
    return ValidationError(text, params={"path": path, "sentence": sentence})


def _sentence(fault: Any) -> str:
    context = fault.get("ctx", {})
    if fault["type"] == faults.CODE:
        return str(gettext(context["text"]) % context["context"])
    if "expected" in context:  # pydantic's list of values: 'a', 'b' or 'c'
        context |= {"expected": context["expected"].replace("' or '", "', '")}
    template = MESSAGES.get(context.get("pattern")) or MESSAGES.get(fault["type"])
    return gettext("Is not valid.") if template is None else str(template) % context
