"""Staff's admin page for the processing log."""

from __future__ import annotations

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from core.admin import HistoryAdmin, badge, format_json
from stats.models import ProcessingLog


@admin.register(ProcessingLog)
class ProcessingLogAdmin(HistoryAdmin):
    list_display = ("occurred_at", "job", "slot_id", "step", "text", "provider_latency_ms")
    list_filter = ("status", "slot")
    list_display_links = ("occurred_at",)
    ordering = ("-id",)
    search_fields = ("job_id",)
    quick_lookups = frozenset({"status__exact", "slot__id__exact"})
    fields = ("occurred_at", "job", "slot", "step", "text", "provider_latency_ms", "all_details")

    @admin.display(description=_("job"))
    def job(self, entry: ProcessingLog) -> SafeString:
        address = reverse("admin:jobs_job_change", args=[entry.job_id])
        return format_html('<a href="{}">{}</a>', address, entry.job_id)

    @admin.display(description=_("step"))
    def step(self, entry: ProcessingLog) -> SafeString:
        return badge(entry.status, entry.get_status_display())

    @admin.display(description=_("message"))
    def text(self, entry: ProcessingLog) -> str:
        return entry.message_for_staff

    @admin.display(description=_("details"))
    def all_details(self, entry: ProcessingLog) -> SafeString:
        return format_json(entry.details)
