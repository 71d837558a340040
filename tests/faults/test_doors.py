"""Who locks whom out, where a provider's answer may lead, what a slot takes that is being archived, and old links."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from django.conf import settings
from django.db.models.functions import Now
from django.test import Client

from jobs.models import Job
from jobs.queue.verbs import Queue, SlotArchived
from jobs.storage.links import file_url
from providers.address_guard import AddressRefused, GuardedTransport
from tests.admin_client import PASSWORD, make_staff_user
from tests.conftest import Booth
from tests.faults.guards import with_and_without
from tests.faults.unguarded import remove
from tests.jobs.results import make_picture
from tests.queue_helpers import new_job, sql, wait_for_blocked

pytestmark = [pytest.mark.integration]

GUESSER, COLLEAGUE = "192.0.2.1", "192.0.2.2"


def log_in(name: str, password: str, address: str) -> int:
    body = {"username": name, "password": password}
    return Client(REMOTE_ADDR=address).post("/api/login", body, content_type="application/json").status_code


@pytest.mark.usefixtures("rolled_back_database")
@with_and_without("lock-out by address")
def test_a_guesser_locks_out_nobody_else(monkeypatch: pytest.MonkeyPatch, without: str | None) -> None:
    if without:
        remove(without, monkeypatch.setattr)
    name = make_staff_user().username
    for number in range(settings.AXES_FAILURE_LIMIT):
        assert log_in(name, f"guess {number}", GUESSER) in (401, 429)
    assert log_in(name, PASSWORD, GUESSER) == 429
    assert log_in(name, PASSWORD, COLLEAGUE) == (429 if without else 200)


@pytest.fixture
def neighbour() -> Iterator[tuple[str, list[str]]]:
    """A service of this machine that is no business of a provider's: its address, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@with_and_without("address guard")
async def test_an_answer_does_not_lead_into_this_machine(
    neighbour: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    if without:
        remove(without, monkeypatch.setattr)
    url, asked = neighbour
    transport = GuardedTransport("https://provider.example", None, ssl.create_default_context(), httpx.Limits())
    async with httpx.AsyncClient(transport=transport) as client:
        if without:
            await client.get(f"{url}/secrets")
        else:
            with pytest.raises(AddressRefused):
                await client.get(f"{url}/secrets")
    assert asked == (["/secrets"] if without else [])


@pytest.mark.usefixtures("alone")
@with_and_without("slot's lock")
async def test_a_slot_that_is_being_archived_takes_no_photo(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    """Archiving by force cancels the photos that it finds; one that is admitted meanwhile would be made."""
    if without:
        remove(without, monkeypatch.setattr)
    job = new_job()
    async with queue.database.connection() as staff, staff.transaction():
        await staff.execute("SELECT FROM slots_slot WHERE id = %s FOR UPDATE", (job.slot_id,))
        await staff.execute("UPDATE slots_slot SET archived_at = now() WHERE id = %s", (job.slot_id,))
        admission = asyncio.create_task(queue.admit(job, 30))
        await wait_for_blocked(queue, 1)  # at the foreign key's check at the latest
    if without:
        assert (await admission).job_id == job.id
    else:
        with pytest.raises(SlotArchived):
            await admission
    assert len(await sql(queue, "SELECT id FROM jobs_job")) == (1 if without else 0)
    await sql(queue, "UPDATE slots_slot SET archived_at = NULL WHERE id = %s", job.slot_id)


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["forged", "foreign"])
@with_and_without("signature of a link")
def test_a_link_opens_its_own_picture_alone(
    booth: Booth, monkeypatch: pytest.MonkeyPatch, kind: str, without: str | None
) -> None:
    """Who knows a job's number cannot make its link."""
    if without:
        remove(without, monkeypatch.setattr)
    job, other = make_picture(booth), make_picture(booth)
    value, _, signature = file_url(job).rpartition(":")
    guest = Client()
    assert guest.head(f"{value}:{signature}").status_code == 200
    guessed = signature[::-1] if kind == "forged" else file_url(other).rpartition(":")[2]
    assert guest.head(f"{value}:{guessed}").status_code == (200 if without else 404)


@pytest.mark.e2e
@with_and_without("end of a link")
def test_a_link_that_has_ended_opens_nothing_however_often_it_is_tried(
    booth: Booth, monkeypatch: pytest.MonkeyPatch, without: str | None
) -> None:
    if without:
        remove(without, monkeypatch.setattr)
    job = make_picture(booth)
    Job.objects.filter(pk=job.pk).update(result_expires_at=Now())
    addresses = {file_url(job): 200, f"/r/{job.pk}": 200, f"/public/results/{job.pk}": 307}
    for _ in range(3):
        for address, status in addresses.items():
            assert Client().head(address).status_code == (status if without else 410)
