"""Thumbnails at the worker's shutdown: a few are still made, a long backlog is not waited for."""

from __future__ import annotations

from uuid import uuid4

import pytest

from jobs.storage import files, thumbnails
from jobs.storage.thumbnails import Thumbnails
from tests.conftest import jpeg

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]


def count_made(count: int, photo: bytes) -> int:
    """How many of `count` results have a thumbnail, if all were scheduled before the worker's shutdown."""
    maker, results = Thumbnails(), [files.result_path(uuid4(), uuid4(), "image/jpeg") for _ in range(count)]
    maker.pause()
    for path in results:
        files.save(path, photo)
        maker.schedule(path)
    maker.close()
    return sum(files.size(files.thumbnail_path(path)) is not None for path in results)


def test_a_short_backlog_is_still_made() -> None:
    assert count_made(3, jpeg()) == 3


def test_a_long_backlog_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "CLOSE_SECONDS", 0.1)
    assert 0 < count_made(60, jpeg(3000, 2000)) < 60
