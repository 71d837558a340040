"""What is measured of the providers: the time that the service adds to theirs, what preparing a photo saves, and
whether a worker that has made many pictures is as small as it was."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterator
from functools import partial

from PIL import Image

from bench import stage
from bench.booths import Plan
from bench.scenarios import PHOTO_BYTES, Line, Options, quantile
from jobs.models import Job
from photoslot.demo_scene import scene
from providers.base import Picture
from providers.prepare import prepare

BOOTHS = 15
# Seconds. Turbotext is asked at once and then every 2.5 s: this is a moment before it is asked for the third time, so
# that its figure does not depend on how the two fall together. A real photo waits up to 2.5 s more for the next look.
OWN_TIME = {"gemini": 4.0, "openai": 4.0, "turbotext": 4.95}
OVERHEAD_MS = 300.0  # beside the ten seconds and more that the real ones take, nobody sees it

MEMORY_BOOTHS = 6
EARLY_JOBS = 200
GROWTH_PERCENT = 10.0

CAMERA = (6000, 4000)  # 24 megapixels
UPLINK_BITS = 10_000_000  # a second; a venue's DSL
ACCEPTS = frozenset({"image/jpeg", "image/png", "image/webp"})


def overhead(provider: str, options: Options) -> Iterator[Line]:
    """Fifteen booths that post one photo after the other, and begin at different moments."""
    own_time = OWN_TIME[provider]
    stage.use_services({provider: own_time})
    with stage.service(places=BOOTHS) as target:
        plan = Plan(target.url, BOOTHS, PHOTO_BYTES, photos=options.photos // 2 + 1, ramp=own_time)
        samples = stage.run_booths(plan)
    # The first photos find a worker that has not connected yet.
    added = sorted((s.ended - s.began - own_time) * 1000 for s in sorted(samples)[BOOTHS:])
    p50, p95 = quantile(added, 0.5), quantile(added, 0.95)
    yield Line(
        f"{provider}, {own_time} s: added, p50", "", f"{p50:.0f} ms", f"≤ {OVERHEAD_MS:.0f} ms", p50 <= OVERHEAD_MS
    )
    yield Line(f"  p95 of {len(added)} photos", "", f"{p95:.0f} ms")


def memory(options: Options) -> Iterator[Line]:
    """The worker's, with all three providers in turn and no waiting."""
    Job.objects.all().delete()
    stage.use_services(dict.fromkeys(OWN_TIME, 0.0))
    with stage.service(places=MEMORY_BOOTHS) as target:
        early = _memory_after(target, EARLY_JOBS)
        late = _memory_after(target, options.jobs - EARLY_JOBS)
    growth = (late / early - 1) * 100
    yield Line(f"worker after {EARLY_JOBS} jobs", "", f"{early:.0f} MB")
    label, limit = f"worker after {options.jobs:,} jobs", f"≤ +{GROWTH_PERCENT:.0f} %"
    yield Line(label, "", f"{late:.0f} MB ({growth:+.0f} %)", limit, growth <= GROWTH_PERCENT)


def _memory_after(target: stage.Target, jobs: int) -> float:
    stage.run_booths(Plan(target.url, MEMORY_BOOTHS, PHOTO_BYTES, photos=jobs // MEMORY_BOOTHS + 1))
    return target.processes["worker"].memory_mb()


def time_preparation(options: Options) -> Iterator[Line]:
    """One camera's JPEG, as Gemini and OpenAI get it for a picture of 1K, and Gemini for one of 2K."""
    photo = Picture(_camera_jpeg(), "image/jpeg")
    for side in (2048, 3000):
        began = time.perf_counter()
        ready = prepare(photo, max_side=side, accepts=ACCEPTS)
        seconds = time.perf_counter() - began
        saved = (len(photo.data) - len(ready.data)) * 8 / UPLINK_BITS
        sizes = f"{len(photo.data) / 1e6:.1f} → {len(ready.data) / 1e6:.2f} MB"
        yield Line(f"24 MP JPEG for {side} px", "", sizes)
        yield Line(f"  takes; saves at {UPLINK_BITS // 10**6} Mbit/s", "", f"{seconds:.2f}; {saved:.1f} s")


def _camera_jpeg() -> bytes:
    """With a grain as a camera's, and so of a camera's size."""
    grain = Image.frombytes("L", CAMERA, random.Random(1).randbytes(CAMERA[0] * CAMERA[1])).convert("RGB")
    out = io.BytesIO()
    Image.blend(scene(*CAMERA), grain, 0.04).save(out, "JPEG", quality=95)
    return out.getvalue()


SCENARIOS: dict[str, Callable[[Options], Iterator[Line]]] = {
    **{provider: partial(overhead, provider) for provider in OWN_TIME},
    "memory": memory,
    "prepare": time_preparation,
}
