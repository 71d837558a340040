"""Staff's page of the settings for all booths: how long they wait, and their password."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from core.admin import STYLES, VersionedAdmin, VersionedForm
from ingest import password
from ingest.models import IngestSettings


class IngestSettingsForm(VersionedForm):
    new_password = forms.CharField(
        label=_("New password"),
        required=False,
        strip=False,
        max_length=password.PASSWORD_LENGTH,
        widget=forms.PasswordInput({"autocomplete": "new-password", "class": "vTextField"}),
        help_text=_("Leave empty to keep the present one. Booths with the old one are refused from then on."),
    )
    generate = forms.BooleanField(
        label=_("Generate a password"), required=False, help_text=_("A safe one is made and shown once.")
    )

    def clean_new_password(self) -> str:
        typed: str = self.cleaned_data["new_password"]
        if typed:
            password.validate_new_password(typed)
        return typed

    def clean(self) -> None:
        super().clean()
        if self.cleaned_data.get("generate") and self.cleaned_data.get("new_password"):
            self.add_error("generate", _("Either type a password or have one generated."))


@admin.register(IngestSettings)
class IngestSettingsAdmin(VersionedAdmin):
    """One row, so the changelist redirects to its page."""

    form = IngestSettingsForm
    readonly_fields = ("is_set", "password_updated_at", "password_updated_by", "updated_at")
    waiting_fieldset = (_("Waiting"), {"fields": ("sync_response_seconds", "updated_at")})
    password_fields = ("is_set", "password_updated_at", "password_updated_by")

    class Media:
        css = STYLES

    def get_fieldsets(self, request: HttpRequest, obj: IngestSettings | None = None) -> Any:
        """View-only staff get no password inputs."""
        password_inputs = ("new_password", "generate") if self.has_change_permission(request, obj) else ()
        return self.waiting_fieldset, (_("Ingest password"), {"fields": self.password_fields + password_inputs})

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: IngestSettings | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return redirect("admin:ingest_ingestsettings_change", 1)

    @method_decorator(sensitive_post_parameters("new_password"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().changeform_view(request, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: IngestSettings, form: Any, change: bool) -> None:
        # Only this form's fields: the password may have been rotated since the row was read.
        obj.save(update_fields=["sync_response_seconds", "updated_at"])
        typed, generate = form.cleaned_data["new_password"], form.cleaned_data["generate"]
        if typed or generate:
            assert request.user.is_authenticated
            plain = password.rotate(typed, request.user)
            obj.generated_password = plain if generate else ""  # type: ignore[attr-defined]

    def response_change(self, request: HttpRequest, obj: IngestSettings) -> HttpResponse:
        """Shows a generated password in this response only: a message for the next page would put it into a cookie."""
        plain = getattr(obj, "generated_password", "")
        if not plain:
            return super().response_change(request, obj)
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("The new ingest password"),
            "opts": self.opts,
            "media": self.media,
            "plain": plain,
        }
        return TemplateResponse(request, "admin/ingest/ingestsettings/password.html", context)

    @admin.display(description=_("is set"), boolean=True)
    def is_set(self, row: IngestSettings) -> bool:
        return bool(row.password_hash)
