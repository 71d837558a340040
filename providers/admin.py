"""Provider accounts in the admin: write-only keys, the circuit breaker's state, a test action; and the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from core import crypto
from core.admin import STYLES, HistoryAdmin, VersionedAdmin, VersionedForm, badge, format_json
from providers import account_validators, accounts, registry
from providers.base import ProviderError
from providers.models import ProviderAccount, ProviderCall

TEST_SECONDS = 10.0  # for all accounts together; a page that takes longer looks broken
REMOVE = "-"
COLUMNS = ("is_enabled", "base_url", "max_concurrent", "per_minute", "per_day")


class SecretField(forms.CharField):
    def __init__(self, **options: Any) -> None:
        widget = forms.PasswordInput(attrs={"autocomplete": "new-password", "size": 60})
        super().__init__(required=False, widget=widget, **options)


class AccountForm(VersionedForm):
    """The secrets are fields of the form only: an empty field keeps the stored secret, a hyphen removes it."""

    unversioned = frozenset({"failures", "open_until", "open_reason", "probe_call_id"})  # the breaker's, by workers

    new_key = SecretField(label=_("New key"), help_text=_("Empty: the key stays as it is. A single hyphen: remove it."))
    new_proxy_url = SecretField(
        label=_("New proxy address"),
        help_text=_(
            "http://user:password@host:port, where the provider can be reached by a proxy only. As for the key."
        ),
    )

    class Meta:
        model = ProviderAccount
        fields = COLUMNS

    def clean(self) -> None:
        super().clean()
        if not self.errors:
            stored = ProviderAccount.objects.select_for_update().get(pk=self.instance.pk)
            try:
                accounts.require_key(stored, self.changes())
            except ValidationError as error:
                self.add_error("new_key", error)

    def clean_base_url(self) -> str:
        """Here rather than by the model only, which checks after `clean`."""
        value: str = self.cleaned_data["base_url"]
        if value:
            account_validators.check_address(value)
        return value

    def clean_new_key(self) -> str:
        return self._clean_secret("new_key", account_validators.check_key)

    def clean_new_proxy_url(self) -> str:
        return self._clean_secret("new_proxy_url", account_validators.check_proxy_address)

    def _clean_secret(self, field: str, check: Any) -> str:
        value: str = self.cleaned_data[field]
        if value not in ("", REMOVE):
            check(value)
        return value

    def changes(self) -> dict[str, Any]:
        """The changed values by attribute, secrets by their plain names."""
        entered = {name: self.cleaned_data[name] for name in self.changed_data if name in COLUMNS}
        secrets = {"api_key": self.cleaned_data["new_key"], "proxy_url": self.cleaned_data["new_proxy_url"]}
        return entered | {name: "" if value == REMOVE else value for name, value in secrets.items() if value}


@admin.register(ProviderAccount)
class ProviderAccountAdmin(VersionedAdmin):
    form = AccountForm
    list_display = ("__str__", "is_enabled", "state", "max_concurrent", "per_minute", "per_day")
    readonly_fields = ("provider_id", "state", "has_key", "key_updated_at", "key_updated_by", "has_proxy")
    fieldsets = (
        (None, {"fields": ("provider_id", "is_enabled", "state")}),
        (_("Key"), {"fields": ("has_key", "key_updated_at", "key_updated_by", "new_key")}),
        (_("Address"), {"fields": ("base_url", "has_proxy", "new_proxy_url")}),
        (_("Limits, for all workers together"), {"fields": ("max_concurrent", "per_minute", "per_day")}),
    )
    actions = ("test", "close_breaker")

    class Media:
        css = STYLES

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # `bootstrap` makes one for each provider

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ProviderAccount, form: Any, change: bool) -> None:
        assert request.user.is_authenticated
        accounts.save(obj, accounts.apply(obj, form.changes()), request.user)

    @admin.display(boolean=True, description=_("key"))
    def has_key(self, account: ProviderAccount) -> bool:
        return bool(account.encrypted_key)

    @admin.display(boolean=True, description=_("proxy"))
    def has_proxy(self, account: ProviderAccount) -> bool:
        return bool(account.encrypted_proxy_url)

    @admin.display(description=_("state"))
    def state(self, account: ProviderAccount) -> SafeString:
        if problem := _find_problem(account):
            return badge("failed", problem)
        if not account.is_enabled:
            return badge("cancelled", gettext("off: its photos are refused"))
        if account.open_until is None:
            return badge("picture", gettext("is asked") + _format_failures(account))
        context = {"reason": account.get_open_reason_display(), "time": _format_open_until(account)}
        if account.open_until <= timezone.now():
            return badge("timeout", gettext("half-open: the next photo tries it (%(reason)s)") % context)
        if account.probe_call_id is not None:
            return badge("timeout", gettext("half-open: one photo tries it now (%(reason)s)") % context)
        return badge("failed", gettext("open: not asked until %(time)s (%(reason)s)") % context)

    @admin.action(description=_("Test: make a harmless call"), permissions=["change"])
    def test(self, request: HttpRequest, selected: QuerySet[ProviderAccount]) -> None:
        tested = list(selected)
        for account, problem in zip(tested, _test_accounts(tested), strict=True):
            result = problem or gettext("the account works.")
            self.log_change(request, account, gettext("Tested: %(result)s") % {"result": result})
            self.message_user(request, f"{account}: {result}", messages.ERROR if problem else messages.SUCCESS)

    @admin.action(description=_("Ask it again at once (close the breaker)"), permissions=["change"])
    def close_breaker(self, request: HttpRequest, selected: QuerySet[ProviderAccount]) -> None:
        count = ProviderAccount.objects.filter(pk__in=selected.values("pk")).close_breaker()
        for account in selected:
            self.log_change(request, account, gettext("Breaker closed by hand"))
        text = ngettext("%(count)d account is asked again.", "%(count)d accounts are asked again.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS)


def _find_problem(account: ProviderAccount) -> str:
    """A sentence that says why the account cannot be used; empty if it can."""
    if account.provider_id not in registry.get_classes():
        return gettext("this installation has no such provider any more.")
    if not account.is_configured:
        return gettext("there is no key yet.")
    try:
        account.decrypt()
    except crypto.UnreadableSecretError:
        return gettext("the stored key or proxy address cannot be read (FERNET_KEYS has changed): enter them anew.")
    return ""


def _format_failures(account: ProviderAccount) -> str:
    text = ngettext("; %(count)d failure in a row", "; %(count)d failures in a row", account.failures)
    return text % {"count": account.failures} if account.failures else ""


def _format_open_until(account: ProviderAccount) -> str:
    return date_format(timezone.localtime(account.open_until), "H:i:s")


def _test_accounts(tested: Sequence[ProviderAccount]) -> list[str]:
    """For each account a sentence that says what is wrong; empty if nothing is. Runs on an event loop of its own,
    which, unlike `asyncio.run`, does not wait at its end for a pending DNS query."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_test_all(tested))
    finally:
        loop.close()


async def _test_all(tested: Sequence[ProviderAccount]) -> list[str]:
    return await asyncio.gather(*(_test_account(account) for account in tested))


async def _test_account(account: ProviderAccount) -> str:
    if problem := _find_problem(account):
        return problem
    provider = registry.get_classes()[account.provider_id](account.decrypt())
    try:
        async with asyncio.timeout(TEST_SECONDS):
            await provider.check_account()
    except ProviderError as error:
        return f"{error.reason.label} ({error.message})"
    except TimeoutError:
        return gettext("no answer within %(seconds)d seconds.") % {"seconds": TEST_SECONDS}
    finally:
        await provider.aclose()
    return ""


# In the colours of admin.css.
COLOURS = {"made": "picture", "refused": "provider_error", "late": "timeout", "ambiguous": "timeout"}


def outcome_badge(call: ProviderCall) -> SafeString:
    if call.outcome is None:
        return badge("working", gettext("under way"))
    return badge(COLOURS.get(call.outcome, call.outcome), call.get_outcome_display())


class ProviderFilter(admin.SimpleListFilter):
    title = _("provider")
    parameter_name = "provider_id"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(pk, str(provider.name)) for pk, provider in registry.get_classes().items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider_id=self.value()) if self.value() else queryset


@admin.register(ProviderCall)
class ProviderCallAdmin(HistoryAdmin):
    list_display = ("at", "provider", "slot_id", "job", "result", "failure", "duration", "model", "cost")
    list_filter = (ProviderFilter, "outcome")
    list_display_links = ("at",)
    ordering = ("-at", "-id")  # the index `calls_by_age`, or `calls_of_provider`
    search_fields = ("job_id",)
    quick_lookups = frozenset({"provider_id", "outcome__exact"})
    fields = ("at", "ended_at", "duration", "provider", "model", "slot_id", "job", "result", "failure", "usage", "cost")

    @admin.display(description=_("provider"))
    def provider(self, call: ProviderCall) -> str:
        return call.provider_name

    @admin.display(description=_("job"))
    def job(self, call: ProviderCall) -> SafeString:
        address = reverse("admin:jobs_job_change", args=[call.job_id])
        return format_html('<a href="{}">{}…</a>', address, call.job_id.hex[:8])

    @admin.display(description=_("outcome"))
    def result(self, call: ProviderCall) -> SafeString:
        return outcome_badge(call)

    @admin.display(description=_("reason"))
    def failure(self, call: ProviderCall) -> str:
        return call.get_reason_display() if call.reason else ""

    @admin.display(description=_("took, s"))
    def duration(self, call: ProviderCall) -> str:
        return "" if call.seconds is None else f"{call.seconds:.1f}"

    @admin.display(description=_("used"))
    def usage(self, call: ProviderCall) -> SafeString:
        return format_json(call.units)

    @admin.display(description=_("cost, USD"))
    def cost(self, call: ProviderCall) -> str:
        return call.cost_in_words
