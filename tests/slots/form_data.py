"""What a browser posts from the slot's page."""

from __future__ import annotations

import json
from typing import Any

from django.urls import reverse
from django.utils import timezone

from core.admin import VersionedForm, _make_digest
from slots.models import Slot

ADD = reverse("admin:slots_slot_add")


def change_url(slot_id: str = "slot-001") -> str:
    return reverse("admin:slots_slot_change", args=[slot_id])


def make_version(slot_id: str = "slot-001") -> str:
    """The hidden field of the slot's page as it is opened now."""
    slot = Slot.objects.get(pk=slot_id)
    digest = _make_digest([slot, *slot.bindings.order_by("pk")], VersionedForm.unversioned)
    return f"{timezone.now().isoformat()} {digest}"


def slot_page(recipe: str = "studio/image_edit", bindings: Any = (), **more: Any) -> dict[str, Any]:
    """Of slot-001, opened now, without any setting; each binding is a dict of its row's fields."""
    rows = {f"bindings-{n}-{field}": value for n, row in enumerate(bindings) for field, value in row.items()}
    saved = sum("id" in row for row in bindings)
    totals = {"bindings-TOTAL_FORMS": len(bindings), "bindings-INITIAL_FORMS": saved}
    page = {"version": make_version(), "name": "New", "is_active": "on", "recipe": recipe}
    return page | totals | rows | more


def settings(**values: Any) -> dict[str, Any]:
    """The settings' fields; `output__width` is the one of `output.width`."""
    return {f"settings.{name.replace('__', '.')}": value for name, value in values.items()}


def paste_settings(settings_json: Any) -> dict[str, str]:
    return {"settings_json": settings_json if isinstance(settings_json, str) else json.dumps(settings_json)}
