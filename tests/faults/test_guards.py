"""Each guard can be removed, and one that has moved is noticed."""

from __future__ import annotations

import pytest

from tests.faults import unguarded
from tests.faults.unguarded import GUARDS, Cut, remove

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("guard", GUARDS)
def test_it_is_where_it_is_said_to_be(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(guard, monkeypatch.setattr)


def test_a_guard_that_has_moved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = {"moved": [Cut("jobs.queue.verbs:Queue.claim", "what is not there")]}
    monkeypatch.setattr(unguarded, "GUARDS", moved)
    with pytest.raises(LookupError, match="moved"):
        remove("moved", monkeypatch.setattr)
