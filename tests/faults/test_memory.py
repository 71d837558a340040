"""Large pictures, and answers that inflate: what they take of a process's memory at most, and who waits for them."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.models import Job
from providers.models import ProviderAccount
from tests.conftest import Booth, Processes, in_background, jpeg, set_slot
from tests.faults.guards import with_and_without
from tests.ingest.helpers import eventually
from tests.providers.end_to_end.harness import KEYS, SPEAKERS
from tests.sandbox.wire import WireSandbox
from tests.slots.factories import bind, draw_frame

pytestmark = pytest.mark.e2e

WEB_MB, WORKER_MB = 400, 1024
CHILD_MB = 800  # for a PNG or JPEG of LARGE: one at a time
LARGE = (12_500, 8_000)  # 100 megapixels, the most that is taken
SAMPLE_SECONDS = 0.02


@cache
def large_png(colour: str) -> bytes:
    return encode(Image.new("RGB", LARGE, colour), "PNG", compress_level=1)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


COLOURS = ("red", "green", "blue", "gold", "teal", "navy", "pink", "gray")


def list_family(pid: int) -> Iterator[int]:
    """The process and those that it has started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from list_family(int(child))


def measure_mb(pid: int, *, with_children: bool = False) -> float:
    """The memory of the process, or of those that it has started for large pictures too."""
    total = 0
    try:
        for each in list_family(pid) if with_children else [pid]:
            status = Path(f"/proc/{each}/status").read_text()
            total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    except (FileNotFoundError, ProcessLookupError):
        pass  # a child ended meanwhile
    return total / 1024


class Peak:
    """The largest memory so far, in MB."""

    own = 0.0
    family = 0.0  # with the children


@contextmanager
def watch(pid: int) -> Iterator[Peak]:
    peak = Peak()
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak.own = max(peak.own, measure_mb(pid))
            peak.family = max(peak.family, measure_mb(pid, with_children=True))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        print(f"peak: {peak.own:.0f} MB, with children {peak.family:.0f} MB")  # noqa: T201 - shown when a test fails


def post_at_once(booth: Booth, photos: list[bytes], slot: str = "slot-001") -> list[Any]:
    replies = [in_background(partial(booth.post, photo, slot)) for photo in photos]
    return [reply() for reply in replies]


@pytest.fixture
def booth(processes: Processes) -> Booth:
    return Booth(processes.url)


@with_and_without("pixels at once")
def test_four_large_photos_at_once_leave_a_worker_small(
    processes: Processes, booth: Booth, without: str | None
) -> None:
    processes.web()
    processes.without = without
    worker = processes.worker()
    set_slot(provider_id="studio", operation_id="image_edit", settings_json={"look": "cinematic"})
    booth.post(jpeg())
    before = measure_mb(worker.pid)
    with watch(worker.pid) as peak:
        replies = post_at_once(booth, [large_png(colour) for colour in COLOURS[:4]])
    assert [reply.status for reply in replies] == [200] * 4
    if without:
        assert peak.family > WORKER_MB
        return
    assert peak.family < WORKER_MB
    assert measure_mb(worker.pid) < before + 100


def test_a_small_photo_does_not_wait_for_large_ones(processes: Processes, booth: Booth) -> None:
    processes.web()
    processes.worker(WORKER_CONCURRENCY="6")
    set_slot(provider_id="studio", operation_id="image_edit", settings_json={"look": "sepia"})
    set_slot("slot-002", provider_id="studio", operation_id="image_edit", settings_json={"look": "sepia"})
    booth.post(jpeg())
    large = [in_background(partial(booth.post, large_png(colour))) for colour in COLOURS[:4]]
    assert eventually(lambda: Job.objects.filter(status="processing").count() >= 3)  # two of them, and the first photo
    started = time.monotonic()
    assert booth.post(jpeg(1800, 1200), "slot-002").status == 200
    seconds = time.monotonic() - started
    assert [reply().status for reply in large] == [200] * 4
    assert seconds < (time.monotonic() - started) / 2


@pytest.mark.parametrize("frame", [None, (1200, 800)])
def test_eight_large_photos_that_come_back_leave_the_web_process_small(
    processes: Processes, booth: Booth, frame: tuple[int, int] | None
) -> None:
    web = processes.web()
    processes.worker()
    more = {"frame": "border"} if frame else {}
    if frame:
        bind(draw_frame(*frame, border=50))
    recipe = {"scenario": "refuses", "on_failure": "original", **more}
    set_slot(provider_id="instant", operation_id="image_edit", settings_json=recipe)
    booth.post(jpeg())
    with watch(web.pid) as peak:
        replies = post_at_once(booth, [large_png(colour) for colour in COLOURS])
    assert [(reply.status, reply.headers["x-outcome"]) for reply in replies] == [(200, "original")] * 8
    assert peak.own < WEB_MB
    assert peak.family < WEB_MB + CHILD_MB


@pytest.fixture
def wire() -> Iterator[WireSandbox]:
    with WireSandbox(SPEAKERS).run() as running:
        yield running


@pytest.mark.parametrize("scenario", ["bomb:3000", "bomb:3000 once"])
def test_an_answer_that_inflates_is_cut_off(
    processes: Processes, booth: Booth, wire: WireSandbox, scenario: str
) -> None:
    processes.web()
    worker = processes.worker()
    account = ProviderAccount(provider_id="openai", base_url=f"{wire.url}/openai/v1")
    account.set_key(KEYS["openai"])
    account.save()
    set_slot(provider_id="openai", operation_id="image_edit", settings_json={"prompt": f"Oil [[{scenario}]]"})
    with watch(worker.pid) as peak:
        reply = booth.post(jpeg())
    assert reply.status == 502
    assert b'"no_image"' in reply.body
    assert peak.own < WORKER_MB / 2
