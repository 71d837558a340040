"""What docs/architecture.md and docs/security.md name exists, and every package is in the import contracts."""

from __future__ import annotations

import ast
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
TEST = re.compile(r"`(tests/[^`]+)::(\w+)`")


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


def test_every_test_that_the_page_on_security_names_exists() -> None:
    named = TEST.findall((ROOT / "docs/security.md").read_text())
    assert len(named) > 50
    for path in {path for path, _ in named}:
        assert (ROOT / path).is_file(), path
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        defined = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, functions)}
        assert {name for where, name in named if where == path} <= defined, path


def test_every_package_is_in_the_import_contracts() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert packages == {*contracts["root_packages"]}
