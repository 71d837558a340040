"""What staff change while a photo is under way does not reach it: it has a copy of its slot, and was admitted."""

from __future__ import annotations

import pytest
from django.contrib.auth.hashers import make_password

from ingest.models import IngestSettings
from jobs.models import Job
from slots.models import Slot
from tests.conftest import Booth, Processes, in_background, jpeg, use_sandbox
from tests.faults.guards import with_and_without
from tests.ingest.helpers import eventually, refusal
from tests.sandbox.server import developed

pytestmark = pytest.mark.e2e


@with_and_without("slot's copy")
def test_a_photo_keeps_what_it_was_posted_with(processes: Processes, without: str | None) -> None:
    use_sandbox("instant")
    processes.web()
    booth = Booth(processes.url)
    reply = in_background(lambda: booth.post(jpeg()))
    eventually(Job.objects.exists)
    use_sandbox("instant", "refuses")
    Slot.objects.filter(pk="slot-001").archive()
    IngestSettings.objects.update(password_hash=make_password("another one"))
    processes.without = without
    processes.worker()
    if without:
        refusal(reply(), 502, "provider_error")
    else:
        assert reply().body == developed(jpeg())
