"""Which providers this installation offers: the classes that `settings.PROVIDERS` names, in its order."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string
from pydantic import ValidationError

from providers.base import Operation, OperationSettings, PermanentError, Provider, Reason


@cache
def get_classes() -> dict[str, type[Provider[Any]]]:
    """Provider classes by id."""
    loaded: list[type[Provider[Any]]] = [import_string(path) for path in settings.PROVIDERS]
    return {provider.id: provider for provider in loaded}


def get_operation(provider_id: str, operation_id: str) -> Operation | None:
    provider = get_classes().get(provider_id)
    return next((o for o in provider.operations if o.id == operation_id), None) if provider else None


def parse_settings(provider_id: str, operation_id: str, settings_json: object) -> OperationSettings:
    """Validates a job's snapshot of settings again: the service may have been upgraded since. Raises
    `PermanentError`."""
    declared = get_operation(provider_id, operation_id)
    if declared is None:
        raise PermanentError(Reason.BAD_SETTINGS, "The provider no longer has this operation")
    try:
        return declared.settings.model_validate(settings_json)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, invalid["loc"])) for invalid in error.errors())
        raise PermanentError(Reason.BAD_SETTINGS, f"Not accepted any more: {fields}") from error


def get_provider_name(provider_id: str) -> str:
    """The display name; the id itself if this installation no longer has the provider."""
    provider = get_classes().get(provider_id)
    return str(provider.name) if provider else provider_id


def get_operation_name(provider_id: str, operation_id: str) -> str:
    declared = get_operation(provider_id, operation_id)
    return str(declared.name) if declared else operation_id
