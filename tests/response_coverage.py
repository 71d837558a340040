"""A tour of the answers: for each that the document names, how it is got. `tests/photoslot/test_tour.py` walks it.

A new operation takes one line in `GOOD`: its request when all is well, which gets its success. Its refusals come by
`RULES`, from their codes; those that no rule gets, and further successes, take a line each in `SPECIAL`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import override_settings
from django.utils import timezone

from ingest.models import IngestSettings, PasswordFailure
from ingest.password import FAILURES_ALLOWED
from jobs.models import Job, MediaObject
from jobs.storage import files
from jobs.storage.links import file_url
from providers.models import ProviderAccount
from slots.models import TemplateBinding, TemplateMedia
from slots.template_media import MAX_MB
from staff.api.base import BODY_BYTES
from tests.admin_client import PASSWORD, person
from tests.api import Api, answers, may, operations
from tests.conftest import jpeg, set_slot, use_sandbox
from tests.ingest.helpers import MEGABYTE, cancel, eventually, form, gif, pad
from tests.ingest.test_slot_options import spend
from tests.jobs.results import age
from tests.jobs.test_admin import make_job, make_picture_job
from tests.slots.factories import image

# What is asked: arguments of `httpx.Client.request`, and under these names what else makes the answer.
#   at          values of the path's parameters
#   by          whose token goes with it, if it is not one who may do all
#   here        it is asked in this process, also where it would wait
#   meanwhile   what is done while the answer is waited for
#   within      a context manager, within which it is asked
Asked = dict[str, Any]
BODIES = ("json", "content", "data", "files")
AT = {"slot_id": "slot-001", "provider_id": "studio", "operation_id": "image_edit"}
NOBODY = "00000000-0000-4000-8000-000000000000"
NOWHERE = {
    "slot_id": "slot-099",
    "provider_id": "nobody",
    "job_id": NOBODY,
    "media_id": NOBODY,
    "token": "forged",
}
NOIR = {"name": "Noir", "provider_id": "studio", "operation_id": "image_edit", "settings_json": {"look": "noir"}}
LONG_AGO = 100  # hours
ANY = {"headers": {"If-Match": "*"}}


@dataclass(frozen=True)
class Answer:
    """One that the document names. `code` is the envelope's; empty where there is none."""

    method: str
    path: str
    about: Mapping[str, Any]
    status: int
    code: str

    @property
    def name(self) -> str:
        return f"{self.about['operationId']}-{self.status}" + (f"-{self.code}" if self.code else "")

    def asked(self) -> Asked:
        """What gets it. What must be there for that is there afterwards."""
        operation = self.about["operationId"]
        good = GOOD[operation]()
        if change := SPECIAL.get((operation, self.code or self.status)):
            return changed(good, change())
        return changed(good, RULES[self.code](self.kind) if self.code else {})

    @property
    def kind(self) -> str:
        """The type of the body that the operation takes; empty where it takes none. A post may have an empty object."""
        kinds = self.about.get("requestBody", {}).get("content", {})
        return next(iter(kinds), "application/json" if self.method == "post" else "")


def documented() -> Iterator[Answer]:
    for method, path, about in operations():
        for status, answer in answers(about).items():
            content = answer.get("content", {}).get("application/json", {})
            is_error = content.get("schema") == {"$ref": "#/components/schemas/Error"}
            for code in content["examples"] if is_error else [""]:
                yield Answer(method, path, about, int(status), code)


def changed(good: Asked, change: Asked) -> Asked:
    """Another body takes the place of the good one; headers and the path's parameters are added to."""
    kept = {name: each for name, each in good.items() if name not in BODIES or not {*change} & {*BODIES}}
    both = {name: kept.get(name, {}) | change.get(name, {}) for name in ("headers", "at")}
    return kept | change | both


def given(*firsts: Callable[[], object], **asked: Any) -> Asked:
    """What is asked once all that comes first is done."""
    for first in firsts:
        first()
    return asked


def at(**parameters: Any) -> Asked:
    return {"at": parameters}


def body(**changes: Any) -> Asked:
    return {"json": changes}


def attached(data: bytes | None = None, **fields: Any) -> Asked:
    """A form with a picture, unless it is other data."""
    return {"files": {"file": ("x.jpg", data or jpeg(), "image/jpeg")}, "data": fields}


def upload(data: bytes | None = None, **fields: Any) -> Asked:
    return attached(data, **{"slot_id": "slot-001", "setting_key": "style"} | fields)


def picture() -> Job:
    """With its file, which `made` is without."""
    files.save("results/x.jpg", jpeg())
    return make_picture_job()


def media(seconds: int = 48) -> MediaObject:
    files.save("media/x.jpg", jpeg())
    expires_at = timezone.now() + timedelta(seconds=seconds)
    return MediaObject.objects.create(path="media/x.jpg", mime_type="image/jpeg", size_bytes=1, expires_at=expires_at)


def bound(key: str = "mood") -> Any:
    """An image that a slot has under the key."""
    return TemplateBinding.objects.create(slot_id="slot-001", setting_key=key, media=image()).media


def the_image() -> str:
    return str(TemplateMedia.objects.get().pk)


def held() -> None:
    """The provider makes them wait."""
    use_sandbox("instant", "hold")


def the_job() -> Job:
    """Once the door has taken it in."""
    found: Job = eventually(Job.objects.first)
    return found


def at_its_end() -> None:
    """The time of a job under way is over, as the database's clock has it."""
    one = the_job()
    Job.objects.filter(pk=one.pk).update(expires_at=one.created_at + timedelta(milliseconds=1))
    call_command("release_expired")


def guesses() -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT):
        Api()("post", "/api/login", {"username": "serg", "password": "a guess"})


def wrong_passwords() -> None:
    minute = timezone.now().replace(second=0, microsecond=0)
    PasswordFailure.objects.create(address="127.0.0.1", minute=minute, count=FAILURES_ALLOWED)


@contextmanager
def no_room_for_results() -> Iterator[None]:
    in_the_way = Path(settings.MEDIA_ROOT, "results")
    in_the_way.touch()
    try:
        yield
    finally:
        in_the_way.unlink()


def failing(fault: Exception) -> AbstractContextManager[None]:
    """Whatever a view of this process asks of the database ends so."""

    def execute(*_: Any) -> Any:
        raise fault

    return connection.execute_wrapper(execute)


def away() -> Asked:
    return given(within=failing(OperationalError("the server closed the connection")), here=True)


def fault() -> Asked:
    return given(within=failing(RuntimeError("a fault of ours")), here=True)


def malformed(kind: str) -> Asked:
    """A body that is not of its type; without one, an address with what is not known there."""
    return sent(b"{", f"{kind}; boundary=x") if kind else {"params": {"nothing": "1"}}


def sent(content: bytes, kind: str) -> Asked:
    return {"content": content, "headers": {"Content-Type": kind}}


GOOD: Mapping[str, Callable[[], Asked]] = {
    "archiveSlot": lambda: ANY,
    "cancelJob": lambda: at(job_id=make_job().pk),
    "changeSettings": lambda: body(ingest={"sync_response_timeout_sec": 40}),
    "changeSlot": lambda: ANY | body(**NOIR),
    "createSlot": lambda: body(**NOIR),
    "deleteTemplateMedia": lambda: at(media_id=image().pk),
    "getDocs": given,
    "getDocument": given,
    "getFile": lambda: at(token=file_url(picture()).rpartition("/")[2]),
    "getGuestPage": lambda: at(job_id=picture().pk),
    "getGlobalStats": given,
    "getHealth": given,
    "getJob": lambda: at(job_id=make_job().pk),
    "getMedia": lambda: at(media_id=media().pk),
    "getMetrics": given,
    "getOperationSchema": given,
    "getProvider": given,
    "getReadiness": given,
    "getRecentResults": given,
    "getResult": lambda: at(job_id=picture().pk),
    "getSettings": given,
    "getSlot": given,
    "getSlotStats": given,
    "getTemplateMedia": lambda: at(media_id=bound().pk),
    "getTemplateMediaPreview": lambda: at(media_id=image().pk),
    "listJobs": lambda: given(make_job),
    "listProviders": given,
    "listSlotHistory": given,
    "listSlots": given,
    "listTemplateMedia": lambda: given(bound),
    "logIn": lambda: body(username=person().username, password=PASSWORD),
    "postPhoto": lambda: given(lambda: use_sandbox("instant")) | form(jpeg()),
    "postPhotoToApi": lambda: given(lambda: use_sandbox("instant")) | form(jpeg()),
    "purgeMediaCache": lambda: body(scope="full"),
    "registerMedia": attached,
    "registerTemplateMedia": upload,
    "resetSlotStats": given,
    "testRun": lambda: given(lambda: use_sandbox("instant")) | attached(),
}

# Those that wait for a worker are asked at the real server.
WAITING = ("postPhoto", "postPhotoToApi", "testRun")
WAITED: Mapping[str | int, Callable[[], Asked]] = {
    "queue_busy": lambda: given(*[make_job] * settings.QUEUE_MAX_IN_FLIGHT_JOBS),
    "budget_exhausted": lambda: given(lambda: spend("5.00"), lambda: use_sandbox("instant", daily_budget=5)),
    "provider_error": lambda: given(lambda: use_sandbox("instant", "refuses")),
    "job_cancelled": lambda: given(held, meanwhile=lambda: cancel(the_job().pk)),
    "provider_unavailable": lambda: given(
        lambda: ProviderAccount.objects.create(provider_id="instant", is_enabled=False)
    ),
    "sync_timeout": lambda: given(held, meanwhile=at_its_end),
}
PHOTO: Mapping[str | int, Callable[[], Asked]] = {
    "invalid_payload": lambda: form(None),
    "invalid_credentials": lambda: form(jpeg(), password="wrong"),
    "payload_too_large": lambda: given(lambda: set_slot(size_limit_mb=1)) | form(pad(jpeg())),
    "unsupported_media_type": lambda: form(gif()),
    "rate_limited": lambda: given(wrong_passwords) | form(jpeg(), password="wrong"),
    "internal_error": lambda: given(within=no_room_for_results()),
    "queue_unavailable": lambda: given(lambda: IngestSettings.objects.all().delete()),
}
FILE: Mapping[str | int, Callable[[], Asked]] = {
    206: lambda: {"headers": {"Range": "bytes=0-9"}},
    304: lambda: {"headers": {"If-None-Match": "*"}},
    "range_not_satisfiable": lambda: {"headers": {"Range": "bytes=999999-"}},
}
SPECIAL: Mapping[tuple[str, str | int], Callable[[], Asked]] = {
    ("archiveSlot", "jobs_under_way"): lambda: given(lambda: make_job(slot_id="slot-001")),
    ("archiveSlot", "validation_failed"): lambda: {"params": {"force": "1"}},
    ("archiveSlot", "version_conflict"): lambda: {"headers": {"If-Match": '"an old one"'}},
    ("archiveSlot", "version_required"): lambda: {"headers": {"If-Match": None}},
    ("cancelJob", "job_finalized"): lambda: at(job_id=make_picture_job().pk),
    ("changeSettings", "validation_failed"): lambda: body(ingest={"sync_response_timeout_sec": 5}),
    ("changeSlot", "validation_failed"): lambda: body(**NOIR | {"settings_json": {"look": "none"}}),
    ("changeSlot", "version_conflict"): lambda: body(**NOIR, updated_at="2026-11-25T12:00:00Z"),
    ("changeSlot", "version_required"): lambda: {"headers": {"If-Match": None}},
    ("createSlot", "slot_exists"): lambda: body(**NOIR, id="slot-001"),
    ("createSlot", "validation_failed"): lambda: body(**NOIR | {"name": ""}),
    ("deleteTemplateMedia", "jobs_under_way"): lambda: given(lambda: make_job(template_media={"mood": the_image()})),
    ("deleteTemplateMedia", "template_in_use"): lambda: at(media_id=bound().pk),
    ("deleteTemplateMedia", "validation_failed"): lambda: {"params": {"force": "1"}},
    ("getFile", "result_expired"): lambda: given(lambda: age(the_job(), LONG_AGO)),
    ("getGlobalStats", "validation_failed"): lambda: {"params": {"format": "xml"}},
    ("getRecentResults", "validation_failed"): lambda: {"params": {"format": "xml"}},
    ("getSlotStats", "validation_failed"): lambda: {"params": {"format": "xml"}},
    ("getGuestPage", 404): lambda: at(**NOWHERE),
    ("getGuestPage", 410): lambda: given(lambda: age(the_job(), LONG_AGO)),
    ("getGuestPage", 500): fault,
    ("getGuestPage", 503): away,
    ("getMedia", "media_expired"): lambda: at(media_id=media(seconds=-1).pk),
    ("getMetrics", "invalid_credentials"): lambda: given(within=override_settings(METRICS_TOKEN="t0ken")),
    ("getReadiness", 503): away,
    ("getResult", "result_expired"): lambda: given(lambda: age(the_job(), LONG_AGO)),
    ("listJobs", "validation_failed"): lambda: {"params": {"page": "0"}},
    ("listSlotHistory", "validation_failed"): lambda: {"params": {"page": "0"}},
    ("listSlots", "validation_failed"): lambda: {"params": {"page": "0"}},
    ("listTemplateMedia", "validation_failed"): lambda: {"params": {"page": "0"}},
    ("logIn", "invalid_credentials"): lambda: body(username="serg", password="a guess"),
    ("logIn", "rate_limited"): lambda: given(guesses),
    ("purgeMediaCache", "validation_failed"): lambda: body(scope="all"),
    ("registerMedia", "job_finalized"): lambda: attached(job_id=str(make_picture_job().pk)),
    ("registerMedia", "not_found"): lambda: attached(job_id=NOBODY),
    ("registerMedia", "payload_too_large"): lambda: (
        attached(pad(jpeg())) | given(within=override_settings(INGEST_MAX_FILE_BYTES=MEGABYTE))
    ),
    ("registerMedia", "validation_failed"): lambda: attached(job_id="none"),
    ("registerTemplateMedia", "key_taken"): lambda: given(lambda: bound("style")),
    ("registerTemplateMedia", "not_found"): lambda: upload(slot_id="slot-099"),
    ("registerTemplateMedia", "payload_too_large"): lambda: upload(bytes(MAX_MB * 1024 * 1024 + 1)),
    ("testRun", "payload_too_large"): lambda: given(lambda: set_slot(size_limit_mb=1)) | attached(pad(jpeg())),
    ("testRun", "validation_failed"): lambda: attached(operation_id="none"),
    ("registerTemplateMedia", "validation_failed"): lambda: upload(setting_key="Style"),
    **{(operation, answer): asked for operation in WAITING for answer, asked in WAITED.items()},
    **{("getFile", answer): asked for answer, asked in FILE.items()},
    **{("getMedia", answer): asked for answer, asked in FILE.items()},
    **{("postPhoto", answer): asked for answer, asked in PHOTO.items()},
    **{("postPhotoToApi", answer): asked for answer, asked in PHOTO.items()},  # the same view
}

# What makes any operation refuse so, by the type of the body that it takes.
RULES: Mapping[str, Callable[[str], Asked]] = {
    "forbidden": lambda kind: given(by=may),
    "internal_error": lambda kind: fault(),
    "invalid_credentials": lambda kind: given(by=Api),
    "invalid_payload": malformed,
    "media_not_found": lambda kind: at(**NOWHERE),
    "method_not_allowed": lambda kind: {"method": "PATCH"},
    "not_acceptable": lambda kind: {"headers": {"Accept": "text/x-nothing"}},
    "not_found": lambda kind: at(**NOWHERE),
    "payload_too_large": lambda kind: sent(b" " * BODY_BYTES + b"{}", kind),
    "queue_unavailable": lambda kind: away(),
    "result_not_found": lambda kind: at(**NOWHERE),
    "slot_not_found": lambda kind: at(**NOWHERE),
    "unsupported_media_type": lambda kind: sent(b"<x/>", "text/xml"),
}
