"""The ingest password: a slow hash that no photo pays for, rotation, and guessing is slowed down."""

from __future__ import annotations

import http.client
from contextlib import closing
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.contrib.auth.hashers import MD5PasswordHasher, make_password
from django.db.models import F, TextField
from django.db.models.functions import Cast
from pytest_django.fixtures import Settings

from ingest.models import IngestSettings, PasswordFailure
from ingest.password import FAILURES_ALLOWED, PasswordChecker, TooManyFailures, WrongPassword
from jobs.models import Job
from jobs.queue.verbs import Queue
from photoslot.supervisor import find_free_port
from stats.models import ProcessingLog
from tests.conftest import PASSWORD, Booth, Processes, in_background, jpeg, use_sandbox
from tests.ingest.helpers import form, nothing_left, refusal, use_password
from tests.sandbox.server import Sandbox

pytestmark = pytest.mark.contract

SLOT = "/ingest/slot-001"


def status_from(url: str, address: str, password: str) -> int:
    """The status of a post from another loopback address, which stands for another machine."""
    request = httpx.Request("POST", url + SLOT, **form(jpeg(), password))
    where = httpx.URL(url)
    connection = http.client.HTTPConnection(where.host, where.port, 70, source_address=(address, 0))
    with closing(connection):
        connection.request("POST", SLOT, request.read(), dict(request.headers))
        return connection.getresponse().status


def guess(url: str, times: int) -> list[int]:
    return [httpx.post(url + SLOT, **form(jpeg(), f"guess {i}")).status_code for i in range(times)]


def test_a_password_with_a_slow_hash_is_accepted(web: httpx.Client) -> None:
    use_password("slow but sure", "pbkdf2_sha256")
    assert web.post(SLOT, **form(jpeg(), "slow but sure")).status_code == 200
    refusal(web.post(SLOT, **form(jpeg(), PASSWORD)), 401, "invalid_credentials")


def test_before_a_password_is_set_none_is_right(web: httpx.Client) -> None:
    IngestSettings.objects.update(password_hash="")
    for password in ("", "x"):
        refusal(web.post(SLOT, **form(jpeg(), password)), 401, "invalid_credentials")


def test_guessing_is_slowed_down_and_leaves_nothing(web: httpx.Client) -> None:
    assert web.post(SLOT, **form(None)).status_code == 400  # the process knows the right password now
    assert guess(str(web.base_url), FAILURES_ALLOWED) == [401] * FAILURES_ALLOWED
    reply = web.post(SLOT, **form(jpeg(), "one more guess"))
    refusal(reply, 429, "rate_limited")
    assert int(reply.headers["Retry-After"]) > 0
    assert nothing_left()


def test_guessing_is_slowed_down_in_a_process_that_has_just_started(processes: Processes) -> None:
    """It has not seen the right password yet, so it cannot tell a booth's address by that."""
    processes.web()
    assert guess(processes.url, FAILURES_ALLOWED + 2) == [401] * FAILURES_ALLOWED + [429, 429]
    assert httpx.post(processes.url + SLOT, **form(None)).status_code == 400


def test_a_booth_at_the_guessers_address_is_not_touched(web: httpx.Client) -> None:
    guess(str(web.base_url), FAILURES_ALLOWED + 1)
    assert web.post(SLOT, **form(jpeg())).status_code == 200


def test_other_addresses_are_not_touched(web: httpx.Client) -> None:
    url = str(web.base_url)
    assert web.post(SLOT, **form(None)).status_code == 400
    assert guess(url, FAILURES_ALLOWED + 1)[-1] == 429
    assert status_from(url, "127.0.0.2", "wrong") == 401
    assert status_from(url, "127.0.0.2", PASSWORD) == 200


def test_failures_count_in_all_processes_together(processes: Processes) -> None:
    processes.web()
    other = Processes(find_free_port(), processes.started)
    other.web()
    half = FAILURES_ALLOWED // 2
    assert guess(processes.url, half) + guess(other.url, half) == [401] * FAILURES_ALLOWED
    assert [guess(processes.url, 1), guess(other.url, 1)] == [[429], [429]]


def test_a_failure_is_forgotten_after_the_window(web: httpx.Client) -> None:
    assert web.post(SLOT, **form(None)).status_code == 400
    assert guess(str(web.base_url), FAILURES_ALLOWED + 1)[-1] == 429
    PasswordFailure.objects.update(minute=F("minute") - timedelta(minutes=6))
    assert guess(str(web.base_url), 1) == [401]


def test_rotation_takes_effect_at_once(web: httpx.Client) -> None:
    assert web.post(SLOT, **form(jpeg())).status_code == 200
    use_password("new")
    assert web.post(SLOT, **form(jpeg())).status_code == 401
    assert web.post(SLOT, **form(jpeg(), "new")).status_code == 200


def test_a_booth_that_kept_posting_the_old_password_is_admitted_at_once_with_the_new_one(web: httpx.Client) -> None:
    assert web.post(SLOT, **form(None)).status_code == 400
    use_password("new")
    replies = [web.post(SLOT, **form(jpeg())).status_code for _ in range(FAILURES_ALLOWED + 5)]
    assert replies[-1] == 429
    assert web.post(SLOT, **form(jpeg(), "new")).status_code == 200


def test_rotation_cuts_off_no_photo_under_way(booth: Booth, sandbox: Sandbox) -> None:
    use_sandbox("instant", "hold")
    reply = in_background(lambda: booth.post(jpeg()))
    sandbox.wait_for_calls(1)
    use_password("new")
    sandbox.let_go()
    assert reply().status == 200


def test_the_password_is_written_nowhere(processes: Processes, capfd: pytest.CaptureFixture[str]) -> None:
    processes.web()
    processes.worker()
    use_password("s3cret-right")
    posts: list[dict[str, Any]] = [
        form(jpeg(), "s3cret-right", id="1"),
        form(jpeg(), "s3cret-wrong"),
        form(b"", "s3cret-right"),
        form(jpeg(), "s3cret-right", survey1="x" * 5000),
    ]
    codes = [httpx.post(processes.url + SLOT, timeout=60, **post).status_code for post in posts]
    assert codes == [200, 401, 400, 400]
    out, err = capfd.readouterr()
    assert "Unauthorized" in err
    log = ProcessingLog.objects.annotate(text=Cast("details", TextField())).values_list("message", "text")
    stored = str(list(Job.objects.values())) + str(list(log))
    assert "s3cret" not in out + err + stored


class CountingHasher(MD5PasswordHasher):
    """Stands for a slow hash; counts how often it is computed."""

    algorithm = "counted"
    calls = 0

    def verify(self, password: str, encoded: str) -> bool:
        CountingHasher.calls += 1
        return super().verify(password, encoded)


@pytest.fixture
def checker(queue: Queue, settings: Settings) -> PasswordChecker:
    settings.PASSWORD_HASHERS = [f"{__name__}.CountingHasher"]
    CountingHasher.calls = 0
    return PasswordChecker(queue.database)


async def test_only_the_first_photo_pays_for_the_slow_hash(checker: PasswordChecker) -> None:
    encoded = make_password("right", hasher="counted")
    for _ in range(50):
        await checker.check("right", encoded, "10.0.0.1")
    assert CountingHasher.calls == 1


async def test_a_booth_that_keeps_posting_a_wrong_password_costs_one_slow_hash(checker: PasswordChecker) -> None:
    encoded = make_password("right", hasher="counted")
    for _ in range(FAILURES_ALLOWED):
        with pytest.raises(WrongPassword):
            await checker.check("wrong", encoded, "10.0.0.1")
    assert CountingHasher.calls == 1


async def test_after_a_rotation_the_slow_hash_is_paid_once_more(checker: PasswordChecker) -> None:
    for password in ("first", "second"):
        encoded = make_password(password, hasher="counted")
        await checker.check(password, encoded, "10.0.0.1")
        await checker.check(password, encoded, "10.0.0.1")
    assert CountingHasher.calls == 2


async def test_a_blocked_address_costs_no_slow_hash(checker: PasswordChecker) -> None:
    encoded = make_password("right", hasher="counted")
    await checker.check("right", encoded, "10.0.0.1")
    for i in range(FAILURES_ALLOWED):
        with pytest.raises(WrongPassword):
            await checker.check(f"guess {i}", encoded, "10.0.0.2")
    calls = CountingHasher.calls
    with pytest.raises(TooManyFailures):
        await checker.check("another guess", encoded, "10.0.0.2")
    assert CountingHasher.calls == calls


@pytest.mark.parametrize("address", ["", "unix:", "::ffff:10.0.0.9", "fe80::1", "10.0.0.9"])
async def test_any_peer_can_be_counted(checker: PasswordChecker, address: str) -> None:
    encoded = make_password("right", hasher="counted")
    for _ in range(FAILURES_ALLOWED):
        with pytest.raises(WrongPassword):
            await checker.check("wrong", encoded, address)
    await checker.check("right", encoded, address)
    with pytest.raises(TooManyFailures):
        await checker.check("wrong again", encoded, "10.0.0.9" if address.endswith("10.0.0.9") else address)
