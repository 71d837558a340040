"""Thumbnails when the worker leaves: a few are still made, an evening's are not waited for."""

from __future__ import annotations

import uuid

import pytest

from jobs.storage import files, thumbnails
from jobs.storage.thumbnails import Thumbnails
from tests.conftest import jpeg

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]


def made_of(count: int, photo: bytes) -> int:
    """How many of so many results have one, after a rush and the worker's end."""
    maker, jobs = Thumbnails(), [uuid.uuid4() for _ in range(count)]
    maker.pause()
    for job_id in jobs:
        path = files.result_path(job_id, "image/jpeg")
        files.save(path, photo)
        maker.schedule(job_id, path)
    maker.close()
    return sum(files.size(files.thumbnail_path(job_id)) is not None for job_id in jobs)


def test_what_goes_quickly_is_still_made() -> None:
    assert made_of(3, jpeg()) == 3


def test_a_long_backlog_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "CLOSE_SECONDS", 0.1)
    assert 0 < made_of(60, jpeg(3000, 2000)) < 60
