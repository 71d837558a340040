"""Provider accounts (access, limits, circuit breaker) and the calls made with them."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.contrib.postgres.functions import RandomUUID
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from core import crypto
from providers import account_validators, registry
from providers.base import Account, Reason


class AccountQuerySet(models.QuerySet["ProviderAccount"]):
    def close_breaker(self) -> int:
        """Closes the breakers by hand: staff repaired the cause, or want to try. Returns the number of accounts."""
        return self.update(failures=0, open_until=None, open_reason=None, probe_call_id=None)


class ProviderAccount(models.Model):
    """One for each provider. Key and proxy address are encrypted; once saved, they are never displayed again."""

    provider_id = models.CharField(_("provider"), max_length=32, primary_key=True, editable=False)
    is_enabled = models.BooleanField(
        _("on"), default=True, help_text=_("Photos for a provider that is off are refused with 503.")
    )
    encrypted_key = models.TextField(blank=True, editable=False)
    key_updated_at = models.DateTimeField(_("key changed"), null=True, editable=False)
    key_updated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        editable=False,
        related_name="+",
        verbose_name=_("key changed by"),
    )
    base_url = models.CharField(_("address"), max_length=200, blank=True, validators=[account_validators.check_address])
    encrypted_proxy_url = models.TextField(blank=True, editable=False)

    max_concurrent = models.PositiveIntegerField(
        _("calls at once"), null=True, blank=True, validators=[MinValueValidator(1)], help_text=_("Empty: no limit.")
    )
    per_minute = models.PositiveIntegerField(
        _("calls a minute"), null=True, blank=True, validators=[MinValueValidator(1)], help_text=_("Empty: no limit.")
    )
    per_day = models.PositiveIntegerField(
        _("calls a day (UTC)"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("Empty: no limit."),
    )

    # The circuit breaker (`limits`): closed while `open_until` is null; open until that time; after it half-open, which
    # permits one call, the probe.
    failures = models.PositiveIntegerField(_("failures in a row"), db_default=0, editable=False)
    open_until = models.DateTimeField(_("not asked until"), null=True, editable=False)
    open_reason = models.CharField(_("because"), max_length=14, choices=Reason, null=True, editable=False)
    probe_call_id = models.BigIntegerField(null=True, editable=False)  # the probe, while it is under way

    objects = AccountQuerySet.as_manager()

    class Meta:
        verbose_name = _("provider account")
        verbose_name_plural = _("provider accounts")
        ordering = ["provider_id"]
        constraints = [
            models.CheckConstraint(
                name="account_breaker_is_whole",
                condition=Q(open_until=None, open_reason=None, probe_call_id=None)
                | Q(open_until__isnull=False, open_reason__isnull=False),
            )
        ]

    def __str__(self) -> str:
        provider = registry.get_classes().get(self.provider_id)
        return str(provider.name) if provider else self.provider_id

    def set_key(self, key: str) -> None:
        self.encrypted_key = crypto.encrypt(key)

    def set_proxy_url(self, url: str) -> None:
        self.encrypted_proxy_url = crypto.encrypt(url)

    @property
    def is_configured(self) -> bool:
        """Whether the provider can be called: it needs no key, or has one."""
        provider = registry.get_classes().get(self.provider_id)
        return provider is not None and (not provider.needs_key or bool(self.encrypted_key))

    @property
    def default_base_url(self) -> str:
        return registry.get_classes()[self.provider_id].default_base_url

    def decrypt(self) -> Account:
        """The account in the form that adapters take. Raises `crypto.UnreadableSecretError`."""
        return Account(
            key=crypto.decrypt(self.encrypted_key),
            base_url=self.base_url or self.default_base_url,
            proxy_url=crypto.decrypt(self.encrypted_proxy_url) or None,
        )


class ProviderCall(models.Model):
    """One call that a provider counts or bills: inserted before it is made, ended when its outcome is known.

    If its worker is killed, it stays open: that tells the next worker that it may have been billed.
    """

    class Outcome(models.TextChoices):
        MADE = "made", _("made a picture")
        REFUSED = "refused", _("refused")
        FAILED = "failed", _("failed")
        LATE = "late", _("too late")
        CANCELLED = "cancelled", _("cancelled")
        AMBIGUOUS = "ambiguous", _("may have been billed")

    provider_id = models.CharField(_("provider"), max_length=32)
    slot_id = models.CharField(_("slot"), max_length=32)
    job_id = models.UUIDField(_("job"))
    is_fallback = models.BooleanField(_("fallback"), db_default=False)
    # Made by the worker, which asks again under the same key when the answer to its COMMIT was lost.
    idempotency_key = models.UUIDField(unique=True, editable=False, db_default=RandomUUID())
    at = models.DateTimeField(_("when"), db_default=Now())
    ended_at = models.DateTimeField(_("ended"), null=True)
    outcome = models.CharField(_("outcome"), max_length=10, choices=Outcome, null=True)
    reason = models.CharField(_("reason"), max_length=14, choices=Reason, null=True)
    model = models.CharField(_("model"), max_length=80, db_default="")
    units = models.JSONField(_("used"), db_default={})
    cost_usd = models.DecimalField(_("cost, USD"), max_digits=12, decimal_places=6, null=True)  # None: not known

    class Meta:
        verbose_name = _("provider call")
        verbose_name_plural = _("provider calls")
        ordering = ["-id"]
        indexes = [
            # The limits: one provider's calls of the last minute and of the day.
            models.Index(fields=["provider_id", "at"], name="calls_of_provider"),
            # Calls under way: few, however large the table. The concurrency limit counts those that outlive their job.
            models.Index(fields=["provider_id"], condition=Q(ended_at=None), name="calls_under_way"),
            # A slot's spending of the day.
            models.Index(fields=["slot_id", "at"], name="calls_of_slot"),
            # One job's calls: its cost in the admin, its earlier attempts when it is claimed again.
            models.Index(fields=["job_id"], name="calls_of_job"),
            # Retention: purge deletes the oldest. The admin's list, newest first; today's figures.
            models.Index(fields=["at"], name="calls_by_age"),
            # The admin's list by outcome, for the rare ones; the frequent ones are found quickly without an index.
            models.Index(
                fields=["outcome", "at"],
                condition=Q(outcome__in=["refused", "failed", "late", "cancelled", "ambiguous"]),
                name="calls_that_made_nothing",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="call_ended_has_outcome",
                condition=Q(ended_at=None, outcome=None) | Q(ended_at__isnull=False, outcome__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider_name}, {self.at:%Y-%m-%d %H:%M:%S}"

    @property
    def provider_name(self) -> str:
        return registry.get_provider_name(self.provider_id)

    @property
    def seconds(self) -> float | None:
        return (self.ended_at - self.at).total_seconds() if self.ended_at else None

    @property
    def cost_in_words(self) -> str:
        return gettext("unknown") if self.cost_usd is None else f"{self.cost_usd:.4f}"


def build_missing_accounts(read: Callable[[str], str]) -> list[ProviderAccount]:
    """Accounts, not saved, for the providers that have none yet, with keys and addresses from `<PROVIDER>_API_KEY`,
    `_BASE_URL` and `_PROXY_URL`. `read` returns a variable's value. Raises `ImproperlyConfigured`."""
    known = set(ProviderAccount.objects.values_list("provider_id", flat=True))
    return [_build_account(provider_id, read) for provider_id in registry.get_classes() if provider_id not in known]


def _build_account(provider_id: str, read: Callable[[str], str]) -> ProviderAccount:
    def read_checked(name: str, check: Callable[[str], None]) -> str:
        variable = f"{provider_id.upper()}_{name}"
        value = read(variable)
        try:
            if value:
                check(value)
        except ValidationError as error:
            raise ImproperlyConfigured(f"{variable}: {' '.join(error.messages)}") from None
        return value

    account = ProviderAccount(
        provider_id=provider_id, base_url=read_checked("BASE_URL", account_validators.check_address)
    )
    account.set_proxy_url(read_checked("PROXY_URL", account_validators.check_proxy_address))
    if key := read_checked("API_KEY", account_validators.check_key):
        account.set_key(key)
        account.key_updated_at = timezone.now()
    return account
