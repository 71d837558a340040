"""Staff's admin pages: jobs, each with its log and calls, and cancelling; media objects, processes, purges."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Q, QuerySet, TextChoices
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from core.admin import HistoryAdmin, HistoryList, badge, format_json
from core.database import DatabaseUnavailable
from jobs.lifecycle import cancel_job
from jobs.models import Job, MediaObject, Process, PurgeRun
from jobs.storage import links
from providers import registry
from providers.admin import ProviderFilter, outcome_badge
from providers.base import Reason
from providers.models import ProviderCall
from stats.models import ProcessingLog


class State(TextChoices):
    """A job's status and failure reason in one word, for staff."""

    WAITING = "waiting", _("waiting")
    WORKING = "working", _("working")
    PICTURE = "picture", _("picture")
    TIMEOUT = "timeout", _("timed out")
    PROVIDER_ERROR = "provider_error", _("provider error")
    CANCELLED = "cancelled", _("cancelled")


# Each state is found by one of the indexes `job_unfinished`, `job_newest_first`, `job_newest_failures`.
STATE_FILTERS: dict[str, Q] = {
    State.WAITING: Q(is_finalized=False, status=Job.Status.PENDING),
    State.WORKING: Q(is_finalized=False, status=Job.Status.PROCESSING),
    State.PICTURE: Q(is_finalized=True, failure_reason=None),
    **{State(failure.value): Q(failure_reason=failure) for failure in Job.Failure},
}


def get_state(job: Job) -> State:
    if not job.is_finalized:
        return State.WORKING if job.status == Job.Status.PROCESSING else State.WAITING
    return State(job.failure_reason) if job.failure_reason else State.PICTURE


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(State.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(STATE_FILTERS.get(self.value() or "", Q()))


class JobList(HistoryList):
    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Job]:
        """Defers columns that the list does not show and that can be kilobytes each."""
        rows: QuerySet[Job] = super().get_queryset(request, exclude_parameters)
        return rows.defer("settings_json", "template_media", "metadata", "error_message", "slot__settings_json")


@admin.register(Job)
class JobAdmin(HistoryAdmin):
    list_display = ("created_at", "thumbnail", "state", "total_seconds", "slot", "provider", "reason")
    list_display_links = ("created_at",)
    list_filter = (StateFilter, "slot", ProviderFilter)
    list_select_related = ("slot",)
    ordering = ("-created_at", "id")  # exactly the index `job_newest_first`
    search_fields = ("id",)
    quick_lookups = frozenset({"slot__id__exact", "state", "provider_id"})
    actions = ("cancel",)
    change_form_template = "admin/jobs/job/change_form.html"
    fieldsets = (
        (None, {"fields": ("state", "slot", "reason", "error_message", "thumbnail", "result")}),
        (_("Times"), {"fields": ("created_at", "claimed_at", "finalized_at", "delivered_at", "deadline")}),
        (_("How long it took"), {"fields": ("wait_seconds", "work_seconds", "total_seconds")}),
        (_("Recipe"), {"fields": ("provider", "operation", "settings", "templates", "provider_job_reference")}),
        (_("Photo"), {"fields": ("source", "booth_id", "booth_fields", "payload_mime_type", "digest", "payload_path")}),
        (
            _("Result"),
            {"fields": ("result_file_path", "result_mime_type", "result_size", "result_checksum", "result_expires_at")},
        ),
        (_("Queue"), {"fields": ("status", "is_finalized", "claims", "lost_claims", "lease_expires_at", "updated_at")}),
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobList]:
        return JobList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        return super().get_queryset(request).defer("result_inline_base64")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        try:
            steps = list(ProcessingLog.objects.filter(job_id=UUID(object_id)).order_by("id"))
            calls = list(ProviderCall.objects.filter(job_id=UUID(object_id)).order_by("id"))
        except ValueError:
            steps, calls = [], []
        context = {
            "steps": [(s, badge(s.status, s.get_status_display()), format_json(s.details)) for s in steps],
            "calls": [(call, outcome_badge(call)) for call in calls],
            "costs": _list_costs(calls),
            "may_cancel": self.has_cancel_permission(request),
        }
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("jobs.cancel_job")

    @admin.action(permissions=["cancel"], description=_("Cancel the selected jobs"))
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse | None:
        """Asks for confirmation, then cancels each job that has not ended meanwhile."""
        jobs = list(queryset[: self.list_per_page])
        if "confirmed" not in request.POST:
            return self._confirm(request, jobs)
        cancelled: list[Job] = []
        already_ended: list[Job] = []
        try:
            for job in jobs:
                (cancelled if cancel_job(job.pk, request.user.get_username()) else already_ended).append(job)
        except DatabaseUnavailable:
            self.message_user(request, gettext("The queue cannot be reached right now. Try again."), messages.ERROR)
        self._report(request, cancelled, already_ended)
        if len(jobs) == 1:
            return HttpResponseRedirect(reverse("admin:jobs_job_change", args=[jobs[0].pk]))
        return None

    def _confirm(self, request: HttpRequest, jobs: list[Job]) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Cancel jobs"),
            "opts": self.opts,
            "jobs": [(job, _make_badge(get_state(job))) for job in jobs],
            "checkbox": ACTION_CHECKBOX_NAME,
            "media": self.media,
        }
        return TemplateResponse(request, "admin/jobs/job/cancel.html", context)

    def _report(self, request: HttpRequest, cancelled: list[Job], already_ended: list[Job]) -> None:
        for job in cancelled:
            self.log_change(request, job, gettext("Cancelled"))
        if cancelled:
            text = ngettext("The job was cancelled: %(ids)s.", "The jobs were cancelled: %(ids)s.", len(cancelled))
            self.message_user(request, text % {"ids": _join_ids(cancelled)}, messages.SUCCESS)
        if already_ended:
            text = ngettext(
                "The job had already ended, nothing was changed: %(ids)s.",
                "These jobs had already ended, nothing was changed: %(ids)s.",
                len(already_ended),
            )
            self.message_user(request, text % {"ids": _join_ids(already_ended)}, messages.WARNING)

    @admin.display(description=_("provider"))
    def provider(self, job: Job) -> str:
        return registry.get_provider_name(job.provider_id)

    @admin.display(description=_("operation"))
    def operation(self, job: Job) -> str:
        return registry.get_operation_name(job.provider_id, job.operation_id)

    @admin.display(description=_("state"))
    def state(self, job: Job) -> SafeString:
        mark = badge(job.source, job.get_source_display()) if job.source == Job.Source.TEST else ""
        return format_html("{} {}", _make_badge(get_state(job)), mark)

    @admin.display(description=_("reason"))
    def reason(self, job: Job) -> str:
        return str(Reason(job.error_reason).label) if job.error_reason else ""

    @admin.display(description=_("in all, s"))
    def total_seconds(self, job: Job) -> str:
        return _format_seconds(job.created_at, job.finalized_at)

    @admin.display(description=_("until a worker took it, s"))
    def wait_seconds(self, job: Job) -> str:
        return _format_seconds(job.created_at, job.claimed_at)

    @admin.display(description=_("in the worker's hands, s"))
    def work_seconds(self, job: Job) -> str:
        return _format_seconds(job.claimed_at, job.finalized_at)

    @admin.display(description=_("picture"))
    def thumbnail(self, job: Job) -> str:
        if not _is_published(job):
            return ""
        link, image = links.file_url(job), links.file_url(job, links.THUMBNAIL)
        return format_html('<a href="{}"><img class="thumbnail" src="{}" loading="lazy" alt=""></a>', link, image)

    @admin.display(description=_("guest's page"))
    def result(self, job: Job) -> str:
        address = reverse("guest-page", args=[job.pk])
        return format_html('<a href="{0}">{0}</a>', address) if _is_published(job) else ""

    @admin.display(description=_("result's size"))
    def result_size(self, job: Job) -> str:
        return "" if job.result_size_bytes is None else filesizeformat(job.result_size_bytes)

    @admin.display(description=_("deadline"))
    def deadline(self, job: Job) -> str:
        left = int((job.expires_at - timezone.now()).total_seconds())
        text = date_format(timezone.localtime(job.expires_at), "DATETIME_FORMAT")
        return (
            text if job.is_finalized or left <= 0 else gettext("%(time)s, in %(left)s s") % {"time": text, "left": left}
        )

    @admin.display(description=_("settings"))
    def settings(self, job: Job) -> SafeString:
        return format_json(job.settings_json)

    @admin.display(description=_("template images"))
    def templates(self, job: Job) -> SafeString:
        return format_json(job.template_media)

    @admin.display(description=_("booth's fields"))
    def booth_fields(self, job: Job) -> SafeString:
        return format_json(job.metadata)

    @admin.display(description=_("photo's SHA-256"))
    def digest(self, job: Job) -> str:
        return bytes(job.payload_digest).hex()


def _list_costs(calls: list[ProviderCall]) -> list[tuple[str, str]]:
    """A job's costs by outcome of its calls, those that made a picture first, the total last."""
    kinds = [(str(outcome.label), [c for c in calls if c.outcome == outcome]) for outcome in ProviderCall.Outcome]
    kinds += [(gettext("under way"), [c for c in calls if c.outcome is None]), (gettext("in all"), calls)]
    return [(name, _sum_costs(group)) for name, group in kinds if group]


def _sum_costs(calls: list[ProviderCall]) -> str:
    """States for how many calls the cost is unknown; an unknown cost never counts as zero."""
    known = [call.cost_usd for call in calls if call.cost_usd is not None]
    unknown = len(calls) - len(known)
    if not unknown:
        return f"{sum(known):.4f}"
    text = ngettext("unknown for %(count)d call", "unknown for %(count)d calls", unknown) % {"count": unknown}
    return f"{sum(known):.4f} + {text}" if known else text


def _make_badge(state: State) -> SafeString:
    return badge(state.value, str(state.label))


def _join_ids(jobs: list[Job]) -> str:
    return ", ".join(str(job.pk) for job in jobs)


def _format_seconds(start: datetime | None, end: datetime | None) -> str:
    return f"{(end - start).total_seconds():.1f}" if start and end else ""


def _is_published(job: Job) -> bool:
    """Whether the result's public links work."""
    if job.result_file_path is None or job.result_expires_at is None or job.source != Job.Source.BOOTH:
        return False
    return job.result_expires_at > timezone.now()


@admin.register(MediaObject)
class MediaObjectAdmin(HistoryAdmin):
    list_display = ("id", "job_id", "mime_type", "size_bytes", "created_at", "expires_at")
    ordering = ("-expires_at", "id")


@admin.register(Process)
class ProcessAdmin(HistoryAdmin):
    list_display = ("name", "kind", "capacity", "busy", "is_listening", "started_at", "seen_at")
    ordering = ("kind", "name", "id")


@admin.register(PurgeRun)
class PurgeRunAdmin(HistoryAdmin):
    list_display = (
        "cutoff_at",
        "what",
        "files",
        "bytes",
        "rows",
        "requested_by",
        "started_at",
        "finished_at",
        "request_id",
    )
    list_select_related = ("requested_by",)
    ordering = ("-id",)

    @admin.display(description=_("what"))
    def what(self, run: PurgeRun) -> str:
        return ", ".join(run.kinds)
