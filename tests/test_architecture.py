"""The walks of docs/architecture.md name what exists, and every package is in the import contracts."""

from __future__ import annotations

import importlib
import re
import tomllib
from functools import reduce
from pathlib import Path

import pytest
from django.conf import settings

pytestmark = [pytest.mark.unit]

ROOT = Path(settings.BASE_DIR)
STEP = re.compile(r"^\d+\. .*", re.MULTILINE)


def test_every_name_of_the_walks_exists() -> None:
    steps = STEP.findall((ROOT / "docs/architecture.md").read_text())
    assert len(steps) > 20
    for step in steps:
        module = None
        for name in re.findall(r"`([^`]+)`", step):
            if "/" in name:
                assert (ROOT / name).is_file()
            elif name.islower() and "." in name:
                module = importlib.import_module(name)
            else:
                reduce(getattr, name.split("."), module)


def test_every_package_is_in_the_import_contracts() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert packages == {*contracts["root_packages"]}
