"""Measurements of the real adapters: the time that the service adds to the provider's, what preparing a photo saves,
and whether a worker's memory grows with the number of jobs."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterator
from functools import partial

from PIL import Image

from bench import service
from bench.booths import Plan
from bench.scenarios import PHOTO_BYTES, Line, Options, quantile
from jobs.models import Job
from photoslot.demo_scene import draw_scene
from providers.base import Picture
from providers.prepare import prepare

BOOTHS = 15
# Seconds. Turbotext is polled at once and then every 2.5 s: this is just before the third poll, so that its figure does
# not depend on how the two intervals meet. A real photo waits up to 2.5 s more for the next poll.
OWN_TIME = {"gemini": 4.0, "openai": 4.0, "turbotext": 4.95}
OVERHEAD_MS = 300.0  # negligible beside the ten seconds and more of the real ones

MEMORY_BOOTHS = 6
EARLY_JOBS = 200
GROWTH_PERCENT = 10.0

CAMERA = (6000, 4000)  # 24 megapixels
UPLINK_BITS = 10_000_000  # a second; a venue's DSL
ACCEPTS = frozenset({"image/jpeg", "image/png", "image/webp"})


def measure_overhead(provider: str, options: Options) -> Iterator[Line]:
    """Fifteen booths that post one photo after the other, starting at different moments."""
    own_time = OWN_TIME[provider]
    service.use_fake_services({provider: own_time})
    with service.run(capacity=BOOTHS) as target:
        plan = Plan(target.url, BOOTHS, PHOTO_BYTES, photos=options.photos // 2 + 1, ramp=own_time)
        samples = service.run_booths(plan)
    # Without the first photos, for which the worker still has to connect.
    added = sorted((s.ended - s.began - own_time) * 1000 for s in sorted(samples)[BOOTHS:])
    p50, p95 = quantile(added, 0.5), quantile(added, 0.95)
    yield Line(
        f"{provider}, {own_time} s: added, p50", "", f"{p50:.0f} ms", f"≤ {OVERHEAD_MS:.0f} ms", p50 <= OVERHEAD_MS
    )
    yield Line(f"  p95 of {len(added)} photos", "", f"{p95:.0f} ms")


def measure_memory(options: Options) -> Iterator[Line]:
    """The worker's memory, with all three providers in turn and no latency."""
    Job.objects.all().delete()
    service.use_fake_services(dict.fromkeys(OWN_TIME, 0.0))
    with service.run(capacity=MEMORY_BOOTHS) as target:
        early = _measure_memory_after(target, EARLY_JOBS)
        late = _measure_memory_after(target, options.jobs - EARLY_JOBS)
    growth = (late / early - 1) * 100
    yield Line(f"worker after {EARLY_JOBS} jobs", "", f"{early:.0f} MB")
    label, limit = f"worker after {options.jobs:,} jobs", f"≤ +{GROWTH_PERCENT:.0f} %"
    yield Line(label, "", f"{late:.0f} MB ({growth:+.0f} %)", limit, growth <= GROWTH_PERCENT)


def _measure_memory_after(target: service.Target, jobs: int) -> float:
    service.run_booths(Plan(target.url, MEMORY_BOOTHS, PHOTO_BYTES, photos=jobs // MEMORY_BOOTHS + 1))
    return target.processes["worker"].memory_mb()


def measure_preparation(options: Options) -> Iterator[Line]:
    """A camera's JPEG, prepared for a picture of 1K (Gemini, OpenAI) and for one of 2K (Gemini)."""
    photo = Picture(_make_camera_jpeg(), "image/jpeg")
    for side in (2048, 3000):
        began = time.perf_counter()
        prepared = prepare(photo, max_side=side, accepts=ACCEPTS)
        seconds = time.perf_counter() - began
        saved = (len(photo.data) - len(prepared.data)) * 8 / UPLINK_BITS
        sizes = f"{len(photo.data) / 1e6:.1f} → {len(prepared.data) / 1e6:.2f} MB"
        yield Line(f"24 MP JPEG for {side} px", "", sizes)
        yield Line(f"  takes; saves at {UPLINK_BITS // 10**6} Mbit/s", "", f"{seconds:.2f}; {saved:.1f} s")


def _make_camera_jpeg() -> bytes:
    """With a camera's grain, and so of the size of a camera's file."""
    grain = Image.frombytes("L", CAMERA, random.Random(1).randbytes(CAMERA[0] * CAMERA[1])).convert("RGB")
    out = io.BytesIO()
    Image.blend(draw_scene(*CAMERA), grain, 0.04).save(out, "JPEG", quality=95)
    return out.getvalue()


SCENARIOS: dict[str, Callable[[Options], Iterator[Line]]] = {
    **{provider: partial(measure_overhead, provider) for provider in OWN_TIME},
    "memory": measure_memory,
    "prepare": measure_preparation,
}
