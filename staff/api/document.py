"""`/api/schema` and `/api/docs`: the OpenAPI document, for programs and for people. The page loads nothing from the
internet."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.utils import translation
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiJsonRenderer2, OpenApiYamlRenderer
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.renderers import TemplateHTMLRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from staff.api.base import OpenView


class DocumentView(OpenView):
    # Plain JSON by default; the vendor's media type, and YAML, on request.
    renderer_classes = (OpenApiJsonRenderer2, OpenApiJsonRenderer, OpenApiYamlRenderer)

    @extend_schema(exclude=True)  # described in `openapi_paths`: the response has no serializer
    def get(self, request: Request) -> Response:
        return Response(build_document())


class DocsView(SpectacularSwaggerSplitView, OpenView):
    """Its script is a file of its own: the page's policy permits none within it."""

    authentication_classes = ()
    permission_classes = ()
    renderer_classes = [TemplateHTMLRenderer]
    url_name = "document"


@cache
def build_document() -> dict[str, Any]:
    """Built once per process: it is the same for every client."""
    with translation.override("en"):
        generated: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return generated
