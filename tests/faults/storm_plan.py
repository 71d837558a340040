"""What a storm will do, drawn from its seed before it begins: every photo, and every fault with its moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

WAIT_SECONDS = 10  # how long a booth waits: the least that staff may set
LONGEST_PAUSE = 2.0  # seconds, of a provider; the shorter, the more photos in the same time
STORM_PROMPT = "{name}"  # of each slot: the post's name, by which the sandbox knows photo and job

Settings = Mapping[str, Any]
_INSTANT: Settings = {"scenario": STORM_PROMPT}
_FALLBACK: Settings = {"provider_id": "instant", "operation_id": "image_edit", "settings_json": _INSTANT}

# (provider, settings, share of the photos). The paid providers' pictures have a megapixel: dear on two cores.
SLOTS: tuple[tuple[str, Settings, int], ...] = (
    ("instant", _INSTANT, 8),
    ("instant", {**_INSTANT, "retry": {"repeat_ambiguous": True}}, 4),
    ("instant", {**_INSTANT, "on_failure": "original"}, 4),
    ("instant", {**_INSTANT, "finish_late": True}, 3),
    ("instant", {**_INSTANT, "max_concurrent": 6}, 4),
    ("queued", _INSTANT, 8),
    ("queued", {**_INSTANT, "fallback": _FALLBACK, "on_failure": "original"}, 4),
    ("fetching", _INSTANT, 3),
    ("turbotext", {"prompt": STORM_PROMPT, "fallback": _FALLBACK}, 3),
    ("gemini", {"prompt": STORM_PROMPT, "image_size": "512"}, 1),
    ("openai", {"prompt": STORM_PROMPT, "fallback": _FALLBACK}, 1),
)
# An account's limits; the others have none. `queued` and `turbotext` have a queue of their own.
LIMITS: Mapping[str, Mapping[str, int]] = {
    "queued": {"max_concurrent": 16},
    "turbotext": {"max_concurrent": 6, "per_minute": 600},
    "fetching": {"per_minute": 300},
}
# What the provider plays, by weight. `busy` once, then the picture; `lost`: made and billed, the answer does not come.
KINDS = {"ok": 88, "busy": 5, "refused": 2, "lost": 3, "late": 1, "hang": 1}
BILLED = {"ok", "lost", "late", "hang"}
# What the booth does, by weight: hang up and post again; post the same photo three times at once.
BOOTHS = {"waits": 88, "hangs_up": 6, "posts_thrice": 6}


@dataclass(frozen=True, slots=True)
class Photo:
    number: int
    slot: int  # of SLOTS
    kind: str  # of KINDS
    pause: float  # seconds that the provider takes
    booth: str  # of BOOTHS
    hang_up: float  # seconds after which an impatient booth hangs up

    @property
    def slot_id(self) -> str:
        return f"slot-{self.slot + 1:03}"


@dataclass(frozen=True, slots=True)
class Fault:
    at: float  # seconds after the storm's beginning
    name: str  # of storm_faults.FAULTS
    target: int  # of the processes it may hit
    seconds: float  # how long it lasts, where it lasts
    variant: float  # 0 to 1, for what else there is to choose


def draw_photos(seed: int, count: int) -> list[Photo]:
    random = Random(f"photos {seed}")
    weights = [share for _, _, share in SLOTS]

    def draw(number: int) -> Photo:
        slot = random.choices(range(len(SLOTS)), weights)[0]
        kind = random.choices([*KINDS], [*KINDS.values()])[0]
        pause = min(random.expovariate(2.5), LONGEST_PAUSE)
        booth = random.choices([*BOOTHS], [*BOOTHS.values()])[0]
        if kind == "hang" and "finish_late" in SLOTS[slot][1]:
            kind = "late"  # or it would be waited for two minutes more
        return Photo(number, slot, kind, pause, booth, random.uniform(0.1, 4))

    return [draw(number) for number in range(count)]


def draw_faults(seed: int, seconds: float, names: Mapping[str, int], every: float = 3.0) -> list[Fault]:
    """`names`: the faults by weight. One comes every so many seconds on average."""
    random = Random(f"faults {seed}")
    faults: list[Fault] = []
    at = 2.0
    while at < seconds:
        name = random.choices([*names], [*names.values()])[0]
        faults.append(Fault(at, name, random.randrange(2), random.uniform(0.5, 7), random.random()))
        at += random.expovariate(1 / every)
    return faults
