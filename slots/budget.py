"""How much of its `daily_budget` a slot has spent today (UTC), for staff and metrics. Admission and the limits of calls
read it in their own SQL."""

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
    """US dollars. `unpriced` counts the calls whose cost is unknown; a failed call costs nothing."""

    spent: Decimal
    limit: Decimal
    unpriced: int

    @property
    def share(self) -> float:
        return float(self.spent / self.limit)

    @property
    def level(self) -> int:
        """The warning level reached, in per cent: 0, 50, 80 or 100."""
        return max(level for level in (0, 50, 80, 100) if self.share * 100 >= level)


def load_budgets(slots: Iterable[Slot]) -> dict[str, Budget]:
    """Today's budgets by slot id, of those slots that have one."""
    limits = {slot.pk: limit for slot in slots if (limit := slot.settings_json.get("daily_budget"))}
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    calls = ProviderCall.objects.filter(slot_id__in=limits, at__gte=midnight, ended_at__isnull=False).order_by()
    unpriced = Count("id", filter=Q(cost_usd=None) & ~Q(outcome=ProviderCall.Outcome.FAILED))
    found = {row["slot_id"]: row for row in calls.values("slot_id").annotate(spent=Sum("cost_usd"), unpriced=unpriced)}
    no_calls = {"spent": None, "unpriced": 0}
    return {slot_id: _make_budget(limit, found.get(slot_id, no_calls)) for slot_id, limit in limits.items()}


def _make_budget(limit: float, row: Mapping[str, Any]) -> Budget:
    return Budget(row["spent"] or Decimal(), Decimal(str(limit)), row["unpriced"])
