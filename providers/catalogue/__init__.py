"""What a provider's models can do and cost, as data: one JSON file a provider, every figure with its date and source.

    {"models": {"<id>": {"status": "current" | "retired", "retired_on": "2026-10-29", "use_instead": ["<id>"],
                         "released_on": "2026-10-07", "source": "…", …what the provider's adapter asks for…}}}

A model with a `retired_on` in the future is usable until that day (UTC).

An operator can add a model, or correct one, without a release: a file of the same name and shape in the folder that
PROVIDER_CATALOGUE_DIR names is laid over ours, model by model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_noop as _

from providers.faults import fault

HERE = Path(__file__).parent


@cache
def models(provider_id: str) -> dict[str, dict[str, Any]]:
    """All models of the provider by id, retired ones included."""
    known: dict[str, dict[str, Any]] = json.loads((HERE / f"{provider_id}.json").read_text())["models"]
    folder = settings.PROVIDER_CATALOGUE_DIR
    own = Path(folder) / f"{provider_id}.json" if folder else None
    if own and own.exists():
        for model, facts in json.loads(own.read_text())["models"].items():
            known[model] = known.get(model, {}) | facts
    return known


def usable(provider_id: str, model: str) -> dict[str, Any]:
    """The model's facts. Raises `ValueError` that names the alternatives where it is unknown or retired."""
    known = models(provider_id)
    facts = known.get(model)
    if facts is not None and _is_current(facts):
        return facts
    if facts is None:
        instead = ", ".join(sorted(current(provider_id)))
        raise fault(_("%(model)s is not known. Use: %(instead)s"), model=model, instead=instead)
    raise fault(
        _("%(model)s was retired on %(date)s. Use: %(instead)s"),
        model=model,
        date=facts["retired_on"],
        instead=", ".join(facts["use_instead"]),
    )


def current(provider_id: str) -> list[str]:
    """The models that may be used today, in the catalogue's order."""
    return [model for model, facts in models(provider_id).items() if _is_current(facts)]


def offer(provider_id: str) -> Callable[[dict[str, Any]], None]:
    """For a `model` setting's `json_schema_extra`: its schema names the models that may be used today."""
    return lambda schema: schema.update(enum=current(provider_id))


def _is_current(facts: dict[str, Any]) -> bool:
    today = datetime.now(UTC).date().isoformat()
    return bool(facts["status"] == "current" and facts.get("retired_on", "9999") > today)
