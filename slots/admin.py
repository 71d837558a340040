"""Staff's pages for slots and their template images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from core.admin import STYLES, VersionedAdmin, VersionedForm, badge, format_json
from providers import declaration, registry
from providers.admin import ProviderFilter
from slots import budget, history_page, template_media
from slots.forms import SlotForm
from slots.models import Slot, SlotQuerySet, TemplateBinding, TemplateMedia


class ArchiveFilter(admin.SimpleListFilter):
    """Archived slots are hidden by default."""

    title = _("archive")
    parameter_name = "archived"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Archived")), ("all", _("All"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Slot]) -> QuerySet[Slot]:
        match self.value():
            case "all":
                return queryset
            case "yes":
                return queryset.exclude(archived_at=None)
        return queryset.filter(archived_at=None)

    def choices(self, changelist: Any) -> Iterator[Any]:
        default, *others = super().choices(changelist)
        yield {**default, "display": _("In use")}
        yield from others


class BindingInline(admin.TabularInline):  # type: ignore[type-arg]
    model = TemplateBinding
    fields = ("setting_key", "media", "preview")
    readonly_fields = ("preview",)
    autocomplete_fields = ("media",)
    extra = 0

    @admin.display(description=_("preview"))
    def preview(self, binding: TemplateBinding) -> str:
        return _thumbnail(binding.media_id) if binding.pk else ""


@admin.register(Slot)
class SlotAdmin(VersionedAdmin):
    form = SlotForm
    inlines = (BindingInline,)
    list_display = ("id", "name", "archived", "recipe", "is_active", "size_limit_mb", "spent", "updated_at")
    list_filter = (ArchiveFilter, "is_active", ProviderFilter)
    search_fields = ("id", "name")
    actions = ("switch_on", "switch_off", "archive", "restore")
    readonly_fields = ("booth_url", "saved_settings", "spent", "archived_at", "created_at", "updated_at")
    # `render_change_form` inserts the fields of the chosen operation's settings after these.
    fieldsets = (
        (None, {"fields": ("id", "name", "is_active", "size_limit_mb")}),
        (_("Recipe"), {"fields": ("recipe",)}),
    )
    saved_fieldsets = (
        (_("Settings as JSON"), {"fields": ("saved_settings", "settings_json"), "classes": ("collapse",)}),
        (_("Booth"), {"fields": ("booth_url", "spent")}),
        (_("Times"), {"fields": ("created_at", "updated_at", "archived_at")}),
    )

    class Media:
        css = STYLES
        js = ("slots/slot_form.js",)

    def get_fieldsets(self, request: HttpRequest, obj: Slot | None = None) -> Any:
        if obj is None:
            return self.fieldsets
        if not self.has_change_permission(request, obj):
            settings = (_("Settings"), {"fields": ("saved_settings",)})
            return (*self.fieldsets, settings, *self.saved_fieldsets[1:])
        return self.fieldsets + self.saved_fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Slot | None = None) -> Any:
        return self.readonly_fields if obj is None else ("id", *self.readonly_fields)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Loads the budgets of all slots of the page with one query."""
        changelist = super().get_changelist_instance(request)
        budgets = budget.load_budgets(changelist.result_list)
        for slot in changelist.result_list:
            slot.budget = budgets.get(slot.pk)
        return changelist

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"id": Slot.next_id(), **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: Slot, form: Any, change: bool) -> None:
        # Otherwise Django would turn an insert with an id taken meanwhile into an update of that slot.
        obj.save(force_insert=not change)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.operations_view)
        return [path("operations/", view, name="slots_slot_operations"), *super().get_urls()]

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Who changed what, above the standard page's log of what staff did."""
        response = super().history_view(request, object_id, extra_context)
        if isinstance(response, TemplateResponse) and (context := response.context_data):
            context |= history_page.make_context(context["object"], request.GET.get("changes"))
            context["media"] = self.media
        return response

    def operations_view(self, request: HttpRequest) -> HttpResponse:
        """The settings of each operation, from the declaration that also validates them."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        operations = [
            (provider.id, provider.name, operation, declaration.list_groups(operation))
            for provider in registry.get_classes().values()
            for operation in provider.operations
        ]
        context = self.admin_site.each_context(request) | {
            "title": gettext("Settings of the operations"),
            "opts": self.opts,
            "media": self.media,
            "operations": operations,
            "common": operations[0][-1][1:],
        }
        return TemplateResponse(request, "admin/slots/slot/operations.html", context)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("add") or self.has_change_permission(request, kwargs.get("obj")):
            adminform = context["adminform"]
            adminform.fieldsets[len(self.fieldsets) : len(self.fieldsets)] = adminform.form.fieldsets()
        return super().render_change_form(request, context, *args, **kwargs)

    def has_delete_permission(self, request: HttpRequest, obj: Slot | None = None) -> bool:
        return False  # jobs and statistics refer to it: slots are archived

    @admin.display(description=_("provider and operation"), ordering="provider_id")
    def recipe(self, slot: Slot) -> str:
        """In the list, and for view-only staff in place of the form's field of this name."""
        operation = registry.get_operation_name(slot.provider_id, slot.operation_id)
        return f"{registry.get_provider_name(slot.provider_id)}: {operation}"

    @admin.display(description=_("saved settings"))
    def saved_settings(self, slot: Slot) -> SafeString:
        return format_json(slot.settings_json)

    @admin.display(description=_("spent today (UTC)"))
    def spent(self, slot: Slot) -> str:
        today = slot.budget if hasattr(slot, "budget") else budget.load_budgets([slot]).get(slot.pk)
        if today is None:
            return "-"
        words = {"spent": f"{today.spent:.2f}", "limit": f"{today.limit:.2f}", "percent": int(today.share * 100)}
        text = gettext("%(spent)s of %(limit)s USD, %(percent)s %%") % words
        if today.unpriced:
            unknown = ngettext("%d call at an unknown price", "%d calls at an unknown price", today.unpriced)
            text += f"; {unknown % today.unpriced}"
        return badge(f"spent-{today.level}", text) if today.level else text

    @admin.display(description="", ordering="archived_at")
    def archived(self, slot: Slot) -> str:
        return badge("archived", gettext("archived")) if slot.archived_at else ""

    @admin.display(description=_("booths post to"))
    def booth_url(self, slot: Slot) -> SafeString:
        example = f"curl -f -o picture.jpg -F password=… -F fileToUpload=@photo.jpg {slot.ingest_url}"
        return format_html('<code>{}</code><pre class="pretty">{}</pre>', slot.ingest_url, example)

    @admin.action(permissions=["change"], description=_("Switch the selected slots on"))
    def switch_on(self, request: HttpRequest, queryset: SlotQuerySet) -> None:
        self._apply_to_each(request, queryset, lambda slot: slot.switch(True), gettext("Switched on"))

    @admin.action(permissions=["change"], description=_("Switch the selected slots off"))
    def switch_off(self, request: HttpRequest, queryset: SlotQuerySet) -> None:
        self._apply_to_each(request, queryset, lambda slot: slot.switch(False), gettext("Switched off"))

    @admin.action(permissions=["change"], description=_("Archive the selected slots"))
    def archive(self, request: HttpRequest, queryset: SlotQuerySet) -> None:
        self._apply_to_each(request, queryset, SlotQuerySet.archive, gettext("Archived"))

    @admin.action(permissions=["change"], description=_("Take the selected slots out of the archive"))
    def restore(self, request: HttpRequest, queryset: SlotQuerySet) -> None:
        self._apply_to_each(request, queryset, SlotQuerySet.restore, gettext("Taken out of the archive"))

    def _apply_to_each(
        self, request: HttpRequest, queryset: SlotQuerySet, verb: Callable[[SlotQuerySet], int], done: str
    ) -> None:
        """Calls `verb` for each slot by itself, so that the log and the message name those that it changed."""
        changed = []
        for slot in queryset:
            with transaction.atomic():
                if verb(Slot.objects.filter(pk=slot.pk)):
                    self.log_change(request, slot, done)
                    changed.append(slot)
        if changed:
            self.message_user(request, f"{done}: {', '.join(slot.pk for slot in changed)}.", messages.SUCCESS)
        else:
            self.message_user(request, gettext("Nothing to do: the slots are so already."), messages.WARNING)


class TemplateMediaForm(VersionedForm):
    def clean_file(self) -> Any:
        template_media.fill(self.instance, self.cleaned_data["file"])
        return self.instance.file


@admin.register(TemplateMedia)
class TemplateMediaAdmin(VersionedAdmin):
    """A file is uploaded once; from then on only its label changes."""

    form = TemplateMediaForm
    list_display = ("preview", "label", "mime_type", "size", "used_by", "uploaded_by", "created_at")
    list_display_links = ("label", "mime_type")
    list_select_related = ("uploaded_by",)
    list_per_page = 50
    search_fields = ("label",)
    # Without the file: its field would be a link, and template images have no public address.
    saved_fields = ("preview", "used_by", "mime_type", "size", "checksum", "uploaded_by", "created_at")

    class Media:
        css = STYLES

    def get_queryset(self, request: HttpRequest) -> QuerySet[TemplateMedia]:
        return super().get_queryset(request).prefetch_related("bindings")

    def get_fields(self, request: HttpRequest, obj: TemplateMedia | None = None) -> Any:
        return ("file", "label") if obj is None else ("label", *self.saved_fields)

    def get_readonly_fields(self, request: HttpRequest, obj: TemplateMedia | None = None) -> Any:
        return () if obj is None else self.saved_fields

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.preview_view, cacheable=True)
        return [path("<uuid:pk>/preview/", view, name="slots_templatemedia_preview"), *super().get_urls()]

    def preview_view(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        """A small copy of a template image; the file never changes, so browsers may cache it."""
        media = get_object_or_404(TemplateMedia, pk=pk)
        if not self.has_view_or_change_permission(request, media):
            raise PermissionDenied
        try:
            picture = template_media.make_preview(media)
        except FileNotFoundError:
            raise Http404 from None
        return HttpResponse(picture.data, picture.mime_type, headers={"Cache-Control": "private, max-age=3600"})

    def save_model(self, request: HttpRequest, obj: TemplateMedia, form: Any, change: bool) -> None:
        if not change:
            obj.uploaded_by = request.user  # type: ignore[assignment]
        super().save_model(request, obj, form, change)

    def delete_model(self, request: HttpRequest, obj: TemplateMedia) -> None:
        template_media.remove(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[TemplateMedia]) -> None:
        for media in queryset:
            template_media.remove(media)

    @admin.display(description=_("preview"))
    def preview(self, media: TemplateMedia) -> SafeString:
        return _thumbnail(media.pk)

    @admin.display(description=_("size"), ordering="size_bytes")
    def size(self, media: TemplateMedia) -> str:
        return filesizeformat(media.size_bytes)

    @admin.display(description=_("used by"))
    def used_by(self, media: TemplateMedia) -> SafeString:
        uses = ((reverse("admin:slots_slot_change", args=[b.slot_id]), str(b)) for b in media.bindings.all())
        return format_html_join(", ", '<a href="{}">{}</a>', uses)


def _thumbnail(media_id: UUID) -> SafeString:
    address = reverse("admin:slots_templatemedia_preview", args=[media_id])
    return format_html('<a href="{0}"><img class="thumbnail" src="{0}" loading="lazy" alt=""></a>', address)
