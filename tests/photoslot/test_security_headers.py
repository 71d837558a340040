"""What every response tells browsers, whose word on the client's address counts, and who reads the metrics."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from uuid import UUID

import httpx
import pytest
from axes.models import AccessAttempt
from cryptography.fernet import Fernet
from django.conf import settings
from django.db import connection
from django.test import Client
from pytest_django import fixtures

from tests.admin_client import log_in, make_staff_user
from tests.api import check_refusal
from tests.conftest import Booth, Processes, jpeg
from tests.jobs.results import make_picture

pytestmark = pytest.mark.contract

ANSWERS = [
    ("GET", "/healthz", 200),
    ("GET", "/metrics", 200),
    ("GET", "/static/core/admin.css", 200),
    ("GET", "/static/none.css", 404),
    ("GET", "/nowhere", 404),
    ("GET", "/admin/login/", 200),
    ("GET", "/api/docs", 200),
    ("GET", "/api/slots", 401),
    ("GET", f"/r/{UUID(int=7)}", 404),
    ("GET", f"/public/results/{UUID(int=7)}", 404),
    ("GET", "/ingest/slot-001", 405),
    ("POST", "/ingest/slot-001", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_response_has_them(web: httpx.Client, method: str, path: str, status: int) -> None:
    response = web.request(method, path)
    assert response.status_code == status
    sent = response.headers
    assert sent["X-Content-Type-Options"] == "nosniff"
    assert sent["X-Frame-Options"] == "DENY"
    assert sent["Referrer-Policy"] == "same-origin"
    assert "Strict-Transport-Security" not in sent  # PUBLIC_BASE_URL is plain http
    policy = sent["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    assert not re.search(r"unsafe-eval|(default|script)-src [^;]*unsafe-inline|\*|https?:", policy)
    assert all(len(sent.get_list(name)) == 1 for name in sent)


def test_a_picture_and_its_page_have_them(booth: Booth, web: httpx.Client) -> None:
    job = make_picture(booth)
    page = web.get(f"/r/{job.pk}")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; img-src 'self'; style-src 'self'")
    assert not re.search(r"<style|<script|style=|onclick", page.text)
    reply = booth.post(jpeg(colour="red"))
    assert dict(reply.headers)["x-content-type-options"] == "nosniff"
    assert web.get(f"/public/results/{job.pk}", follow_redirects=True).headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/admin/login/", "/api/docs", "/admin/", "/admin/slots/slot/slot-001/change/"])
def test_no_page_has_a_script_within_it(web: httpx.Client, path: str) -> None:
    log_in(web, make_staff_user(superuser=True))
    page = web.get(path, follow_redirects=True).text
    assert not [
        script for script in re.findall(r"<script(.*?)>", page) if "src=" not in script and "json" not in script
    ]
    assert not re.search(r"\son[a-z]+=|javascript:", page)


def test_with_https_browsers_are_told_to_use_nothing_else(processes: Processes) -> None:
    processes.web(PUBLIC_BASE_URL="https://photos.example")
    page = httpx.get(f"{processes.url}/admin/login/")
    for response in (page, httpx.get(f"{processes.url}/static/core/admin.css")):
        assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
    (cookie,) = page.headers.get_list("Set-Cookie")
    assert {"Secure", "HttpOnly", "SameSite=Lax"} <= {part.strip() for part in cookie.split(";")}


def test_check_deploy_is_clean_with_https() -> None:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "photoslot.settings",
        "PUBLIC_BASE_URL": "https://photos.example",
        "SECRET_KEY": secrets.token_urlsafe(48),
        "FERNET_KEYS": Fernet.generate_key().decode(),
        "DATABASE_URL": "postgres:///nowhere",
    }
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    done = subprocess.run(command, cwd=settings.BASE_DIR, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Whose word on the client's address counts.

FORWARDED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


def list_counted_addresses(processes: Processes) -> set[str]:
    """The addresses under which a wrong password of staff and one of a booth are counted."""
    wrong = {"username": "serg", "password": "incorrect horse"}
    assert httpx.post(f"{processes.url}/api/login", json=wrong, headers=FORWARDED).status_code == 401
    form = {"data": {"password": "incorrect horse"}, "files": {"fileToUpload": jpeg()}}
    assert httpx.post(f"{processes.url}/ingest/slot-001", headers=FORWARDED, **form).status_code == 401  # type: ignore[arg-type]
    with connection.cursor() as cursor:
        cursor.execute("SELECT host(address) FROM ingest_passwordfailure")
        return {*AccessAttempt.objects.values_list("ip_address", flat=True), *(row[0] for row in cursor.fetchall())}


@pytest.mark.parametrize(
    ("trusted", "address"),
    [([], "127.0.0.1"), (["10.0.0.5"], "127.0.0.1"), (["127.0.0.0/8"], "203.0.113.9")],
)
def test_only_a_trusted_proxy_says_who_the_client_is(
    processes: Processes, settings: fixtures.Settings, trusted: list[str], address: str
) -> None:
    settings.TRUSTED_PROXIES = trusted
    processes.web()
    assert list_counted_addresses(processes) == {address}
    metrics = httpx.get(f"{processes.url}/metrics", headers=FORWARDED)
    check_refusal(metrics, 401, "invalid_credentials")
    assert httpx.get(f"{processes.url}/metrics").status_code == 200


# Who reads the metrics where METRICS_TOKEN is unset.


@pytest.mark.usefixtures("rolled_back_database")
@pytest.mark.parametrize("address", ["10.0.0.9", "203.0.113.9", "2001:db8::1", ""])
def test_without_a_token_other_machines_do_not_read_the_metrics(address: str) -> None:
    response = Client(REMOTE_ADDR=address).get("/metrics")
    check_refusal(response, 401, "invalid_credentials")
    assert "Set it, and send it as a bearer token" in response.json()["error"]["message"]
    assert Client(REMOTE_ADDR="::1").get("/metrics").status_code == 200


@pytest.mark.usefixtures("rolled_back_database")
@pytest.mark.parametrize("name", ["Forwarded", "Via", "X-Forwarded-For", "X-Real-IP"])
def test_what_came_through_a_proxy_did_not_come_from_this_machine(name: str) -> None:
    check_refusal(Client(headers={name: "127.0.0.1"}).get("/metrics"), 401, "invalid_credentials")


@pytest.mark.usefixtures("rolled_back_database")
def test_the_token_opens_the_metrics_to_every_machine(settings: fixtures.Settings) -> None:
    settings.METRICS_TOKEN = "t0ken"
    client = Client(REMOTE_ADDR="10.0.0.9", headers={"Authorization": "Bearer t0ken"})
    assert client.get("/metrics").status_code == 200
