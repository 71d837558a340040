"""An account as booths and workers see it: a change by staff applies to the next photo."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection
from django.utils import timezone

from providers.base import Reason
from providers.models import ProviderAccount
from stats.models import ProcessingLog
from tests import leaks
from tests.booth_client import Reply
from tests.conftest import Booth, in_background, jpeg
from tests.ingest.helpers import nothing_left, refusal
from tests.photoslot.waiting import until
from tests.providers.account_factories import KEYS, create_account, use_gemini
from tests.sandbox.wire import WireSandbox

pytest_plugins = "tests.providers.accounts_fixtures"
pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("rolled_back_database")]


class Relay(BaseHTTPRequestHandler):
    """An HTTP proxy with a password, for plain http addresses."""

    seen: list[tuple[str, str]]

    def do_POST(self) -> None:
        login = base64.b64decode(self.headers["Proxy-Authorization"].partition(" ")[2]).decode()
        self.seen.append((login, self.path))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        own = ("host", "proxy-authorization", "proxy-connection", "content-length")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in own}
        answer = httpx.post(self.path, content=body, headers=headers, timeout=30)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: `seen` is what is read."""


@contextmanager
def proxy() -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Its port, and the requests it has forwarded, as (login, URL)."""
    seen: list[tuple[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundRelay", (Relay,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def raw_rows() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT account::text FROM providers_provideraccount AS account")
        return "\n".join(row[0] for row in cursor.fetchall())


def retry_after(reply: Reply) -> int:
    return int(httpx.Headers(dict(reply.headers))["Retry-After"])


def test_the_database_holds_no_secret_in_plain_text() -> None:
    created = create_account()
    created.set_proxy_url("http://user:hush@proxy:1")
    created.save()
    stored = raw_rows()
    assert KEYS["gemini"] not in stored
    assert "hush" not in stored
    assert (created.decrypt().key, created.decrypt().proxy_url) == (KEYS["gemini"], "http://user:hush@proxy:1")


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({"is_enabled": False}, 60),
        ({"encrypted_key": ""}, 60),
        ({"open_until": timedelta(seconds=20), "open_reason": Reason.QUOTA}, 20),  # from now
    ],
    ids=["off", "no key", "breaker open"],
)
def test_a_photo_that_nobody_can_work_on_is_refused_at_once(
    booth: Booth, wires: WireSandbox, changes: dict[str, Any], seconds: int
) -> None:
    create_account(wires.url)
    use_gemini()
    if "open_until" in changes:
        changes = changes | {"open_until": timezone.now() + changes["open_until"]}
    ProviderAccount.objects.update(**changes)
    reply = booth.post(jpeg())
    refusal(reply, 503, "provider_unavailable")
    assert seconds - 5 < retry_after(reply) <= seconds
    assert nothing_left()
    assert wires.journal == []


def test_a_provider_without_an_account_has_no_key(booth: Booth) -> None:
    use_gemini()
    refusal(booth.post(jpeg()), 503, "provider_unavailable")


def test_a_change_reaches_running_workers_with_the_next_photo(booth: Booth, wires: WireSandbox) -> None:
    created = create_account()  # at a closed port
    use_gemini()
    refusal(booth.post(jpeg()), 502, "provider_error")
    ProviderAccount.objects.update(base_url=f"{wires.url}/gemini", failures=0, open_until=None, open_reason=None)
    assert booth.post(jpeg()).status == 200
    created.set_key("AIza-not-accepted")
    ProviderAccount.objects.update(encrypted_key=created.encrypted_key)
    reply = booth.post(
        jpeg(colour="red")
    )  # the same photo could join the last job, whose delivery may not be recorded yet
    assert refusal(reply, 502, "provider_error")["reason"] == "auth"
    assert [call.headers["x-goog-api-key"] for call in wires.calls("gemini")] == [KEYS["gemini"], "AIza-not-accepted"]


def count_connections(wires: WireSandbox) -> int:
    """Those that are open to the sandbox, from any process (/proc/net/tcp: the second address, then the state)."""
    port = f":{int(wires.url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return len([row for row in rows if row[2].endswith(port) and row[3] == "01"])


def enter_key_again() -> None:
    """Which is another secret, and another connection, as far as workers can see."""
    account = ProviderAccount.objects.get(pk="gemini")
    account.set_key(KEYS["gemini"])
    account.save()


def test_an_edited_accounts_client_is_closed_once_its_last_job_has_ended(booth: Booth, wires: WireSandbox) -> None:
    """With it goes the key that it holds."""
    create_account(wires.url)
    use_gemini()
    wires.speakers["gemini"].play("hold")
    held = in_background(lambda: booth.post(jpeg(colour="red")))
    wires.wait_for(lambda: len(wires.calls("gemini")) == 1)
    for number in range(5):
        enter_key_again()
        assert booth.post(jpeg(colour=f"rgb({number}, 0, 0)")).status == 200
    assert count_connections(wires) == 2  # the held call's, and the latest
    wires.let_go()
    assert held().status == 200  # its account was edited meanwhile, and it kept its client
    until(lambda: count_connections(wires) == 1)


def test_calls_go_through_the_accounts_proxy_and_its_password_stays_hidden(booth: Booth, wires: WireSandbox) -> None:
    leaks.note("hush%23hush")  # looked for in the logs of all processes
    created = create_account(wires.url)
    use_gemini()
    with proxy() as (port, seen):
        created.set_proxy_url(f"http://booth:hush%23hush@127.0.0.1:{port}")
        created.save()
        assert booth.post(jpeg()).status == 200
    assert [login for login, _ in seen] == ["booth:hush#hush"]
    assert seen[0][1].startswith(f"{wires.url}/gemini/")
    assert "proxy-authorization" not in wires.calls("gemini")[0].headers
    refusal(booth.post(jpeg(colour="red")), 502, "provider_error")  # the proxy is gone
    logged = "".join(map(str, ProcessingLog.objects.values_list("message", "details")))
    assert "no connection" in logged
    assert "hush" not in logged


def test_a_key_that_cannot_be_read_is_the_reason(booth: Booth, wires: WireSandbox) -> None:
    create_account(wires.url, encrypted_proxy_url="written with another key")
    use_gemini()
    assert refusal(booth.post(jpeg()), 502, "provider_error")["reason"] == "auth"
    assert wires.journal == []
