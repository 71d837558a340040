"""`manage.py bootstrap`: the first accounts, made once and told once."""

from __future__ import annotations

import json
import stat
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import check_password
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from pytest_django import fixtures

from ingest.models import IngestSettings
from photoslot.bootstrap import bootstrap, get_permission
from providers import registry
from providers.base import Account
from providers.models import ProviderAccount
from staff.api.base import SCOPES

pytestmark = pytest.mark.integration

USERS: Any = get_user_model()._default_manager


@pytest.fixture
def file(database: None, settings: fixtures.Settings, tmp_path: Path) -> Path:
    """The credentials file of an installation that was never started."""
    IngestSettings.objects.all().delete()
    settings.RUNTIME_CREDENTIALS_FILE = tmp_path / "secrets" / "credentials.json"
    return tmp_path / "secrets" / "credentials.json"


def test_the_first_run_makes_what_is_in_the_file(file: Path) -> None:
    created = bootstrap()
    kept = json.loads(file.read_text())
    assert kept == {"admins": created.admins, "ingest_password": created.ingest_password}
    assert list(kept["admins"]) == ["serg", "igor"]
    for name, password in kept["admins"].items():
        user = USERS.get(username=name)
        assert user.check_password(password)
        assert user.is_superuser
    assert check_password(kept["ingest_password"], IngestSettings.objects.get().password_hash)
    assert IngestSettings.objects.get().sync_response_seconds == 48


def test_only_its_owner_may_read_the_file(file: Path) -> None:
    bootstrap()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]


def test_passwords_are_kept_as_hashes_alone(file: Path) -> None:
    created = bootstrap()
    stored = [*USERS.values_list("password", flat=True), IngestSettings.objects.get().password_hash]
    for password in (*created.admins.values(), str(created.ingest_password)):
        assert len(password) == 16
        assert not any(password in value for value in stored)
    assert len({*created.admins.values(), created.ingest_password}) == 3


def test_again_it_changes_nothing(file: Path) -> None:
    bootstrap()
    before = file.read_text(), list(USERS.values()), IngestSettings.objects.values().get()
    assert not bootstrap()
    assert (file.read_text(), list(USERS.values()), IngestSettings.objects.values().get()) == before


def test_the_environment_names_admins_password_and_deadline(file: Path, settings: fixtures.Settings) -> None:
    settings.ADMIN_USERNAMES = ["anna"]
    settings.INGEST_PASSWORD = "from the environment"
    settings.SYNC_RESPONSE_SECONDS = 30
    bootstrap()
    assert list(json.loads(file.read_text())["admins"]) == ["anna"]
    assert json.loads(file.read_text())["ingest_password"] == "from the environment"
    assert check_password("from the environment", IngestSettings.objects.get().password_hash)
    assert IngestSettings.objects.get().sync_response_seconds == 30


def test_later_the_environment_changes_nothing_that_staff_have_set(file: Path, settings: fixtures.Settings) -> None:
    first = bootstrap()
    settings.INGEST_PASSWORD = "another"
    settings.SYNC_RESPONSE_SECONDS = 10
    assert not bootstrap()
    row = IngestSettings.objects.get()
    assert check_password(str(first.ingest_password), row.password_hash)
    assert row.sync_response_seconds == 48


def test_an_administrator_who_joins_is_added_to_the_file(file: Path, settings: fixtures.Settings) -> None:
    first = bootstrap()
    settings.ADMIN_USERNAMES = ["serg", "igor", "anna"]
    second = bootstrap()
    assert list(second.admins) == ["anna"]
    assert json.loads(file.read_text()) == {
        "admins": first.admins | second.admins,
        "ingest_password": first.ingest_password,
    }


def test_a_lost_file_changes_no_password(file: Path) -> None:
    first = bootstrap()
    file.unlink()
    assert not bootstrap()
    assert not file.exists()
    assert USERS.get(username="serg").check_password(first.admins["serg"])


def test_what_cannot_be_kept_is_not_made(file: Path) -> None:
    file.parent.write_text("in the way")
    with pytest.raises(OSError, match="secrets"):
        bootstrap()
    assert not USERS.exists()
    assert not IngestSettings.objects.exists()


def test_each_permission_of_the_api_has_a_group_and_only_what_is_missing_is_added(file: Path) -> None:
    bootstrap()
    assert {group.name for group in Group.objects.all()} == set(SCOPES)
    group = Group.objects.get(name="settings:write")
    group.permissions.remove(get_permission("ingest.change_ingestsettings"))
    group.permissions.add(get_permission("slots.view_slot"))
    bootstrap()
    assert {f"{each.content_type.app_label}.{each.codename}" for each in group.permissions.all()} == {
        *SCOPES["settings:write"],
        "slots.view_slot",
    }


PROXY = "http://user:secret%2Fword@proxy:3128"
FIRST = {"GEMINI_API_KEY": " AIza-key\n", "GEMINI_BASE_URL": "https://relay.example/g", "GEMINI_PROXY_URL": PROXY}


def with_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_every_provider_has_an_account_with_what_the_environment_says(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_environment(monkeypatch, FIRST)
    bootstrap()
    assert set(ProviderAccount.objects.values_list("pk", flat=True)) == set(registry.get_classes())
    gemini = ProviderAccount.objects.get(pk="gemini")
    assert gemini.decrypt() == Account("AIza-key", "https://relay.example/g", PROXY)
    assert gemini.key_updated_at is not None
    openai = ProviderAccount.objects.get(pk="openai")
    assert (openai.is_enabled, openai.is_configured, openai.key_updated_at) == (True, False, None)
    assert openai.decrypt() == Account("", "https://api.openai.com/v1", None)


def test_later_the_environment_changes_no_account(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_environment(monkeypatch, FIRST)
    bootstrap()
    with_environment(monkeypatch, {"GEMINI_API_KEY": "another", "GEMINI_BASE_URL": "nonsense"})
    bootstrap()
    assert ProviderAccount.objects.get(pk="gemini").decrypt().key == "AIza-key"


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENAI_API_KEY": "sk-two words"},
        {"GEMINI_BASE_URL": "secret.example"},
        {"TURBOTEXT_PROXY_URL": "http://user:pass#secret@proxy:3128"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_nonsense_is_named_and_not_shown(
    file: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    with_environment(monkeypatch, environment)
    ((name, value),) = environment.items()
    with pytest.raises(ImproperlyConfigured, match=f"^{name}: ") as raised:
        bootstrap()
    assert value not in str(raised.value)
    assert not ProviderAccount.objects.exists()
    assert not file.exists()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_the_command_shows_them_once(file: Path) -> None:
    first, second = Terminal(), Terminal()
    call_command("bootstrap", stdout=first)
    call_command("bootstrap", stdout=second)
    kept = json.loads(file.read_text())
    for password in (*kept["admins"].values(), kept["ingest_password"]):
        assert password in first.getvalue()
        assert password not in second.getvalue()
    assert "Nothing to do" in second.getvalue()


def test_no_journal_or_log_has_them(file: Path) -> None:
    said = StringIO()
    call_command("bootstrap", stdout=said)
    kept = json.loads(file.read_text())
    assert not [
        password for password in (*kept["admins"].values(), kept["ingest_password"]) if password in said.getvalue()
    ]
    assert str(file) in said.getvalue()


def test_an_ingest_password_that_is_given_is_shown_nowhere(file: Path, settings: fixtures.Settings) -> None:
    settings.INGEST_PASSWORD = "given by the operator"
    said = Terminal()
    call_command("bootstrap", stdout=said)
    assert "given by the operator" not in said.getvalue()
    assert "administrator serg" in said.getvalue()
    assert json.loads(file.read_text())["ingest_password"] == "given by the operator"
