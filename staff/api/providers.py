"""`/api/providers`: the installed providers and their operations, and the JSON Schema of an operation's settings, for
programs that write them."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import ApiError
from core.views import read_only
from providers import declaration, registry
from providers.base import Operation, Provider
from providers.models import ProviderAccount
from staff.api.base import StaffView
from staff.api.operation import operation


class OperationAnswer(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField(help_text="In the reader's language.")
    needs = serializers.ListField(child=serializers.CharField(), help_text="Settings without which it does not work.")
    schema_ref = serializers.CharField(help_text="Where to GET the JSON Schema of its settings.")


class ProviderSummary(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField(help_text="In the reader's language.")


class ProviderAnswer(ProviderSummary):
    requires_public_media = serializers.BooleanField(help_text="It fetches photos: PUBLIC_BASE_URL must be reachable.")
    is_configured = serializers.BooleanField(help_text="It has a key, or needs none.")
    operations = OperationAnswer(many=True)


class ProviderList(serializers.Serializer[Any]):
    providers = ProviderSummary(many=True)


STUDIO = {"id": "studio", "name": "Studio (built in)"}
LOOK = {
    "id": "image_edit",
    "name": "Look",
    "needs": ["look"],
    "schema_ref": "/api/providers/studio/operations/image_edit/schema",
}


class ProvidersView(StaffView):
    @operation(
        "listProviders",
        "The providers that a slot may name",
        tag="providers",
        scope="slots:write",
        response=ProviderList,
        example={"providers": [STUDIO]},
    )
    def get(self, request: Request) -> Response:
        return Response({"providers": [_summarize(provider) for provider in registry.get_classes().values()]})


class ProviderView(StaffView):
    @operation(
        "getProvider",
        "A provider and what it does",
        tag="providers",
        scope="slots:write",
        response=ProviderAnswer,
        example=STUDIO | {"requires_public_media": False, "is_configured": True, "operations": [LOOK]},
        refusals=("not_found",),
    )
    def get(self, request: Request, provider_id: str) -> Response:
        provider = registry.get_classes().get(provider_id)
        if provider is None:
            raise ApiError("not_found", gettext("There is no such provider."))
        account = ProviderAccount.objects.filter(pk=provider_id).first() or ProviderAccount(provider_id=provider_id)
        details = {
            "requires_public_media": provider.requires_public_media,
            "is_configured": account.is_configured,
            "operations": [_represent_operation(provider_id, each) for each in provider.operations],
        }
        return Response(_summarize(provider) | details)


@never_cache
@read_only
def operation_schema(request: HttpRequest, provider_id: str, operation_id: str) -> JsonResponse:
    provider_operation = registry.get_operation(provider_id, operation_id)
    if provider_operation is None:
        raise ApiError("not_found", gettext("There is no such provider or operation."))
    return JsonResponse(declaration.json_schema(provider_id, provider_operation))


def _summarize(provider: type[Provider[Any]]) -> dict[str, str]:
    return {"id": provider.id, "name": str(provider.name)}


def _represent_operation(provider_id: str, provider_operation: Operation) -> dict[str, Any]:
    return {
        "id": provider_operation.id,
        "name": str(provider_operation.name),
        "needs": [setting.path for setting in declaration.list_settings(provider_operation) if setting.is_required],
        "schema_ref": declaration.schema_ref(provider_id, provider_operation.id),
    }
