from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.contrib.auth.hashers import check_password
from django.core.management.base import BaseCommand, CommandError

from ingest.models import IngestSettings
from photoslot.bootstrap import read_ingest_password
from photoslot.demo_scene import draw_photo
from photoslot.management.commands.run import explain, prepare
from photoslot.supervisor import Supervisor, find_free_port

SLOT = "slot-012"
FOLDER = settings.BASE_DIR / "var/demo"


class Command(BaseCommand):
    help = "Starts everything, posts one photo as a booth does, saves the picture in var/demo, stops everything."

    def handle(self, *args: Any, **options: Any) -> None:
        prepare(self)
        password = read_valid_password()
        original = draw_photo()
        with Supervisor(find_free_port()) as service:
            service.wait_until_ready()
            with explain("Posting the photo", "The service's own messages are above."):
                started = time.monotonic()
                answer = post(f"{service.url}/ingest/{SLOT}", password, original)
                seconds = time.monotonic() - started
        with explain("Saving the picture", f"Check that {FOLDER} can be written."):
            path = save(original, answer)
        self.stdout.write(f"Posted {FOLDER / 'original.jpg'} to {SLOT}; the picture came back in {seconds:.2f} s:")
        self.stdout.write(str(path))


def read_valid_password() -> str:
    """The ingest password in plain text, which only the first run's file has. Raises `CommandError`."""
    password = read_ingest_password() or settings.INGEST_PASSWORD
    if not check_password(password, IngestSettings.objects.get().password_hash):
        raise CommandError(
            f"The demo needs the ingest password, and {settings.RUNTIME_CREDENTIALS_FILE} does not have the present "
            "one. Set it anew in the admin (Booth settings) and put it into that file."
        )
    return password


def post(url: str, password: str, photo: bytes) -> httpx.Response:
    form = {"password": password, "id": "DEMO"}
    return httpx.post(url, data=form, files={"fileToUpload": ("IMG_0001.JPG", photo, "image/jpeg")}, timeout=70)


def save(original: bytes, answer: httpx.Response) -> Path:
    """Keeps original and picture side by side. Raises `CommandError` when there is no picture."""
    if answer.status_code != 200:
        raise CommandError(f"Posting the photo was answered {answer.status_code}: {answer.text}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "original.jpg").write_bytes(original)
    path: Path = FOLDER / f"{SLOT}.{answer.headers['content-type'].removeprefix('image/').replace('jpeg', 'jpg')}"
    path.write_bytes(answer.content)
    return path
