"""Validates a slot's settings against the declaration of its operation (`providers.base.OperationSettings`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pydantic
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from providers import declaration, faults, frames, registry
from providers.base import SLOT_SETTINGS, Fallback, Operation, OperationSettings
from providers.models import ProviderAccount

# pydantic's messages are English; these are translated. The keys are pydantic's error types.
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

FRAME_FAULTS: Mapping[frames.Fault, Promise] = {
    frames.Fault.OPAQUE: _(
        "This image has no transparent part and would hide the picture: upload a PNG or WebP with one."
    ),
    frames.Fault.UNREADABLE: _("The file of this image is gone or damaged: upload it again."),
}

Templates = Mapping[str, Callable[[], bytes]]  # the slot's template images: by key, a function that reads the file


def parse(provider_id: str, operation_id: str, settings_json: object) -> OperationSettings:
    """The settings as their operation's own type. Raises `ValidationError`, for `group_by_field`."""
    if "\\u0000" in json.dumps(settings_json):
        raise ValidationError({"settings_json": _("The character NUL cannot be stored.")})
    try:
        return _get_operation(provider_id, operation_id).settings.model_validate(settings_json)
    except pydantic.ValidationError as error:
        found = [_make_error(".".join(map(str, fault["loc"])), _translate(fault)) for fault in error.errors()]
        raise ValidationError({"settings_json": found}) from error


def validate(provider_id: str, operation_id: str, settings_json: object, templates: Templates) -> None:
    """Checks a slot, before it is saved or whether it can still work: all that can be known before a provider is paid.
    Raises `ValidationError`."""
    parsed = parse(provider_id, operation_id, settings_json)
    _check_public_address(provider_id)
    _check_keys(_get_operation(provider_id, operation_id), parsed, templates)
    if parsed.frame is not None and (problem := describe_frame_fault(templates[parsed.frame])):
        raise ValidationError({"settings_json": [_make_error("frame", str(problem))]})
    if parsed.fallback:
        _check_fallback(parsed.fallback, templates)


def find_template_keys(provider_id: str, operation_id: str, settings_json: object) -> set[str]:
    """The template keys that the settings and those of their fallback name; none if they are not valid any more."""
    try:
        parsed = parse(provider_id, operation_id, settings_json)
    except ValidationError:
        return set()
    keys = set(parsed.template_keys())
    if fallback := parsed.fallback:
        keys |= find_template_keys(fallback.provider_id, fallback.operation_id, fallback.settings_json)
    return keys


def _check_keys(operation: Operation, parsed: OperationSettings, template_keys: Collection[str]) -> None:
    missing = sorted(set(parsed.template_keys()) - set(template_keys))
    if missing:
        text = gettext("The slot has no template image under the key: %(keys)s.")
        paths = dict(_iterate_template_keys(operation, parsed))
        found = [_make_error(paths.get(key, ""), text % {"keys": key}) for key in missing]
        raise ValidationError({"settings_json": found})


def find_frame_keys(provider_id: str, operation_id: str, settings_json: object) -> set[str]:
    """As `find_template_keys`, but only those of frames."""
    try:
        parsed = parse(provider_id, operation_id, settings_json)
    except ValidationError:
        return set()
    keys = {parsed.frame} if parsed.frame else set()
    if fallback := parsed.fallback:
        keys |= find_frame_keys(fallback.provider_id, fallback.operation_id, fallback.settings_json)
    return keys


def describe_frame_fault(read: Callable[[], bytes]) -> Promise | None:
    """Why the image that `read` returns cannot be a frame, and what to do; None if it can."""
    try:
        fault = frames.find_fault(read())
    except OSError:
        fault = frames.Fault.UNREADABLE
    return FRAME_FAULTS[fault] if fault else None


def _check_fallback(fallback: Fallback, templates: Templates) -> None:
    """Checks a slot's fallback in the same way; it may not have the settings that belong to the slot."""
    try:
        if extra := [name for name in SLOT_SETTINGS if name in fallback.settings_json]:
            message = str(MESSAGES["extra_forbidden"])
            raise ValidationError({"settings_json": [_make_error(name, message) for name in extra]})
        validate(fallback.provider_id, fallback.operation_id, fallback.settings_json, templates)
    except ValidationError as error:
        by_path = group_by_field(error).items()
        found = [_make_error(f"fallback.{path}", message) for path, messages in by_path for message in messages]
        raise ValidationError({"settings_json": found}) from error


def group_by_field(error: ValidationError) -> dict[str, list[str]]:
    """The messages by field; those about one setting by its path, such as `settings_json.output.width`."""
    found: dict[str, list[str]] = {}
    for field, problems in error.error_dict.items():
        for problem in problems:
            path = setting_path(problem)
            found.setdefault(f"{field}.{path}" if path else field, []).append(setting_message(problem))
    return found


def setting_path(problem: ValidationError) -> str:
    """The path of the setting at fault: "output.width". Empty if it is not about a single one."""
    return str((problem.params or {}).get("path", ""))


def setting_message(problem: ValidationError) -> str:
    """The message without the setting's path."""
    return str((problem.params or {}).get("message", problem.messages[0]))


def _get_operation(provider_id: str, operation_id: str) -> Operation:
    if provider_id not in registry.get_classes():
        raise ValidationError({"provider_id": _("There is no such provider.")})
    operation = registry.get_operation(provider_id, operation_id)
    if operation is None:
        raise ValidationError({"operation_id": _("The provider has no such operation.")})
    return operation


def _check_public_address(provider_id: str) -> None:
    """A provider that fetches the photo from a link must be able to reach this service."""
    provider = registry.get_classes()[provider_id]
    if provider.requires_public_media:
        account = ProviderAccount.objects.filter(pk=provider_id).first()
        address = (account and account.base_url) or provider.default_base_url
        if problem := provider.public_base_url_problem(settings.PUBLIC_BASE_URL, address):
            raise ValidationError({"provider_id": problem})


def _iterate_template_keys(operation: Operation, parsed: OperationSettings) -> Iterator[tuple[str, str]]:
    """Each template key with the setting that names it."""
    for setting in declaration.list_settings(operation):
        value: Any = getattr(parsed, setting.path, None)  # none of the settings within an object is a key
        for key in [value] if setting.is_key else value if setting.is_list_of_keys else []:
            yield key, setting.path


def _make_error(path: str, message: str) -> ValidationError:
    """Keeps the path apart for `group_by_field` and the form; in a plain list of messages it precedes the message."""
    text = "%(path)s: %(message)s" if path else "%(message)s"
    return ValidationError(text, params={"path": path, "message": message})


def _translate(fault: Any) -> str:
    context = fault.get("ctx", {})
    if fault["type"] == faults.CODE:
        return str(gettext(context["text"]) % context["context"])
    if "expected" in context:  # pydantic's list of values: 'a', 'b' or 'c'
        context |= {"expected": context["expected"].replace("' or '", "', '")}
    template = MESSAGES.get(context.get("pattern")) or MESSAGES.get(fault["type"])
    return gettext("Is not valid.") if template is None else str(template) % context
