"""Posts without a right password leave rows behind, which are gone once they count no more."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from axes.models import AccessAttempt
from django.contrib.sessions.models import Session
from django.db.models import F
from django.utils import timezone

from ingest.models import PasswordFailure
from jobs.models import PurgeTotal
from jobs.retention.purge import purge
from tests.admin_client import log_in, make_staff_user, post
from tests.conftest import Booth, jpeg

pytestmark = pytest.mark.integration

MODELS = (AccessAttempt, PasswordFailure, Session)


def count_rows() -> list[int]:
    return [model._default_manager.count() for model in MODELS]


def guess(web: httpx.Client, booth: Booth) -> None:
    """One wrong password at each door."""
    web.get("/admin/login/")
    post(web, "/admin/login/", {"username": "serg", "password": "wrong", "next": "/admin/"})
    assert web.post("/api/login", json={"username": "igor", "password": "wrong"}).status_code == 401
    assert booth.post(jpeg(), password="wrong").status == 401


def test_failed_logins_are_purged_once_they_count_no_more(web: httpx.Client, booth: Booth) -> None:
    guess(web, booth)
    assert count_rows() == [2, 1, 0]  # whoever is not logged in has no session
    assert purge(["log"]).rows == 0
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(minutes=5))
    PasswordFailure.objects.update(minute=F("minute") - timedelta(minutes=6))
    assert purge(["log"], dry_run=True).rows == 3
    assert purge(["log"]).rows == 3
    assert count_rows() == [0, 0, 0]
    assert PurgeTotal.objects.get().rows == 3


def test_a_session_is_purged_once_it_has_expired(web: httpx.Client) -> None:
    log_in(web, make_staff_user(superuser=True))
    session = Session.objects.get()
    expired = Session.objects.create(session_key="old", session_data="", expire_date=timezone.now())
    assert purge(["log"]).rows == 1
    assert list(Session.objects.all()) == [session] != [expired]
    assert web.get("/admin/").status_code == 200
    session.delete()
