"""Passwords guessed in parallel: no more tries than one after the other would have, and nobody else has to wait."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlencode

import httpx
import pytest
from django.contrib.auth.hashers import make_password
from django.db.models import Sum

from ingest.models import PasswordFailure
from ingest.password import EXTRA_TRIES, FAILURES_ALLOWED
from photoslot.supervisor import find_free_port
from tests.admin_client import PASSWORD as STAFF_PASSWORD
from tests.admin_client import make_staff_user
from tests.api import make_api
from tests.booth_client import Reply
from tests.conftest import PASSWORD, Processes
from tests.faults.guards import with_and_without
from tests.ingest.helpers import connect, form, read_reply, refusal, serialize_post, use_password

pytestmark = pytest.mark.e2e

GUESSERS, BOOTH = "127.0.0.2", "127.0.0.3"  # each stands for another machine
HASHING_SECONDS = 20.0  # of a right booth in a process that has just started: one or two hashes on a busy machine


def post_from(url: str, address: str, password: str) -> Reply:
    """A post without a photo: with the right password it gets 400, and needs no worker."""
    with connect(url, address) as connection:
        connection.sendall(serialize_post(url, headers={"Connection": "close"}, **form(None, password)))
        return read_reply(connection)


def all_at_once(*work: Callable[[], Reply]) -> list[Reply]:
    replies: list[Reply] = []
    gate = threading.Barrier(len(work))

    def run(each: Callable[[], Reply]) -> None:
        gate.wait()
        replies.append(each())

    threads = [threading.Thread(target=run, args=[each]) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(replies) == len(work)
    return replies


def guesses(url: str, count: int, first: int = 0) -> list[Callable[[], Reply]]:
    return [lambda i=i: post_from(url, GUESSERS, f"guess {i}") for i in range(first, first + count)]  # type: ignore[misc]


@pytest.mark.parametrize("algorithm", ["default", "pbkdf2_sha256"], ids=["quick hash", "slow hash"])
def test_a_hundred_guesses_at_once_have_no_more_tries(processes: Processes, algorithm: str) -> None:
    """Neither with two processes, of which none has seen the right password."""
    use_password("right", algorithm)
    processes.web()
    other = Processes(find_free_port(), processes.started)
    other.web()
    replies = all_at_once(*guesses(processes.url, 50), *guesses(other.url, 50, first=50))
    found = Counter(reply.status for reply in replies)
    assert found.keys() <= {401, 429}
    assert found[401] <= FAILURES_ALLOWED
    for reply in replies:
        refusal(reply, reply.status, "invalid_credentials" if reply.status == 401 else "rate_limited")
        assert reply.status == 401 or int(reply.headers["retry-after"]) > 0
    assert PasswordFailure.objects.aggregate(all=Sum("count"))["all"] == found[401]


@with_and_without("limit of guesses")
def test_two_who_guess_at_the_same_time_have_ten_tries_together(processes: Processes, without: str | None) -> None:
    processes.without = without
    processes.web()
    assert post_from(processes.url, BOOTH, PASSWORD).status == 400  # now the process knows it
    found: Counter[int] = Counter()
    for i in range(FAILURES_ALLOWED):
        found.update(reply.status for reply in all_at_once(*guesses(processes.url, 2, first=2 * i)))
    assert (found[401] > FAILURES_ALLOWED) if without else (found[401] == FAILURES_ALLOWED)


def test_what_a_blocked_address_may_still_try_is_bounded(processes: Processes) -> None:
    """A process that has not seen the right password cannot tell a booth that was just given it from a guesser."""
    processes.web()
    for i in range(FAILURES_ALLOWED + EXTRA_TRIES):
        assert post_from(processes.url, GUESSERS, f"guess {i}").status == (401 if i < FAILURES_ALLOWED else 429)
    refusal(post_from(processes.url, GUESSERS, PASSWORD), 429, "rate_limited")
    assert post_from(processes.url, BOOTH, PASSWORD).status == 400
    assert post_from(processes.url, GUESSERS, PASSWORD).status == 400  # now the process knows it


def test_a_booth_does_not_wait_behind_guesses(processes: Processes) -> None:
    use_password("right", "pbkdf2_sha256")
    processes.web()
    waited = []

    def post_as_booth() -> Reply:
        began = time.monotonic()
        reply = post_from(processes.url, BOOTH, "right")
        waited.append(time.monotonic() - began)
        return reply

    replies = all_at_once(*guesses(processes.url, 150), post_as_booth)
    assert Counter(reply.status for reply in replies)[400] == 1
    assert waited[0] < HASHING_SECONDS


def test_all_booths_of_a_party_come_in_at_once(processes: Processes) -> None:
    """From one address, with the right password, to a process that has just started: they share one slow hash."""
    use_password("right", "pbkdf2_sha256")
    processes.web()
    replies = all_at_once(*[lambda: post_from(processes.url, BOOTH, "right")] * 60)
    assert {reply.status for reply in replies} == {400}
    assert PasswordFailure.objects.aggregate(all=Sum("count"))["all"] == 0


def log_in_from(url: str, path: str, body: str, kind: str, headers: dict[str, str]) -> Reply:
    where = httpx.URL(url)
    with closing(HTTPConnection(where.host, where.port, 70)) as connection:
        connection.request("POST", path, body, {"Content-Type": kind, **headers})
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read(), body_was_sent=True)


def test_many_logins_at_once_are_refused_honestly(processes: Processes) -> None:
    processes.web()
    user = make_staff_user()
    user.password = make_password(STAFF_PASSWORD, hasher="pbkdf2_sha256")
    user.save()
    colleague = make_api("slots:write").headers
    with httpx.Client(base_url=processes.url) as browser:
        csrf = browser.get("/admin/login/").cookies["csrftoken"]

    def log_in_by_api(i: int) -> Reply:
        body = f'{{"username": "{user.username}", "password": "wrong {i}"}}'
        return log_in_from(processes.url, "/api/login", body, "application/json", {})

    def log_in_to_admin(i: int) -> Reply:
        body = urlencode({"username": user.username, "password": f"wrong {i}", "csrfmiddlewaretoken": csrf})
        cookie = {"Cookie": f"csrftoken={csrf}"}
        return log_in_from(processes.url, "/admin/login/", body, "application/x-www-form-urlencoded", cookie)

    def work() -> Reply:
        reply = httpx.get(f"{processes.url}/api/providers", headers=colleague, timeout=70)
        return Reply(reply.status_code, {}, b"", body_was_sent=True)

    # Fewer of these: the tests log all that the templates of the admin look up.
    by_api, by_admin, others = (
        [lambda i=i: log_in_by_api(i) for i in range(100)],
        [lambda i=i: log_in_to_admin(i) for i in range(12)],
        [work] * 5,
    )
    found = Counter(reply.status for reply in all_at_once(*by_api))
    assert found.keys() <= {401, 429}
    assert found[401]
    replies = all_at_once(*by_admin, *others)
    found = Counter(reply.status for reply in replies)
    assert found.keys() <= {200, 429}  # the admin says in its form that a password is wrong
    assert found[200] >= len(others)
    assert all(int(reply.headers["retry-after"]) > 0 for reply in replies if reply.status == 429)
