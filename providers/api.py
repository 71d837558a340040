"""The JSON Schema of an operation's settings, for whoever writes them by program."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.utils.translation import gettext
from django.views.decorators.http import require_safe

from photoslot.errors import ApiError
from providers import declaration, registry


@require_safe
def operation_schema(request: HttpRequest, provider_id: str, operation_id: str) -> JsonResponse:
    operation = registry.operation(provider_id, operation_id)
    if operation is None:
        raise ApiError("not_found", gettext("There is no such provider or operation."))
    return JsonResponse(declaration.json_schema(provider_id, operation))
