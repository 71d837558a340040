"""`/api/schema` and `/api/docs`: what this service promises, for programs and for people, without the
internet."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.utils import translation
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiJsonRenderer2, OpenApiYamlRenderer
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerView
from rest_framework.renderers import TemplateHTMLRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from staff.api.base import OpenView


class DocumentView(OpenView):
    # Plain JSON for who does not say what they want; the vendor's types, and YAML, for who asks for them.
    renderer_classes = (OpenApiJsonRenderer2, OpenApiJsonRenderer, OpenApiYamlRenderer)

    @extend_schema(exclude=True)  # described in `openapi_paths`: its answer is no object of ours
    def get(self, request: Request) -> Response:
        return Response(document())


class DocsView(SpectacularSwaggerView, OpenView):
    authentication_classes = ()
    permission_classes = ()
    renderer_classes = [TemplateHTMLRenderer]
    url_name = "document"


@cache
def document() -> dict[str, Any]:
    """The same for every reader, so put together once."""
    with translation.override("en"):
        generated: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return generated
