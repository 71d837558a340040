"""What a provider's models can do and cost, as data: one JSON file per provider, each figure with its date and source.

    {"models": {"<id>": {"status": "current" | "retired", "retired_on": "2026-10-29", "use_instead": ["<id>"],
                         "released_on": "2026-10-07", "source": "…", …what the provider's adapter reads…}}}

A model with a `retired_on` in the future is usable until that day (UTC).

An operator can add or correct a model without a release: a file of the same name and shape in the folder
PROVIDER_CATALOGUE_DIR is merged over ours, model by model.
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

from providers.faults import validation_error

HERE = Path(__file__).parent


@cache
def load_models(provider_id: str) -> dict[str, dict[str, Any]]:
    """All models of the provider by id, retired ones included."""
    known: dict[str, dict[str, Any]] = json.loads((HERE / f"{provider_id}.json").read_text())["models"]
    folder = settings.PROVIDER_CATALOGUE_DIR
    override = Path(folder) / f"{provider_id}.json" if folder else None
    if override and override.exists():
        for model, facts in json.loads(override.read_text())["models"].items():
            known[model] = known.get(model, {}) | facts
    return known


def get_usable(provider_id: str, model: str) -> dict[str, Any]:
    """The model's facts. Raises a `ValueError` that names the alternatives if it is unknown or retired."""
    known = load_models(provider_id)
    facts = known.get(model)
    if facts is not None and _is_current(facts):
        return facts
    if facts is None:
        alternatives = ", ".join(sorted(list_current(provider_id)))
        raise validation_error(_("%(model)s is not known. Use: %(instead)s"), model=model, instead=alternatives)
    raise validation_error(
        _("%(model)s was retired on %(date)s. Use: %(instead)s"),
        model=model,
        date=facts["retired_on"],
        instead=", ".join(facts["use_instead"]),
    )


def list_current(provider_id: str) -> list[str]:
    """The models that may be used today, in the catalogue's order."""
    return [model for model, facts in load_models(provider_id).items() if _is_current(facts)]


def offer(provider_id: str) -> Callable[[dict[str, Any]], None]:
    """For a `model` setting's `json_schema_extra`: adds the models that may be used today to its schema."""
    return lambda schema: schema.update(enum=list_current(provider_id))


def _is_current(facts: dict[str, Any]) -> bool:
    today = datetime.now(UTC).date().isoformat()
    return bool(facts["status"] == "current" and facts.get("retired_on", "9999") > today)
