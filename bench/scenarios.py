"""The scenarios, each a function that yields its lines of the table.

The machine's other load varies, so floor and service are measured alternately, and medians are compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from django.db.models import F

from bench import service
from bench.booths import Plan, Sample
from bench.service import Target
from jobs.models import Job

LATENCY = 0.5  # seconds; the fake provider's
PHOTO_BYTES = 1_870_000
SMALL_PHOTO_BYTES = 68_000  # so that many booths wait for the provider, not for the loopback device

OVERHEAD_MS = 40.0  # at most this much above the floor
SHARE_PERCENT = 65.0  # of the floor's photos a second
PICK_UP_MS = 5.0
HELD_LATENCY = 10.0
HELD_PER_SECOND = 60.0  # how quickly the booths arrive


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    photos: int  # of one booth in one round
    held: int  # booths that wait at the same time
    jobs: int  # that a worker has run when its memory is measured
    seeded: int  # jobs in the database when the API is measured
    requests: int  # for each of its figures


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. `reached`: whether the figure meets its target; None: it has none."""

    label: str
    floor: str = ""
    ours: str = ""
    target: str = ""
    reached: bool | None = None
    note: str = ""


def measure_one_booth(options: Options) -> Iterator[Line]:
    """What the service adds to the provider's time when nothing else runs."""
    measured: dict[str, list[float]] = {"floor": [], "ours": []}
    with _run_both(capacity=12) as targets:
        for name, target in _alternate(targets, options.rounds):
            samples = service.run_booths(Plan(target.url, 1, PHOTO_BYTES, options.photos + 1))
            measured[name] += [(s.ended - s.began - LATENCY) * 1000 for s in samples[1:]]  # the first one connects
    floor, ours = (quantile(measured[name], 0.5) for name in ("floor", "ours"))
    target_text = f"≤ floor + {OVERHEAD_MS:.0f} ms"
    reached = ours - floor <= OVERHEAD_MS
    yield Line(
        "one booth, overhead p50", f"{floor:.0f} ms", f"{ours:.0f} (+{ours - floor:.0f}) ms", target_text, reached
    )
    floor, ours = (quantile(measured[name], 0.95) for name in ("floor", "ours"))
    yield Line("one booth, overhead p95", f"{floor:.0f} ms", f"{ours:.0f} (+{ours - floor:.0f}) ms")


def measure_fifteen_booths(options: Options) -> Iterator[Line]:
    yield from _measure_throughput(options, 15)


def measure_sixty_booths(options: Options) -> Iterator[Line]:
    yield from _measure_throughput(options, 60)


def measure_held(options: Options) -> Iterator[Line]:
    """Booths that all wait for a slow provider at the same time."""
    service.set_latency(HELD_LATENCY)
    Job.objects.all().delete()
    with service.run(capacity=options.held) as target:
        samples = service.run_booths(
            Plan(target.url, options.held, SMALL_PHOTO_BYTES, photos=1, ramp=options.held / HELD_PER_SECOND)
        )
        memory = {name: running.peak_memory_mb() for name, running in target.processes.items()}
    repeated = Job.objects.filter(claims__gt=1).count()
    at_once = max(_count_waiting(samples, sample.began) for sample in samples)
    longest = max(sample.ended - sample.began for sample in samples)
    yield Line(f"{options.held} booths held, answered", "", str(len(samples)), "all", len(samples) == options.held)
    yield Line("  taken up twice (and so paid twice)", "", str(repeated), "0", repeated == 0)
    yield Line("  at once; longest wait", "", f"{at_once}; {longest:.1f} s")
    yield Line("  peak memory, web + worker", "", f"{memory['web']:.0f} + {memory['worker']:.0f} MB")


def measure_pick_up(options: Options) -> Iterator[Line]:
    """From admission to claim while the worker is idle, by the database's clock."""
    service.set_latency(0.05)
    Job.objects.all().delete()
    with service.run(capacity=12) as target:
        service.run_booths(Plan(target.url, 1, SMALL_PHOTO_BYTES, photos=4 * options.photos + 1))
    jobs = Job.objects.annotate(waited=F("claimed_at") - F("created_at")).order_by("created_at")
    waits = [waited.total_seconds() * 1000 for waited in jobs.values_list("waited", flat=True)[1:]]
    p50 = quantile(waits, 0.5)
    yield Line("idle pick-up of a job, p50", "", f"{p50:.1f} ms", f"≤ {PICK_UP_MS:.0f} ms", p50 <= PICK_UP_MS)
    yield Line("idle pick-up of a job, p95", "", f"{quantile(waits, 0.95):.1f} ms")


SCENARIOS: dict[str, Callable[[Options], Iterator[Line]]] = {
    "one": measure_one_booth,
    "fifteen": measure_fifteen_booths,
    "sixty": measure_sixty_booths,
    "held": measure_held,
    "pick-up": measure_pick_up,
}


def _measure_throughput(options: Options, booths: int) -> Iterator[Line]:
    """Photos a second from the first post to the last picture, and the CPU time that each cost."""
    measured: dict[str, list[tuple[float, float]]] = {"floor": [], "ours": []}
    photos = max(3, options.photos * 15 // booths)
    with _run_both(capacity=booths) as targets:
        for name, target in _alternate(targets, options.rounds):
            before = _sum_cpu_seconds(target)
            samples = service.run_booths(Plan(target.url, booths, PHOTO_BYTES, photos))
            cpu = (_sum_cpu_seconds(target) - before) * 1000 / len(samples)
            measured[name].append((len(samples) / max(sample.ended for sample in samples), cpu))
    (floor, floor_cpu), (ours, ours_cpu) = (_compute_medians(measured[name]) for name in ("floor", "ours"))
    share = ours / floor * 100
    yield Line(
        f"{booths} booths, photos/s",
        f"{floor:.1f}",
        f"{ours:.1f} ({share:.0f} %)",
        f"≥ {SHARE_PERCENT:.0f} %",
        share >= SHARE_PERCENT,
    )
    yield Line("  CPU a photo, without Postgres", f"{floor_cpu:.0f} ms", f"{ours_cpu:.0f} ms")


@contextmanager
def _run_both(capacity: int) -> Iterator[dict[str, Target]]:
    service.set_latency(LATENCY)
    with service.run_floor(LATENCY) as floor, service.run(capacity) as ours:
        yield {"floor": floor, "ours": ours}


def _alternate(targets: dict[str, Target], rounds: int) -> Iterator[tuple[str, Target]]:
    for _ in range(rounds):
        yield from targets.items()


def _sum_cpu_seconds(target: Target) -> float:
    return sum(running.cpu_seconds() for running in target.processes.values())


def _count_waiting(samples: Sequence[Sample], moment: float) -> int:
    return sum(sample.began <= moment < sample.ended for sample in samples)


def _compute_medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(first for first, _ in pairs), statistics.median(second for _, second in pairs)


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
