"""`/api/settings`: the settings of all booths and the providers' accounts. Keys and passwords are write-only, but a
generated password is in the response to the request that generated it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.contrib.admin.models import CHANGE
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from ingest.models import IngestSettings
from ingest.password import PASSWORD_LENGTH, rotate, validate_new_password
from providers import accounts, registry
from providers.account_validators import check_address, check_key, check_proxy_address
from providers.models import ProviderAccount
from staff.api.base import StaffView, log_change
from staff.api.exceptions import make_unknown_field_error, refuse_fields
from staff.api.operation import operation
from staff.api.serializers import StrictBooleanField, StrictCharField, StrictIntegerField, StrictSerializer

SECONDS: dict[str, Any] = {"min_value": 10, "max_value": 60}  # contract §2
# The maximum is the column's.
LIMIT: dict[str, Any] = {"min_value": 1, "max_value": 2_147_483_647, "allow_null": True, "required": False}
TEXT: dict[str, Any] = {"allow_blank": True, "required": False}
KEY_LENGTH = 1000  # characters: several times the longest key of today's providers


class NewPassword(StrictSerializer):
    """Either a value, or one that is generated. Photos under way are not asked again."""

    value = StrictCharField(
        required=False, trim_whitespace=False, max_length=PASSWORD_LENGTH, validators=[validate_new_password]
    )
    generate = StrictBooleanField(required=False, help_text="true: a safe one is made and shown in this answer only.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("value" in attrs) == attrs.get("generate", False):
            raise serializers.ValidationError(_('Give either a "value" or "generate": true.'))
        return attrs


class AccountChanges(StrictSerializer):
    """What is not given stays as it is."""

    api_key = StrictCharField(
        **TEXT,
        max_length=KEY_LENGTH,
        validators=[check_key],
        help_text="Empty: none. Required with a `base_url` on another host, if a key is stored.",
    )
    is_enabled = StrictBooleanField(required=False)
    base_url = StrictCharField(
        **TEXT, max_length=200, validators=[check_address], help_text="Empty: the provider's own."
    )
    proxy_url = StrictCharField(
        **TEXT, max_length=KEY_LENGTH, validators=[check_proxy_address], help_text="Empty: none."
    )
    max_concurrent = StrictIntegerField(**LIMIT, help_text="Calls at once; null: no limit.")
    per_minute = StrictIntegerField(**LIMIT, help_text="Calls a minute; null: no limit.")
    per_day = StrictIntegerField(**LIMIT, help_text="Calls a day (UTC); null: no limit.")


class IngestChanges(StrictSerializer):
    sync_response_timeout_sec = StrictIntegerField(**SECONDS, required=False, help_text="Holds for new photos only.")


class SettingsChanges(StrictSerializer):
    dslr_password = NewPassword(required=False)
    provider_keys = serializers.DictField(child=AccountChanges(), required=False, help_text="By provider id.")
    ingest = IngestChanges(required=False)

    def validate_provider_keys(self, value: dict[str, Any]) -> dict[str, Any]:
        if unknown := value.keys() - registry.get_classes().keys():
            raise serializers.ValidationError({name: [make_unknown_field_error()] for name in sorted(unknown)})
        return value


class PasswordAnswer(serializers.Serializer[Any]):
    is_set = serializers.BooleanField()
    updated_at = serializers.DateTimeField(allow_null=True)
    updated_by = serializers.CharField(allow_null=True)
    generated_value = serializers.CharField(required=False, help_text="In the answer that made it, nowhere else ever.")


class AccountAnswer(serializers.Serializer[Any]):
    is_configured = serializers.BooleanField(help_text="It has a key, or needs none.")
    updated_at = serializers.DateTimeField(allow_null=True, help_text="Of the key.")
    updated_by = serializers.CharField(allow_null=True)
    is_enabled = serializers.BooleanField()
    base_url = serializers.CharField(allow_blank=True, help_text="Empty: the provider's own.")
    has_proxy = serializers.BooleanField()
    max_concurrent = serializers.IntegerField(required=False, help_text="Left out: no limit.")
    per_minute = serializers.IntegerField(required=False, help_text="Left out: no limit.")
    per_day = serializers.IntegerField(required=False, help_text="Left out: no limit.")


class IngestAnswer(serializers.Serializer[Any]):
    sync_response_timeout_sec = serializers.IntegerField(**SECONDS)
    ingest_ttl_sec = serializers.IntegerField()


class MediaCacheAnswer(serializers.Serializer[Any]):
    processed_media_ttl_hours = serializers.IntegerField()
    public_link_ttl_sec = serializers.IntegerField()


class SettingsAnswer(serializers.Serializer[Any]):
    dslr_password = PasswordAnswer()
    provider_keys = serializers.DictField(child=AccountAnswer())
    ingest = IngestAnswer()
    media_cache = MediaCacheAnswer()


LIMITS = ("max_concurrent", "per_minute", "per_day")
EXAMPLE = {
    "dslr_password": {"is_set": True, "updated_at": "2026-11-25T12:00:00.000000Z", "updated_by": "serg"},
    "provider_keys": {
        "gemini": {
            "is_configured": True,
            "updated_at": "2026-11-25T12:00:00.000000Z",
            "updated_by": "igor",
            "is_enabled": True,
            "base_url": "",
            "has_proxy": False,
            "max_concurrent": 4,
            "per_minute": 60,
        }
    },
    "ingest": {"sync_response_timeout_sec": 48, "ingest_ttl_sec": 48},
    "media_cache": {"processed_media_ttl_hours": 72, "public_link_ttl_sec": 48},
}
REQUESTS = {
    "Have a password generated": {"dslr_password": {"generate": True}},
    "Wait less, and limit a provider": {
        "ingest": {"sync_response_timeout_sec": 40},
        "provider_keys": {"gemini": {"per_minute": 60}},
    },
}


class SettingsView(StaffView):
    @operation(
        "getSettings",
        "What holds for all booths, and how providers are reached",
        tag="settings",
        scope="settings:read",
        response=SettingsAnswer,
        example=EXAMPLE,
    )
    def get(self, request: Request) -> Response:
        return Response(_represent_settings())

    @operation(
        "changeSettings",
        "Change some of it: all that is given, or nothing",
        tag="settings",
        scope="settings:write",
        body=SettingsChanges,
        request_examples=REQUESTS,
        response=SettingsAnswer,
        example=EXAMPLE,
    )
    def put(self, request: Request, body: dict[str, Any]) -> Response:
        assert request.user.is_authenticated
        generated = _change(body, request.user)
        settings_now = _represent_settings()
        if generated:
            settings_now["dslr_password"]["generated_value"] = generated
        return Response(settings_now)


@transaction.atomic
def _change(changes: Mapping[str, Any], by: AbstractBaseUser) -> str:
    """Applies all changes or none. Returns the password, if one was generated, else an empty string."""
    generated, changed = "", []
    if new := changes.get("dslr_password"):
        plain = rotate(new.get("value", ""), by)
        generated = plain if "value" not in new else ""
        changed.append("dslr_password")
    if seconds := changes.get("ingest", {}).get("sync_response_timeout_sec"):
        IngestSettings.objects.filter(pk=1).update(sync_response_seconds=seconds, updated_at=Now())
        changed.append("sync_response_timeout_sec")
    if changed:
        log_change(IngestSettings.objects.get(), CHANGE, _describe_change(changed), by)
    for provider_id, values in sorted(changes.get("provider_keys", {}).items()):  # sorted: no deadlock
        account, _created = ProviderAccount.objects.select_for_update().get_or_create(pk=provider_id)
        if values:
            _require_key(account, values)
            accounts.save(account, accounts.apply(account, values), by)
            log_change(account, CHANGE, _describe_change(values), by)
    return generated


def _require_key(account: ProviderAccount, values: Mapping[str, Any]) -> None:
    try:
        accounts.require_key(account, values)
    except ValidationError as error:
        raise refuse_fields({"provider_keys": {account.pk: {"api_key": error.messages}}}) from None


def _represent_settings() -> dict[str, Any]:
    row = IngestSettings.objects.select_related("password_updated_by").get()
    known = {account.pk: account for account in ProviderAccount.objects.select_related("key_updated_by")}
    return {
        "dslr_password": {
            "is_set": bool(row.password_hash),
            "updated_at": row.password_updated_at,
            "updated_by": _get_username(row.password_updated_by),
        },
        "provider_keys": {
            pk: _represent_account(known.get(pk) or ProviderAccount(provider_id=pk)) for pk in registry.get_classes()
        },
        # A job's files live as long as the job may take (contract §2).
        "ingest": {"sync_response_timeout_sec": row.sync_response_seconds, "ingest_ttl_sec": row.sync_response_seconds},
        "media_cache": {
            "processed_media_ttl_hours": settings.RESULT_RETENTION_HOURS,
            "public_link_ttl_sec": row.sync_response_seconds,
        },
    }


def _describe_change(names: Iterable[str]) -> list[Any]:
    return [{"changed": {"fields": list(names)}}]


def _represent_account(account: ProviderAccount) -> dict[str, Any]:
    return {
        "is_configured": account.is_configured,
        "updated_at": account.key_updated_at,
        "updated_by": _get_username(account.key_updated_by),
        "has_proxy": bool(account.encrypted_proxy_url),
        "is_enabled": account.is_enabled,
        "base_url": account.base_url,
        **{name: limit for name in LIMITS if (limit := getattr(account, name)) is not None},
    }


def _get_username(user: AbstractBaseUser | None) -> str | None:
    return user.get_username() if user else None
