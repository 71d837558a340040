from django.contrib import admin
from django.urls import path

from guests import views as guests
from ingest.views import ingest
from photoslot import health
from staff.api.document import DocsView, DocumentView
from staff.api.jobs import CancelJobView, JobsView, JobView
from staff.api.login import LogInView
from staff.api.media import PurgeView, RegisterMediaView
from staff.api.providers import ProvidersView, ProviderView, operation_schema
from staff.api.settings import SettingsView
from staff.api.slot_history import HistoryView
from staff.api.slot_test_run import SlotTestRunView
from staff.api.slots import SlotsView, SlotView
from staff.api.statistics import GlobalStatsView, RecentResultsView, ResetView, SlotStatsView
from staff.api.template_media import PreviewView, RegisterView, TemplatesView, TemplateView

urlpatterns = [
    path("ingest/<str:slot_id>", ingest, name="ingest"),
    path("api/ingest/<str:slot_id>", ingest),
    path("api/login", LogInView.as_view(), name="login"),
    path("api/providers", ProvidersView.as_view(), name="providers"),
    path("api/providers/<str:provider_id>", ProviderView.as_view(), name="provider"),
    path(
        "api/providers/<str:provider_id>/operations/<str:operation_id>/schema",
        operation_schema,
        name="operation-schema",
    ),
    path("api/settings", SettingsView.as_view(), name="settings"),
    path("api/slots", SlotsView.as_view(), name="slots"),
    path("api/slots/<str:slot_id>", SlotView.as_view(), name="slot"),
    path("api/slots/<str:slot_id>/reset_stats", ResetView.as_view(), name="reset-stats"),
    path("api/slots/<str:slot_id>/history", HistoryView.as_view(), name="slot-history"),
    path("api/slots/<str:slot_id>/test-run", SlotTestRunView.as_view(), name="test-run"),
    path("api/template-media", TemplatesView.as_view(), name="template-media"),
    path("api/template-media/register", RegisterView.as_view(), name="template-media-register"),
    path("api/template-media/<uuid:media_id>", TemplateView.as_view(), name="template-image"),
    path("api/template-media/<uuid:media_id>/preview", PreviewView.as_view(), name="template-preview"),
    path("api/media/register", RegisterMediaView.as_view(), name="media-register"),
    path("api/media/cache/purge", PurgeView.as_view(), name="purge"),
    path("api/jobs", JobsView.as_view(), name="jobs"),
    path("api/jobs/<uuid:job_id>", JobView.as_view(), name="job"),
    path("api/jobs/<uuid:job_id>/cancel", CancelJobView.as_view(), name="cancel-job"),
    path("api/stats/global", GlobalStatsView.as_view(), name="global-stats"),
    path("api/stats/<str:slot_id>", SlotStatsView.as_view(), name="slot-stats"),
    path("api/stats/<str:slot_id>/recent_results", RecentResultsView.as_view(), name="recent-results"),
    path("api/schema", DocumentView.as_view(), name="document"),
    path("api/docs", DocsView.as_view(), name="docs"),
    path("public/results/<uuid:job_id>", guests.result, name="public-result"),
    path("public/files/<str:token>", guests.file, name="public-file"),
    path("public/media/<uuid:media_id>", guests.media, name="public-media"),
    path("r/<uuid:job_id>", guests.guest_page, name="guest-page"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
    path("admin/", admin.site.urls),
]
