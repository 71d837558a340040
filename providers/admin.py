"""Provider accounts in the admin: keys go in and never come out; the breaker's state is shown; a test action."""

from __future__ import annotations

import asyncio
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from photoslot import crypto
from providers import registry
from providers.base import ProviderError
from providers.models import ProviderAccount

TEST_SECONDS = 10.0


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    """The secrets are fields of the form only: left empty they stay, a hyphen removes them."""

    new_key = forms.CharField(
        label=_("new key"),
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "size": 60}),
        help_text=_("Empty: the key stays as it is. A single hyphen: remove it."),
    )
    new_proxy_url = forms.CharField(
        label=_("new proxy address"),
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "size": 60}),
        help_text=_(
            "http://user:password@host:port, where the provider can be reached by a proxy only. As for the key."
        ),
    )

    class Meta:
        model = ProviderAccount
        fields = ("is_enabled", "base_url", "max_concurrent", "per_minute", "per_day")

    def clean_new_proxy_url(self) -> str:
        value: str = self.cleaned_data["new_proxy_url"].strip()
        if value not in ("", "-") and not value.startswith(("http://", "https://")):
            raise forms.ValidationError(_("A proxy address begins with http:// or https://."))
        return value

    def save(self, commit: bool = True) -> ProviderAccount:
        key, proxy = self.cleaned_data["new_key"].strip(), self.cleaned_data["new_proxy_url"]
        if key:
            self.instance.set_key("" if key == "-" else key)
            self.instance.key_updated_at = timezone.now()
        if proxy:
            self.instance.set_proxy_url("" if proxy == "-" else proxy)
        account: ProviderAccount = super().save(commit)
        return account


@admin.register(ProviderAccount)
class ProviderAccountAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = AccountForm
    list_display = ("__str__", "is_enabled", "has_key", "max_concurrent", "per_minute", "per_day", "breaker")
    readonly_fields = ("provider_id", "has_key", "key_updated_at", "key_updated_by", "has_proxy", "breaker")
    fieldsets = (
        (None, {"fields": ("provider_id", "is_enabled", "breaker")}),
        (_("Key"), {"fields": ("has_key", "key_updated_at", "key_updated_by", "new_key")}),
        (_("Address"), {"fields": ("base_url", "has_proxy", "new_proxy_url")}),
        (_("Limits, for all workers together"), {"fields": ("max_concurrent", "per_minute", "per_day")}),
    )
    actions = ("test", "ask_again")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # there is one for each provider, made by `bootstrap`

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ProviderAccount, form: Any, change: bool) -> None:
        if form.cleaned_data["new_key"]:
            obj.key_updated_by = request.user  # type: ignore[assignment]
        super().save_model(request, obj, form, change)

    @admin.display(boolean=True, description=_("key"))
    def has_key(self, account: ProviderAccount) -> bool:
        return account.is_configured

    @admin.display(boolean=True, description=_("proxy"))
    def has_proxy(self, account: ProviderAccount) -> bool:
        return bool(account.encrypted_proxy_url)

    @admin.display(description=_("state"))
    def breaker(self, account: ProviderAccount) -> str:
        if account.open_until is None:
            return str(_("answers") if account.failures == 0 else _("failed %d times in a row") % account.failures)
        reason = account.get_open_reason_display()
        return _("not asked until %(time)s: %(reason)s") % {
            "time": f"{timezone.localtime(account.open_until):%H:%M:%S}",
            "reason": reason,
        }

    @admin.action(description=_("Test: make a harmless call"), permissions=["change"])
    def test(self, request: HttpRequest, accounts: QuerySet[ProviderAccount]) -> None:
        for account in accounts:
            try:
                asyncio.run(_tested(account))
            except (ProviderError, TimeoutError, crypto.UnreadableSecretError) as error:
                messages.error(request, f"{account}: {_fault(error)}")
            else:
                messages.success(request, _("%s: the account works.") % account)

    @admin.action(description=_("Ask it again at once (close the breaker)"), permissions=["change"])
    def ask_again(self, request: HttpRequest, accounts: QuerySet[ProviderAccount]) -> None:
        count = accounts.update(failures=0, open_until=None, open_reason=None)
        messages.success(request, _("%d accounts are asked again.") % count)


async def _tested(account: ProviderAccount) -> None:
    provider = registry.classes()[account.provider_id](account.opened())
    try:
        async with asyncio.timeout(TEST_SECONDS):
            await provider.check_account()
    finally:
        await provider.aclose()


def _fault(error: Exception) -> str:
    match error:
        case ProviderError():
            return f"{error.reason.label}: {error.message}"
        case TimeoutError():
            return str(_("no answer within %d seconds.") % TEST_SECONDS)
    return str(_("the stored key cannot be read; enter it anew."))
