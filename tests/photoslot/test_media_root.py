"""Who may look into MEDIA_ROOT: a file's name is all that a guest needs to fetch it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from photoslot.environment import check_media_root

pytestmark = pytest.mark.integration


def check(folder: Path) -> str:
    """What the service's system check says, started with this MEDIA_ROOT."""
    environment = {"DJANGO_SETTINGS_MODULE": "photoslot.settings", "MEDIA_ROOT": str(folder)}
    process = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=settings.BASE_DIR,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return process.stdout + process.stderr


def get_mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_a_new_one_is_the_services_own(tmp_path: Path) -> None:
    folder = tmp_path / "new/media"
    assert "no issues" in check(folder)
    assert get_mode(folder) == 0o700


def test_so_is_the_one_that_the_start_makes(tmp_path: Path) -> None:
    check_media_root(tmp_path / "new/media/tmp")
    assert get_mode(tmp_path / "new/media") == 0o700


def test_one_that_a_web_servers_group_may_read_stays_so(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    folder.chmod(0o2750)
    assert "no issues" in check(folder)
    assert get_mode(folder) == 0o2750


def test_one_that_everybody_may_read_is_said_with_the_cure(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    folder.chmod(0o755)
    said = check(folder)
    assert f"MEDIA_ROOT ({folder}) is open to all users of this machine: its mode is 755." in said
    assert "chmod it to 700" in said
