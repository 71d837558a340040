"""First run: the administrators, the ingest password, the booth settings, the provider accounts and a group for each
permission of the API. Run again it changes nothing."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.db import transaction

from core.passwords import generate_password
from ingest.models import IngestSettings
from ingest.password import rotate
from photoslot.environment import Environment
from providers.models import build_missing_accounts
from staff.api.base import SCOPES


@dataclass(frozen=True, slots=True)
class Credentials:
    """What this run has set, in plain text: kept in RUNTIME_CREDENTIALS_FILE."""

    admins: dict[str, str]
    ingest_password: str | None

    def __bool__(self) -> bool:
        return bool(self.admins or self.ingest_password)


def read_ingest_password() -> str | None:
    """From RUNTIME_CREDENTIALS_FILE; None where that is lost. Staff may have rotated the password since."""
    try:
        known = json.loads(settings.RUNTIME_CREDENTIALS_FILE.read_text())
        return known["ingest_password"] or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def bootstrap() -> Credentials:
    """Creates what is missing. The file is written before the rows are committed, so no password is ever lost."""
    with transaction.atomic():
        created = Credentials(_create_admins(), _set_ingest_password())
        _create_accounts()
        _create_groups()
        if created:
            _store_credentials(settings.RUNTIME_CREDENTIALS_FILE, created)
    return created


def _create_admins() -> dict[str, str]:
    users: Any = get_user_model().objects
    missing = [name for name in settings.ADMIN_USERNAMES if not users.filter(username=name).exists()]
    created = {name: generate_password() for name in missing}
    for name, password in created.items():
        users.create_superuser(name, password=password)
    return created


def _set_ingest_password() -> str | None:
    row, _ = IngestSettings.objects.get_or_create(
        pk=1, defaults={"sync_response_seconds": settings.SYNC_RESPONSE_SECONDS}
    )
    if row.password_hash:
        return None
    return rotate(settings.INGEST_PASSWORD)


def _create_accounts() -> None:
    """For each provider that has none. Raises `ImproperlyConfigured`."""
    for account in build_missing_accounts(Environment().text):
        account.save()


def _create_groups() -> None:
    """Named as the contract names its permissions. What a newer version adds to one is added to its group."""
    for scope, names in SCOPES.items():
        group, _ = Group.objects.get_or_create(name=scope)
        group.permissions.add(*(get_permission(name) for name in names))


def get_permission(name: str) -> Permission:
    """The one of that name, as in "slots.view_slot"."""
    app, codename = name.split(".")
    return Permission.objects.get(content_type__app_label=app, codename=codename)


def _store_credentials(path: Path, created: Credentials) -> None:
    known = json.loads(path.read_text()) if path.exists() else {"admins": {}, "ingest_password": None}
    known["admins"] |= created.admins
    known["ingest_password"] = created.ingest_password or known["ingest_password"]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(known, file, indent=2)
    draft.replace(path)
