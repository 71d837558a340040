from django.contrib import admin
from django.urls import path

from ingest.views import ingest
from jobs import public
from photoslot import operations
from providers.api import operation_schema

urlpatterns = [
    path("ingest/<str:slot_id>", ingest, name="ingest"),
    path("api/ingest/<str:slot_id>", ingest),
    path(
        "api/providers/<str:provider_id>/operations/<str:operation_id>/schema",
        operation_schema,
        name="operation-schema",
    ),
    path("public/results/<uuid:job_id>", public.result, name="public-result"),
    path("public/files/<str:token>", public.file, name="public-file"),
    path("public/media/<uuid:media_id>", public.media, name="public-media"),
    path("r/<uuid:job_id>", public.guest_page, name="guest-page"),
    path("healthz", operations.healthz, name="healthz"),
    path("readyz", operations.readyz, name="readyz"),
    path("metrics", operations.metrics, name="metrics"),
    path("admin/", admin.site.urls),
]
