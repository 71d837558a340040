"""How much of its `daily_budget` a slot has spent today (UTC), for staff and metrics. The door and the limits ask for
themselves, in their own statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db.models import Count, Q, Sum

from providers.models import ProviderCall
from slots.models import Slot


@dataclass(frozen=True, slots=True)
class Budget:
    """US dollars. `unpriced` calls may have cost something that nobody knows; for one that failed nothing is owed."""

    spent: Decimal
    limit: Decimal
    unpriced: int

    @property
    def share(self) -> float:
        return float(self.spent / self.limit)

    @property
    def level(self) -> int:
        """What staff are told: 0, 50, 80 or 100 per cent reached."""
        return max(level for level in (0, 50, 80, 100) if self.share * 100 >= level)


def today(slots: Iterable[Slot]) -> dict[str, Budget]:
    """By slot id, of those slots that have a budget."""
    limits = {slot.pk: limit for slot in slots if (limit := slot.settings_json.get("daily_budget"))}
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    calls = ProviderCall.objects.filter(slot_id__in=limits, at__gte=midnight, ended_at__isnull=False).order_by()
    unpriced = Count("id", filter=Q(cost_usd=None) & ~Q(outcome=ProviderCall.Outcome.FAILED))
    found = {row["slot_id"]: row for row in calls.values("slot_id").annotate(spent=Sum("cost_usd"), unpriced=unpriced)}
    nothing = {"spent": None, "unpriced": 0}
    return {slot_id: _budget(limit, found.get(slot_id, nothing)) for slot_id, limit in limits.items()}


def _budget(limit: float, row: Mapping[str, Any]) -> Budget:
    return Budget(row["spent"] or Decimal(), Decimal(str(limit)), row["unpriced"])
