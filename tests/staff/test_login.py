"""`POST /api/login`: who gets a token, its claims, when it expires, and the lock-out after failed logins."""

from __future__ import annotations

import base64
import hmac
import json
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.auth import hashers
from django.contrib.auth.models import Group, User
from django.core import signing
from django.db import connection
from django.db.models import F
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework_simplejwt.tokens import AccessToken

from photoslot.bootstrap import get_permission
from staff.api.base import SCOPES
from tests import leaks
from tests.admin_client import PASSWORD, make_staff_user, text_of
from tests.api import Api, check_refusal, get_token, make_api
from tests.conftest import Processes

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]

PROVIDERS = "/api/providers"
WRONG = "incorrect horse"
leaks.note(PASSWORD, WRONG)


def log_in(username: str, password: str = PASSWORD, **more: Any) -> Any:
    return Api()("post", "/api/login", {"username": username, "password": password}, **more)


def decode_claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def sign_token(**claims: Any) -> str:
    token = AccessToken()
    token.payload |= claims
    return str(token)


def fail(times: int, username: str, **more: Any) -> list[int]:
    return [log_in(username, WRONG, **more).status_code for _ in range(times)]


def test_name_and_password_give_a_token_for_an_hour() -> None:
    serg = make_staff_user(superuser=True)
    response = log_in(serg.username).json()
    assert (response["token_type"], response["expires_in_sec"]) == ("bearer", 3600)
    found = decode_claims(response["access_token"])
    assert (found["sub"], found["permissions"]) == (serg.username, list(SCOPES))
    assert 3590 < found["exp"] - time.time() <= 3600
    assert base64.urlsafe_b64decode(response["access_token"].split(".")[0] + "==").startswith(b'{"alg":"HS256"')


def test_a_login_is_recorded_and_starts_no_session() -> None:
    user = make_staff_user()
    response = log_in(user.username)
    user.refresh_from_db()
    assert user.last_login is not None
    assert not response.cookies


@pytest.mark.parametrize("scope", SCOPES)
def test_the_token_lists_its_owners_scopes(scope: str) -> None:
    token = make_api(scope).headers["Authorization"].removeprefix("Bearer ")
    assert decode_claims(token)["permissions"] == [scope]


def test_a_wrong_password_an_unknown_name_and_those_who_may_not_log_in_get_the_same_response() -> None:
    staff, guest, inactive = make_staff_user(), make_staff_user(), make_staff_user()
    User.objects.filter(pk=guest.pk).update(is_staff=False)
    User.objects.filter(pk=inactive.pk).update(is_active=False)
    responses = [
        log_in(staff.username, WRONG),
        *(log_in(name) for name in ("nobody", guest.username, inactive.username)),
    ]
    assert {response.status_code for response in responses} == {401}
    assert len({response.content for response in responses}) == 1


@pytest.mark.parametrize("kind", ["wrong password", "unknown", "not staff", "switched off"])
def test_every_refused_login_costs_one_slow_hash(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    user = make_staff_user()
    changes = {"not staff": {"is_staff": False}, "switched off": {"is_active": False}}.get(kind, {})
    User.objects.filter(pk=user.pk).update(id=user.pk, **changes)
    hashed: list[str] = []
    encode = hashers.MD5PasswordHasher.encode

    def encode_and_count(self: Any, password: str, salt: str) -> str:
        hashed.append(password)
        return encode(self, password, salt)

    monkeypatch.setattr(hashers.MD5PasswordHasher, "encode", encode_and_count)
    log_in("nobody" if kind == "unknown" else user.username, WRONG)
    assert hashed == [WRONG]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"username", "password"}),
        ({"username": "serg"}, {"password"}),
        ({"username": "serg", "password": 1}, {"password"}),
        ({"username": None, "password": "x"}, {"username"}),
        ({"username": "s" * 151, "password": "x"}, {"username"}),
        ({"username": "s\0", "password": "x"}, {"username"}),
        ({"username": "\ud800", "password": "x"}, {"username"}),
        ({"username": "serg", "password": "x", "otp": "1", "scope": "all"}, {"otp", "scope"}),
        ([], set()),
        ("serg", set()),
    ],
)
def test_anything_but_name_and_password_is_malformed(body: Any, fields: set[str]) -> None:
    details = check_refusal(Api()("post", "/api/login", json.dumps(body).encode()), 400, "invalid_payload")
    assert details.keys() == fields
    assert not AccessAttempt.objects.exists()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer a b",
        "Basic c2VyZzpwYXNz",
        "Bearer nonsense",
        "Bearer a.b.c",
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJzZXJnIn0.",
    ],
)
def test_an_invalid_authorization_header_is_refused(header: str) -> None:
    response = Api()("get", PROVIDERS, headers={"Authorization": header} if header else {})
    check_refusal(response, 401, "invalid_credentials")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_token_that_somebody_has_changed_is_refused() -> None:
    head, body, signature = get_token(make_staff_user(superuser=True).username).split(".")
    claims = json.dumps(decode_claims(f".{body}.") | {"sub": "other"})
    forged_body = base64.urlsafe_b64encode(claims.encode()).decode().rstrip("=")
    check_refusal(Api(f"{head}.{forged_body}.{signature}")("get", PROVIDERS), 401, "invalid_credentials")


def test_a_token_signed_with_another_of_our_keys_is_refused() -> None:
    head, body, _ = get_token(make_staff_user(superuser=True).username).split(".")
    with_secret_key = hmac.digest(settings.SECRET_KEY.encode(), f"{head}.{body}".encode(), "sha256")
    forged = base64.urlsafe_b64encode(with_secret_key).decode().rstrip("=")
    check_refusal(Api(f"{head}.{body}.{forged}")("get", PROVIDERS), 401, "invalid_credentials")


def test_an_expired_token_or_one_of_an_unknown_user_is_refused() -> None:
    user = make_staff_user(superuser=True)
    valid = decode_claims(get_token(user.username))
    assert Api(sign_token(**valid))("get", PROVIDERS).status_code == 200
    expired = int(time.time()) - 61  # tokens are taken with a leeway of a minute
    for changes in ({"exp": expired}, {"sub": "nobody"}, {"sub": ""}, {"token_type": "refresh"}):
        check_refusal(Api(sign_token(**(valid | changes)))("get", PROVIDERS), 401, "invalid_credentials")


def invalidate(user: User, how: str) -> None:
    match how:
        case "password":
            user.set_password("another password")
        case "is_active" | "is_staff":
            setattr(user, how, False)
    user.save()


@pytest.mark.parametrize("how", ["password", "is_active", "is_staff"])
def test_a_token_ends_when_its_owner_is_switched_off_or_has_another_password(how: str) -> None:
    user = make_staff_user(superuser=True)
    api = Api(get_token(user.username))
    assert api("get", PROVIDERS).status_code == 200
    invalidate(user, how)
    check_refusal(api("get", PROVIDERS), 401, "invalid_credentials")


def test_a_hash_that_logging_in_renews_does_not_end_the_token() -> None:
    user = make_staff_user(superuser=True)
    User.objects.filter(pk=user.pk).update(password=hashers.make_password(PASSWORD, hasher="pbkdf2_sha256"))
    assert Api(get_token(user.username))("get", PROVIDERS).status_code == 200
    assert User.objects.get(pk=user.pk).password.startswith("md5$")


def test_a_removed_permission_is_lost_at_once() -> None:
    api = make_api("slots:write")
    User.objects.get().user_permissions.clear()
    check_refusal(api("get", PROVIDERS), 403, "forbidden")


def test_a_session_of_the_admin_is_no_token() -> None:
    api = Api()
    api.client.force_login(make_staff_user(superuser=True))
    check_refusal(api("get", PROVIDERS), 401, "invalid_credentials")


ELSEWHERE = {"REMOTE_ADDR": "10.0.0.9"}


def test_after_ten_failures_a_name_is_locked_out_at_that_address_even_with_the_right_password() -> None:
    user = make_staff_user()
    assert fail(10, user.username) == [401] * 9 + [429]
    response = log_in(user.username)
    check_refusal(response, 429, "rate_limited")
    assert 290 <= int(response.headers["Retry-After"]) <= 300
    assert log_in(make_staff_user().username).status_code == 200


def test_failures_from_elsewhere_do_not_lock_a_person_out() -> None:
    user = make_staff_user()
    assert fail(12, user.username, **ELSEWHERE)[-1] == 429
    assert log_in(user.username).status_code == 200
    assert post_to_admin_login(user.username, PASSWORD).status_code == 302


def test_after_fifty_failures_an_address_is_locked_out_for_all_names() -> None:
    statuses = [fail(1, f"guess-{n}", headers={"User-Agent": f"agent {n}"})[0] for n in range(50)]
    assert statuses == [401] * 49 + [429]
    user = make_staff_user()
    check_refusal(log_in(user.username), 429, "rate_limited")
    assert log_in(user.username, **ELSEWHERE).status_code == 200


def guess_from_many_addresses(username: str) -> list[int]:
    """A hundred times, nine from each address."""
    return [fail(1, username, REMOTE_ADDR=f"10.1.0.{number // 9}")[0] for number in range(100)]


def test_after_a_hundred_failures_a_name_is_locked_out_everywhere_for_those_who_never_logged_in() -> None:
    user = make_staff_user()
    assert guess_from_many_addresses(user.username) == [401] * 99 + [429]
    response = log_in(user.username)
    check_refusal(response, 429, "rate_limited")
    assert 250 <= int(response.headers["Retry-After"]) <= 300
    assert log_in(make_staff_user().username).status_code == 200


def log_in_by_browser(user: User) -> Client:
    """Then the session ends; what is left is the browser's cookies."""
    client = Client()
    page = client.post("/admin/login/", {"username": user.username, "password": PASSWORD})
    cookie = page.cookies["device"]
    assert (cookie["httponly"], cookie["samesite"], user.username in cookie.value) == (True, "Strict", False)
    client.logout()
    client.cookies["device"] = cookie.value
    return client


def submit(client: Client, username: str, password: str, **more: Any) -> int:
    status: int = client.post("/admin/login/", {"username": username, "password": password}, **more).status_code
    return status


def test_a_browser_in_which_somebody_has_logged_in_is_not_locked_out_by_others() -> None:
    user = make_staff_user()
    client = log_in_by_browser(user)
    fail(10, user.username)
    for number in range(50):
        fail(1, f"guess-{number}")
    guess_from_many_addresses(user.username)
    assert submit(client, user.username, PASSWORD) == 302
    assert post_to_admin_login(user.username, PASSWORD).status_code == 429


def test_such_a_browser_has_ten_failures_of_its_own_and_for_its_own_name_only() -> None:
    user, other = make_staff_user(), make_staff_user()
    client = log_in_by_browser(user)
    assert [submit(client, user.username, WRONG, REMOTE_ADDR=f"10.1.0.{n}") for n in range(10)] == [200] * 9 + [429]
    assert submit(client, user.username, PASSWORD, **ELSEWHERE) == 429
    fail(10, other.username)
    assert submit(client, other.username, PASSWORD) == 429


@pytest.mark.parametrize("cookie", ["", "nonsense", "{other}", "{signed_elsewhere}"])
def test_a_forged_device_cookie_is_none(cookie: str) -> None:
    user = make_staff_user()
    other = log_in_by_browser(make_staff_user()).cookies["device"].value
    fail(10, user.username)
    client = Client()
    client.cookies["device"] = cookie.format(other=other, signed_elsewhere=signing.dumps([user.username, "x"]))
    assert submit(client, user.username, PASSWORD) == 429


def test_an_issued_token_and_a_session_outlast_every_lockout() -> None:
    user = make_staff_user(superuser=True)
    api, client = Api(get_token(user.username)), Client()
    client.force_login(user)
    fail(10, user.username)
    for number in range(40):
        fail(1, f"guess-{number}")
    check_refusal(log_in(user.username), 429, "rate_limited")
    assert api("get", PROVIDERS).status_code == 200
    assert client.get("/admin/").status_code == 200


def test_the_addresses_of_one_network_count_as_one() -> None:
    """Whoever has an IPv6 address has 2^64 of them."""
    user = make_staff_user()
    assert [fail(1, user.username, REMOTE_ADDR=f"2001:db8::{number}")[0] for number in range(10)][-1] == 429
    assert log_in(user.username, REMOTE_ADDR="2001:db8::ffff").status_code == 429
    assert log_in(user.username, REMOTE_ADDR="2001:db8:0:1::1").status_code == 200


def test_forwarded_addresses_change_nothing_by_themselves() -> None:
    user = make_staff_user()
    forged = [{"X-Forwarded-For": f"10.2.0.{n}", "Forwarded": f"for=10.2.0.{n}"} for n in range(10)]
    assert [fail(1, user.username, headers=headers)[0] for headers in forged][-1] == 429


def test_a_name_that_does_not_exist_is_locked_out_like_any_other() -> None:
    assert fail(11, "nobody") == [401] * 9 + [429] * 2


def test_further_attempts_do_not_prolong_the_lockout() -> None:
    user = make_staff_user()
    fail(10, user.username)
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(minutes=4))
    response = log_in(user.username, WRONG)
    assert 50 <= int(response.headers["Retry-After"]) <= 60
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(minutes=1))
    assert log_in(user.username).status_code == 200


def post_to_admin_login(username: str, password: str, **more: Any) -> Any:
    return Client().post("/admin/login/", {"username": username, "password": password}, **more)


def test_the_admins_page_counts_with_the_api_and_says_so_to_people() -> None:
    user = make_staff_user()
    fail(5, user.username)
    for _ in range(4):
        assert post_to_admin_login(user.username, WRONG).status_code == 200
    page = post_to_admin_login(user.username, WRONG)
    assert (page.status_code, page.headers["Cache-Control"]) == (429, "no-store")
    assert page.headers["Retry-After"]
    assert "Too many failed logins" in text_of(page)
    check_refusal(log_in(user.username), 429, "rate_limited")


def test_staff_can_unlock_a_colleague() -> None:
    user, client = make_staff_user(), Client()
    client.force_login(make_staff_user(superuser=True))
    fail(10, user.username)
    rows = list(AccessAttempt.objects.values_list("pk", flat=True))
    page = "/admin/axes/accessattempt/"
    client.post(page, {"action": "delete_selected", "_selected_action": rows, "post": "yes"})
    assert log_in(user.username).status_code == 200
    assert "Access attempts" in text_of(client.get(page))


def test_only_staff_can_log_in_to_the_admin() -> None:
    guest = User.objects.create_user("guest", password=PASSWORD)
    assert post_to_admin_login("guest", PASSWORD).status_code == 200
    assert post_to_admin_login(make_staff_user().username, PASSWORD).status_code == 302
    assert guest.last_login is None


def test_no_password_is_stored_with_the_failures() -> None:
    post_to_admin_login("serg", WRONG)
    log_in("serg", WRONG)
    assert WRONG not in str(list(AccessAttempt.objects.values_list()))


def test_a_password_that_was_typed_as_the_name_reaches_no_log(caplog: pytest.LogCaptureFixture) -> None:
    post_to_admin_login(WRONG, "x")
    log_in(WRONG, "x")
    assert "login failure" in caplog.text
    assert WRONG not in caplog.text
    assert WRONG not in str(AccessAttempt.objects.values_list("post_data", "get_data"))


@pytest.mark.e2e
def test_failures_count_across_processes_and_restarts(processes: Processes) -> None:
    user = make_staff_user()
    credentials = {"username": user.username, "password": WRONG}
    for _ in range(2):
        process = processes.web()
        statuses = [httpx.post(f"{processes.url}/api/login", json=credentials).status_code for _ in range(5)]
        process.terminate()
        process.wait(30)
    assert statuses == [401] * 4 + [429]
    processes.web()
    response = httpx.post(f"{processes.url}/api/login", json=credentials | {"password": PASSWORD})
    check_refusal(response, 429, "rate_limited")
    assert response.headers["X-Correlation-Id"]
    page = httpx.get(f"{processes.url}/admin/login/")
    assert page.status_code == 200


def test_own_and_group_permissions_are_read_in_one_query() -> None:
    user, group = make_staff_user(), Group.objects.create(name="statisticians")
    user.user_permissions.add(get_permission("slots.view_slot"))
    group.permissions.add(get_permission("stats.view_hourlycounter"))
    user.groups.add(group)
    with CaptureQueriesContext(connection) as captured:
        assert user.has_perms(["slots.view_slot", "stats.view_hourlycounter"])
        assert not user.has_perm("jobs.view_job")
    assert len(captured) == 1
    user.is_active = False
    assert not user.has_perm("slots.view_slot")
