"""The happy way: a photo in, its picture out."""

from __future__ import annotations

import pytest

from jobs.models import Job
from stats.models import HourlyCounter, ProcessingLog
from tests.conftest import Booth, jpeg, stored_files, use_sandbox
from tests.sandbox.server import developed

pytestmark = [pytest.mark.contract]


def test_the_picture_comes_back_in_the_same_answer(booth: Booth) -> None:
    use_sandbox("instant")
    reply = booth.post(jpeg())
    assert reply.status == 200
    assert reply.body == developed(jpeg())
    job = Job.objects.get()
    assert stored_files() == [job.result_file_path]
    steps = ProcessingLog.objects.order_by("id").values_list("status", flat=True)
    assert list(steps) == ["received", "dispatched", "provider_responded", "succeeded"]
    assert HourlyCounter.objects.get().success == 1
