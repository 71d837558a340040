"""`manage.py demo`: one photo there and back, everything started for it and stopped after it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from django.db import connection
from PIL import Image, ImageChops, ImageStat

from tests.photoslot.checkout import Checkout

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    made = Checkout(tmp_path_factory.mktemp("demo") / "checkout")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def said(checkout: Checkout) -> str:
    code, said = checkout.manage("demo")
    assert code == 0, said
    return said


def difference(one: Path, two: Path) -> float:
    """Of 255, on average over all pixels."""
    pictures = [Image.open(io.BytesIO(path.read_bytes())).convert("RGB") for path in (one, two)]
    return sum(ImageStat.Stat(ImageChops.difference(*pictures)).mean) / 3


def test_the_picture_is_another_than_the_photo(checkout: Checkout, said: str) -> None:
    picture = checkout.root / "var/demo/slot-012.jpg"
    assert str(picture) in said.splitlines()
    assert re.search(r"came back in \d+\.\d\d s", said)
    assert difference(checkout.root / "var/demo/original.jpg", picture) > 5


def test_afterwards_nothing_runs(checkout: Checkout, said: str) -> None:
    assert not checkout.database_runs()
    assert not checkout.port_is_taken()
    assert "Traceback" not in said


def test_a_lost_password_is_said_in_a_sentence(checkout: Checkout, said: str) -> None:
    code, again = checkout.manage("demo", RUNTIME_CREDENTIALS_FILE=str(checkout.root / "lost.json"))
    assert code == 1
    assert "does not have the present one" in again
    assert "Traceback" not in again


def test_a_picture_that_cannot_be_saved_is_said_in_a_sentence(checkout: Checkout, said: str) -> None:
    folder = checkout.root / "var/demo"
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("in the way")
    code, again = checkout.manage("demo")
    folder.unlink()
    aside.rename(folder)
    assert code == 1
    assert "Saving the picture failed" in again
    assert ("Passwords" in said, "Passwords" in again) == (True, False)  # they are shown once
    assert "Traceback" not in again


def test_a_photo_that_is_refused_is_said_in_a_sentence(checkout: Checkout, said: str) -> None:
    with checkout.server, checkout.connect() as database:
        database.execute("UPDATE slots_slot SET is_active = false")
        code, again = checkout.manage("demo")
        database.execute("UPDATE slots_slot SET is_active = true")
    assert code == 1
    assert "answered 404" in again
    assert "Traceback" not in again


def test_with_a_database_of_ones_own_none_is_started(database: None, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout")
    config = connection.settings_dict
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE photoslot_demo")
    login = quote(config["USER"]) + (f":{quote(config['PASSWORD'])}" if config["PASSWORD"] else "")
    host = quote(config["HOST"], safe="")
    port = f":{config['PORT']}" if config["PORT"] else ""
    try:
        code, said = checkout.manage("demo", DATABASE_URL=f"postgres://{login}@{host}{port}/photoslot_demo", DEBUG="1")
        assert code == 0, said
        assert not checkout.server.data.exists()
        assert not Path(checkout.server.host).exists()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP DATABASE photoslot_demo WITH (FORCE)")
        checkout.remove()
