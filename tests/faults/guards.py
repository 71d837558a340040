"""For tests that first show the damage with a guard removed."""

from __future__ import annotations

import pytest

from tests.faults.unguarded import GUARDS


def with_and_without(guard: str) -> pytest.MarkDecorator:
    """Runs the test twice: `without` is None, and then the guard, whose damage it must see."""
    assert guard in GUARDS
    return pytest.mark.parametrize("without", [None, guard], ids=["guarded", "unguarded"])
