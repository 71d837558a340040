"""A short storm; a long one is `make storm`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.conf import settings

pytestmark = pytest.mark.e2e


def test_a_short_storm_violates_nothing() -> None:
    command = [sys.executable, "-m", "tests.faults.storm", "--photos", "300", "--seed", "1", "--minutes", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "TEST_DATABASE_URL"}
    storm = subprocess.run(
        command, cwd=settings.BASE_DIR, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert storm.returncode == 0, storm.stdout + storm.stderr
