"""A storm: thousands of photos while processes are killed, Postgres stops and freezes, and connections break.

python -m tests.faults.storm --photos 10000 --seed 1 --minutes 10

Real processes, an embedded Postgres of its own, the sandbox's protocols. Photos and faults are a function of the seed.
At the end it says what was violated of what must hold (`storm_invariants`), and exits with 1 if anything was.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

os.environ |= {"DJANGO_SETTINGS_MODULE": "tests.faults.settings", "TEST_POSTGRES": "storm"}
os.environ["TEST_DATABASE_NAME"] = "storm"
os.environ["TEST_FOLDER"] = tempfile.mkdtemp(prefix="photoslot-storm-")

if TYPE_CHECKING or __name__ == "__main__":
    import django

    django.setup()

import httpx
import psycopg
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.core.management import call_command
from django.db import connection

from core.database import connection_kwargs, in_thread
from ingest.models import IngestSettings
from jobs.models import Job
from providers.models import ProviderAccount, ProviderCall
from slots.models import Slot
from tests.conftest import jpeg
from tests.faults.storm_faults import WEBS, WEIGHTS, Service, build_child_command, play
from tests.faults.storm_invariants import Violation, count_lost_pictures, describe, find_violations
from tests.faults.storm_plan import LIMITS, SLOTS, WAIT_SECONDS, Photo, draw_faults, draw_photos
from tests.sandbox.__main__ import ACCOUNTS
from tests.settings import LOGS, ROOT, TEST_POSTGRES

BOOTHS = 56  # more than QUEUE_MAX_IN_FLIGHT_JOBS, so that some are refused
PATIENCE_SECONDS = 1.0  # beyond the deadline, for the answer
ADMISSION_SECONDS = 2.0  # on two cores that are full, until a photo has its deadline
MOST_POSTS = 200  # of one photo, at least a minute, before its booth gives up
QUIET_SECONDS = WAIT_SECONDS + 10.0
PHOTO = jpeg(64, 48)
PASSWORD = "at the storm's beginning"
# Answers that end a photo's try; all others are refusals, after which the booth posts it again.
FINAL = {200, 502, 504}


@dataclass(slots=True)
class Post:
    """One post of a photo, and what came of it."""

    name: str
    web: int
    begun: float
    seconds: float = 0.0
    status: int = 0  # 0: no answer
    code: str = ""
    job_id: str = ""
    digest: str = ""
    lag: float = 0.0  # of this process meanwhile: seconds by which it may have measured too much

    @property
    def is_final(self) -> bool:
        return self.status in FINAL or bool(self.job_id)


@dataclass
class Booths:
    """All booths, each posting one photo after another."""

    service: Service
    photos: Iterator[Photo]
    until: float
    client: httpx.AsyncClient
    posts: list[Post] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    photos_answered: int = 0
    lag: float = 0.0  # of this process, in total

    async def warm_up(self) -> None:
        """A request to each web process: the first one imports and connects."""
        for url in self.service.urls:
            await self.client.post(f"{url}/ingest/slot-001", data={"password": self.service.password})

    async def run(self) -> None:
        measuring = asyncio.create_task(self._measure_lag())
        await asyncio.gather(*(self._serve(number) for number in range(BOOTHS)))
        measuring.cancel()

    async def _serve(self, number: int) -> None:
        await asyncio.sleep(number / 20)  # not all at once
        while time.monotonic() < self.until and (photo := next(self.photos, None)):
            numbers = count(1)
            if photo.booth == "posts_thrice":
                await asyncio.gather(*(self._post_until_answered(photo, numbers) for _ in range(3)))
            else:
                await self._post_until_answered(photo, numbers)
            self.photos_answered += 1

    async def _post_until_answered(self, photo: Photo, numbers: Iterator[int]) -> None:
        if photo.booth == "hangs_up":
            try:
                async with asyncio.timeout(photo.hang_up):
                    await self._post(photo, next(numbers))
            except TimeoutError:
                pass
        for _ in range(MOST_POSTS):
            post = await self._post(photo, next(numbers))
            self._check(post)
            if post.is_final:
                return
            await asyncio.sleep(0.3)
        self.violations.append(Violation("a photo was never answered", "", f"p{photo.number}"))

    async def _post(self, photo: Photo, number: int) -> Post:
        web = (photo.number + number) % WEBS
        post = Post(f"p{photo.number}t{number}", web, time.time())
        form = {"password": self.service.password, "id": f"booth-{photo.number}", "name": post.name}
        file = {"fileToUpload": ("IMG_0003.JPG", make_unique(photo.number), "image/jpeg")}
        started, lag = time.monotonic(), self.lag
        try:
            url = f"{self.service.urls[web]}/ingest/{photo.slot_id}"
            reply = await self.client.post(url, data=form, files=file)
        except httpx.HTTPError as error:
            post.code = type(error).__name__
        else:
            _read(post, reply)
        post.seconds, post.lag = time.monotonic() - started, self.lag - lag
        self.posts.append(post)
        return post

    def _check(self, post: Post) -> None:
        ended = post.begun + post.seconds
        if post.status == 0 and not self.service.was_away(f"web {post.web}", post.begun, ended):
            self.violations.append(Violation("not answered", "", f"{post.name}: {post.code}"))
        is_fault = post.code == "internal_error" and not post.job_id
        if is_fault and not self.service.was_away("folder", post.begun, ended):
            self.violations.append(Violation("a fault of ours", "", f"{post.name}: {post.status}"))

    async def _measure_lag(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            late = time.monotonic() - before - 0.05
            self.lag += late if late > 0.02 else 0


def _read(post: Post, reply: httpx.Response) -> None:
    post.status = reply.status_code
    post.job_id = reply.headers.get("X-Job-Id", "")
    if reply.status_code == 200:
        post.code = reply.headers["X-Outcome"]
        post.digest = hashlib.sha256(reply.content).hexdigest()
    else:
        error = reply.json()["error"]
        post.code = error["code"]
        post.job_id = post.job_id or error["details"].get("job_id", "")


def make_unique(number: int) -> bytes:
    """Another photo: a comment in the JPEG makes it one."""
    comment = f"photo {number}".encode()
    return PHOTO[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + PHOTO[2:]


def check_answers(service: Service, posts: list[Post]) -> Iterator[Violation]:
    """What booths were told, and when, against what the jobs say."""
    jobs = {str(job.pk): job for job in Job.objects.all()}
    by_name = {job.metadata["name"]: job for job in jobs.values()}
    for post in posts:
        yield from _check_time(service, post, jobs.get(post.job_id) or by_name.get(post.name))
        if post.job_id in jobs:
            yield from _check_content(post, jobs[post.job_id])
        elif post.job_id:
            yield Violation("an answer names a job that is not there", post.job_id, post.name)


def _check_time(service: Service, post: Post, job: Job | None) -> Iterator[Violation]:
    """A second after the job's deadline at the latest. A post without a job has had no deadline fixed; one that joins
    a job at its end or later gets what was made."""
    answered = post.begun + post.seconds
    own = post.begun + WAIT_SECONDS + ADMISSION_SECONDS
    deadline = job.expires_at.timestamp() if job else own
    if job and job.metadata["name"] != post.name and post.begun > deadline - ADMISSION_SECONDS:
        deadline = own
    if (late := answered - deadline) > PATIENCE_SECONDS + post.lag:
        is_away = any(
            service.was_away(what, post.begun, answered) for what in ("postgres", f"database of web {post.web}")
        )
        kind = "answered late while the database was away" if is_away else "answered late"
        note = f"{post.name}: {late:.2f} s after the deadline, {post.status} {post.code}"
        yield Violation(kind, str(job.pk) if job else "", note)


def _check_content(post: Post, job: Job) -> Iterator[Violation]:
    told = {200: None, 504: "timeout", 502: "provider_error", 500: "provider_error"}.get(post.status, "other")
    if post.code == "original" or told == "other":
        return
    if told != job.failure_reason:
        yield Violation("an answer is not its job's", str(job.pk), f"{post.name}: {post.status} {post.code}")
    elif post.status == 200 and post.digest != job.result_checksum:
        yield Violation("an answer is another picture", str(job.pk), post.name)


def set_up(sandbox_url: str) -> None:
    """A new database, slots and accounts at the sandbox."""
    name = settings.DATABASES["default"]["NAME"]
    with psycopg.connect(**connection_kwargs() | {"dbname": "postgres"}, autocommit=True) as server:
        server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        server.execute(f'CREATE DATABASE "{name}"')
    call_command("migrate", verbosity=0)
    call_command("bootstrap", stdout=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    IngestSettings.objects.update(sync_response_seconds=WAIT_SECONDS, password_hash=make_password(PASSWORD))
    for number, (provider, recipe, _) in enumerate(SLOTS, 1):
        operation = {"provider_id": provider, "operation_id": "image_edit", "settings_json": recipe}
        Slot.objects.filter(pk=f"slot-{number:03}").update(**operation)
    for provider in {*ACCOUNTS, *LIMITS}:
        account, _ = ProviderAccount.objects.get_or_create(pk=provider)
        path, key = ACCOUNTS.get(provider, ("", ""))
        account.base_url = sandbox_url + path
        account.set_key(key)
        for limit, value in LIMITS.get(provider, {}).items():
            setattr(account, limit, value)
        account.save()


async def wait_until_quiet() -> None:
    """Until no job and no call is under way; no longer than jobs may take."""

    def is_quiet() -> bool:
        open_calls = ProviderCall.objects.filter(ended_at=None)
        return not Job.objects.filter(is_finalized=False).exists() and not open_calls.exists()

    until = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < until and not await in_thread(is_quiet):  # noqa: ASYNC110 - other processes' doing
        await asyncio.sleep(0.5)


async def blow(options: argparse.Namespace, sandbox_url: str) -> Booths:
    """The storm itself, until all photos are answered."""
    assert TEST_POSTGRES
    service = Service(TEST_POSTGRES, PASSWORD)
    faults = draw_faults(options.seed, options.minutes * 60, WEIGHTS)
    async with (
        service.run(sandbox_url),
        httpx.AsyncClient(
            timeout=WAIT_SECONDS + 30, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        ) as client,
    ):
        watching = asyncio.create_task(service.watch())
        photos = iter(draw_photos(options.seed, options.photos))
        booths = Booths(service, photos, time.monotonic() + options.minutes * 60, client)
        await booths.warm_up()
        over = asyncio.Event()
        playing = asyncio.create_task(play(service, faults, over))
        progress = asyncio.create_task(report_progress(booths))
        await booths.run()
        over.set()
        await playing
        await wait_until_quiet()
        progress.cancel()
        watching.cancel()
        await asyncio.gather(*service.leaving)
    booths.violations += [Violation("a process ended", "", death) for death in service.deaths]
    return booths


async def report_progress(booths: Booths) -> None:
    while True:
        await asyncio.sleep(10)
        say(f"  {booths.photos_answered} photos answered")


@contextmanager
def run_sandbox(options: argparse.Namespace, journal: Path) -> Iterator[str]:
    journal.touch()
    arguments = str(options.seed), str(options.photos), str(journal)
    command = build_child_command("-m", "tests.faults.storm_sandbox", *arguments)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the output of the command


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same photos and faults")
    parser.add_argument("--minutes", type=float, default=15, help="no photo is posted after so long")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops what it has started, as Ctrl-C does
    assert TEST_POSTGRES, "the storm restarts its Postgres: unset TEST_DATABASE_URL"
    say(f"Storm of {options.photos} photos, seed {options.seed}")
    journal = LOGS.with_name("journal")
    started = time.monotonic()
    with TEST_POSTGRES, run_sandbox(options, journal) as sandbox_url:
        set_up(sandbox_url)
        booths = asyncio.run(blow(options, sandbox_url))
        connection.close()
        violations = [*booths.violations, *check_answers(booths.service, booths.posts), *find_violations(journal)]
        say(summarize(booths, journal, time.monotonic() - started))
        if violations:
            say(f"\nVIOLATED, {len(violations)} times:\n{describe(violations)}")
    if violations:
        say(f"Logs, journal and files: {LOGS.parent}")
    else:
        shutil.rmtree(os.environ["TEST_FOLDER"])
    say(f"Seed {options.seed}: " + ("violated" if violations else "all holds"))
    return bool(violations)


def summarize(booths: Booths, journal: Path, seconds: float) -> str:
    answers = Counter(f"{post.status} {post.code}" for post in booths.posts)
    calls = Counter(ProviderCall.objects.values_list("outcome", flat=True))
    late = max(post.seconds for post in booths.posts)
    return "\n".join(
        [
            f"{booths.photos_answered} photos, {len(booths.posts)} posts in {seconds:.0f} s; the longest {late:.2f} s",
            "answers: " + ", ".join(f"{number} x {answer}" for answer, number in answers.most_common()),
            "calls: " + ", ".join(f"{number} {outcome}" for outcome, number in calls.most_common()),
            f"paid pictures that no booth got: {count_lost_pictures(journal)}",
            f"faults: {booths.service.describe_faults()}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
