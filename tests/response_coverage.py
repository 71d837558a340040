"""For each response that the document names, the request that leads to it. `tests/staff/api/test_response_coverage.py`
sends them all.

A new operation takes one line in `VALID_REQUESTS`: a request that succeeds. `RULES` turns it into one that is refused,
by the code of the refusal. Refusals without a rule, and further successes, take a line each in `SPECIAL`.
"""

from __future__ import annotations

import shutil
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
from tests.admin_client import PASSWORD, make_staff_user
from tests.api import Api, get_responses, list_operations, make_api
from tests.conftest import jpeg, set_slot, use_sandbox
from tests.ingest.helpers import MEGABYTE, cancel, eventually, form, gif, pad
from tests.ingest.test_slot_options import spend
from tests.jobs.results import age
from tests.jobs.test_admin import make_job, make_picture_job
from tests.slots.factories import image

# Arguments of `httpx.Client.request`, and these:
#   path_params     values of the path's parameters
#   make_api        makes the `Api` whose token the request has; without: a superuser's
#   in_process      sends the request to this process even if the operation needs a worker
#   while_waiting   is called while the request waits for its response
#   context         a context manager, inside which the request is sent
RequestSpec = dict[str, Any]
BODIES = ("json", "content", "data", "files")
PATH_PARAMS = {"slot_id": "slot-001", "provider_id": "studio", "operation_id": "image_edit"}
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
UNKNOWN_PARAMS = {
    "slot_id": "slot-099",
    "provider_id": "nobody",
    "job_id": UNKNOWN_ID,
    "media_id": UNKNOWN_ID,
    "token": "forged",
}
NOIR = {"name": "Noir", "provider_id": "studio", "operation_id": "image_edit", "settings_json": {"look": "noir"}}
EXPIRED_HOURS = 100  # longer than results are kept
ANY_VERSION = {"headers": {"If-Match": "*"}}


@dataclass(frozen=True)
class ExpectedResponse:
    """A response that the document names. `code` is the envelope's; empty if the response has none."""

    method: str
    path: str
    operation: Mapping[str, Any]
    status: int
    code: str

    @property
    def name(self) -> str:
        return f"{self.operation['operationId']}-{self.status}" + (f"-{self.code}" if self.code else "")

    def prepare_request(self) -> RequestSpec:
        """The request that leads to it. Prepares the database and files for the request."""
        operation_id = self.operation["operationId"]
        valid = VALID_REQUESTS[operation_id]()
        if make_changes := SPECIAL.get((operation_id, self.code or self.status)):
            return merge_specs(valid, make_changes())
        return merge_specs(valid, RULES[self.code](self.body_type) if self.code else {})

    @property
    def body_type(self) -> str:
        """The media type of the body that the operation takes; empty if none. Every POST may have an empty object."""
        types = self.operation.get("requestBody", {}).get("content", {})
        return next(iter(types), "application/json" if self.method == "post" else "")


def list_expected_responses() -> Iterator[ExpectedResponse]:
    for method, path, operation in list_operations():
        for status, response in get_responses(operation).items():
            content = response.get("content", {}).get("application/json", {})
            is_error = content.get("schema") == {"$ref": "#/components/schemas/Error"}
            for code in content["examples"] if is_error else [""]:
                yield ExpectedResponse(method, path, operation, int(status), code)


def merge_specs(valid: RequestSpec, changes: RequestSpec) -> RequestSpec:
    """Headers and path parameters are merged; a body, of whatever type, is replaced."""
    kept = {name: each for name, each in valid.items() if name not in BODIES or not {*changes} & {*BODIES}}
    merged = {name: kept.get(name, {}) | changes.get(name, {}) for name in ("headers", "path_params")}
    return kept | changes | merged


def prepare(*steps: Callable[[], object], **spec: Any) -> RequestSpec:
    """Runs the steps. Returns the spec of the request to send after them."""
    for step in steps:
        step()
    return spec


def at_path(**parameters: Any) -> RequestSpec:
    return {"path_params": parameters}


def json_body(**fields: Any) -> RequestSpec:
    return {"json": fields}


def file_form(data: bytes | None = None, **fields: Any) -> RequestSpec:
    """A form with a file, by default a picture."""
    return {"files": {"file": ("x.jpg", data or jpeg(), "image/jpeg")}, "data": fields}


def template_form(data: bytes | None = None, **fields: Any) -> RequestSpec:
    return file_form(data, **{"slot_id": "slot-001", "setting_key": "style"} | fields)


def make_result() -> Job:
    """A job with a result and its file, which `make_picture_job` does not write."""
    files.save("results/x.jpg", jpeg())
    return make_picture_job()


def make_media(seconds: int = 48) -> MediaObject:
    files.save("media/x.jpg", jpeg())
    expires_at = timezone.now() + timedelta(seconds=seconds)
    return MediaObject.objects.create(path="media/x.jpg", mime_type="image/jpeg", size_bytes=1, expires_at=expires_at)


def make_bound_image(key: str = "mood") -> Any:
    """A template image that slot-001 has under the key."""
    return TemplateBinding.objects.create(slot_id="slot-001", setting_key=key, media=image()).media


def get_image_id() -> str:
    return str(TemplateMedia.objects.get().pk)


def use_holding_provider() -> None:
    """Points the slot at a provider that holds every call."""
    use_sandbox("instant", "hold")


def wait_for_job() -> Job:
    """The job, once it is admitted."""
    found: Job = eventually(Job.objects.first)
    return found


def expire_job() -> None:
    """Moves the deadline of the job under way into the past, and releases the job."""
    job_under_way = wait_for_job()
    Job.objects.filter(pk=job_under_way.pk).update(expires_at=job_under_way.created_at + timedelta(milliseconds=1))
    call_command("release_expired")


def exhaust_login_attempts(username: str) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT):
        Api()("post", "/api/login", {"username": username, "password": "a guess"})


def log_in_too_often() -> RequestSpec:
    credentials = VALID_REQUESTS["logIn"]()
    exhaust_login_attempts(credentials["json"]["username"])
    return credentials


def exhaust_password_attempts() -> None:
    minute = timezone.now().replace(second=0, microsecond=0)
    PasswordFailure.objects.create(address="127.0.0.1", minute=minute, count=FAILURES_ALLOWED)


@contextmanager
def block_photos_folder() -> Iterator[None]:
    file = Path(settings.MEDIA_ROOT, "payloads")
    shutil.rmtree(file, ignore_errors=True)
    file.touch()
    try:
        yield
    finally:
        file.unlink()


def fail_queries(error: Exception) -> AbstractContextManager[None]:
    """Every query of a view in this process raises the error."""

    def execute(*_: Any) -> Any:
        raise error

    return connection.execute_wrapper(execute)


def lose_database() -> RequestSpec:
    return prepare(context=fail_queries(OperationalError("the server closed the connection")), in_process=True)


def cause_internal_error() -> RequestSpec:
    return prepare(context=fail_queries(RuntimeError("a fault of ours")), in_process=True)


def malformed(body_type: str) -> RequestSpec:
    """A body that does not parse; for an operation without a body, an unknown query parameter."""
    return raw_body(b"{", f"{body_type}; boundary=x") if body_type else {"params": {"nothing": "1"}}


def raw_body(content: bytes, body_type: str) -> RequestSpec:
    return {"content": content, "headers": {"Content-Type": body_type}}


VALID_REQUESTS: Mapping[str, Callable[[], RequestSpec]] = {
    "archiveSlot": lambda: ANY_VERSION,
    "cancelJob": lambda: at_path(job_id=make_job().pk),
    "changeSettings": lambda: json_body(ingest={"sync_response_timeout_sec": 40}),
    "changeSlot": lambda: ANY_VERSION | json_body(**NOIR),
    "createSlot": lambda: json_body(**NOIR),
    "deleteTemplateMedia": lambda: at_path(media_id=image().pk),
    "getDocs": prepare,
    "getDocument": prepare,
    "getFile": lambda: at_path(token=file_url(make_result()).rpartition("/")[2]),
    "getGuestPage": lambda: at_path(job_id=make_result().pk),
    "getGlobalStats": prepare,
    "getHealth": prepare,
    "getJob": lambda: at_path(job_id=make_job().pk),
    "getMedia": lambda: at_path(media_id=make_media().pk),
    "getMetrics": prepare,
    "getOperationSchema": prepare,
    "getProvider": prepare,
    "getReadiness": prepare,
    "getRecentResults": prepare,
    "getResult": lambda: at_path(job_id=make_result().pk),
    "getSettings": prepare,
    "getSlot": prepare,
    "getSlotStats": prepare,
    "getTemplateMedia": lambda: at_path(media_id=make_bound_image().pk),
    "getTemplateMediaPreview": lambda: at_path(media_id=image().pk),
    "listJobs": lambda: prepare(make_job),
    "listProviders": prepare,
    "listSlotHistory": prepare,
    "listSlots": prepare,
    "listTemplateMedia": lambda: prepare(make_bound_image),
    "logIn": lambda: json_body(username=make_staff_user().username, password=PASSWORD),
    "postPhoto": lambda: prepare(lambda: use_sandbox("instant")) | form(jpeg()),
    "postPhotoToApi": lambda: prepare(lambda: use_sandbox("instant")) | form(jpeg()),
    "purgeMediaCache": lambda: json_body(scope="full"),
    "registerMedia": file_form,
    "registerTemplateMedia": template_form,
    "resetSlotStats": prepare,
    "testRun": lambda: prepare(lambda: use_sandbox("instant")) | file_form(),
}

# Operations that wait for a worker: their requests go to the real server.
NEEDS_WORKER = ("postPhoto", "postPhotoToApi", "testRun")
WORKER_SPECIAL: Mapping[str | int, Callable[[], RequestSpec]] = {
    "queue_busy": lambda: prepare(*[make_job] * settings.QUEUE_MAX_IN_FLIGHT_JOBS),
    "budget_exhausted": lambda: prepare(lambda: spend("5.00"), lambda: use_sandbox("instant", daily_budget=5)),
    "provider_error": lambda: prepare(lambda: use_sandbox("instant", "refuses")),
    "job_cancelled": lambda: prepare(use_holding_provider, while_waiting=lambda: cancel(wait_for_job().pk)),
    "provider_unavailable": lambda: prepare(
        lambda: ProviderAccount.objects.create(provider_id="instant", is_enabled=False)
    ),
    "sync_timeout": lambda: prepare(use_holding_provider, while_waiting=expire_job),
}
PHOTO_SPECIAL: Mapping[str | int, Callable[[], RequestSpec]] = {
    "invalid_payload": lambda: form(None),
    "invalid_credentials": lambda: form(jpeg(), password="wrong"),
    "payload_too_large": lambda: prepare(lambda: set_slot(size_limit_mb=1)) | form(pad(jpeg())),
    "unsupported_media_type": lambda: form(gif()),
    "rate_limited": lambda: prepare(exhaust_password_attempts) | form(jpeg(), password="wrong"),
    "internal_error": lambda: prepare(context=block_photos_folder()),
    "queue_unavailable": lambda: prepare(lambda: IngestSettings.objects.all().delete()),
}
FILE_SPECIAL: Mapping[str | int, Callable[[], RequestSpec]] = {
    206: lambda: {"headers": {"Range": "bytes=0-9"}},
    304: lambda: {"headers": {"If-None-Match": "*"}},
    "range_not_satisfiable": lambda: {"headers": {"Range": "bytes=999999-"}},
}
SPECIAL: Mapping[tuple[str, str | int], Callable[[], RequestSpec]] = {
    ("archiveSlot", "jobs_under_way"): lambda: prepare(lambda: make_job(slot_id="slot-001")),
    ("archiveSlot", "validation_failed"): lambda: {"params": {"force": "1"}},
    ("archiveSlot", "version_conflict"): lambda: {"headers": {"If-Match": '"an old one"'}},
    ("archiveSlot", "version_required"): lambda: {"headers": {"If-Match": None}},
    ("cancelJob", "job_finalized"): lambda: at_path(job_id=make_picture_job().pk),
    ("changeSettings", "validation_failed"): lambda: json_body(ingest={"sync_response_timeout_sec": 5}),
    ("changeSlot", "validation_failed"): lambda: json_body(**NOIR | {"settings_json": {"look": "none"}}),
    ("changeSlot", "version_conflict"): lambda: json_body(**NOIR, updated_at="2026-11-25T12:00:00Z"),
    ("changeSlot", "version_required"): lambda: {"headers": {"If-Match": None}},
    ("createSlot", "slot_exists"): lambda: json_body(**NOIR, id="slot-001"),
    ("createSlot", "validation_failed"): lambda: json_body(**NOIR | {"name": ""}),
    ("deleteTemplateMedia", "jobs_under_way"): lambda: prepare(
        lambda: make_job(template_media={"mood": get_image_id()})
    ),
    ("deleteTemplateMedia", "template_in_use"): lambda: at_path(media_id=make_bound_image().pk),
    ("deleteTemplateMedia", "validation_failed"): lambda: {"params": {"force": "1"}},
    ("getFile", "result_expired"): lambda: prepare(lambda: age(wait_for_job(), EXPIRED_HOURS)),
    ("getGlobalStats", "validation_failed"): lambda: {"params": {"format": "xml"}},
    ("getRecentResults", "validation_failed"): lambda: {"params": {"format": "xml"}},
    ("getSlotStats", "validation_failed"): lambda: {"params": {"format": "xml"}},
    ("getGuestPage", 404): lambda: at_path(**UNKNOWN_PARAMS),
    ("getGuestPage", 410): lambda: prepare(lambda: age(wait_for_job(), EXPIRED_HOURS)),
    ("getGuestPage", 500): cause_internal_error,
    ("getGuestPage", 503): lose_database,
    ("getMedia", "media_expired"): lambda: at_path(media_id=make_media(seconds=-1).pk),
    ("getMetrics", "invalid_credentials"): lambda: prepare(context=override_settings(METRICS_TOKEN="t0ken")),
    ("getReadiness", 503): lose_database,
    ("getResult", "result_expired"): lambda: prepare(lambda: age(wait_for_job(), EXPIRED_HOURS)),
    ("listJobs", "validation_failed"): lambda: {"params": {"page": "0"}},
    ("listSlotHistory", "validation_failed"): lambda: {"params": {"page": "0"}},
    ("listSlots", "validation_failed"): lambda: {"params": {"page": "0"}},
    ("listTemplateMedia", "validation_failed"): lambda: {"params": {"page": "0"}},
    ("logIn", "invalid_credentials"): lambda: json_body(username="serg", password="a guess"),
    ("logIn", "rate_limited"): log_in_too_often,
    ("purgeMediaCache", "validation_failed"): lambda: json_body(scope="all"),
    ("registerMedia", "job_finalized"): lambda: file_form(job_id=str(make_picture_job().pk)),
    ("registerMedia", "not_found"): lambda: file_form(job_id=UNKNOWN_ID),
    ("registerMedia", "payload_too_large"): lambda: (
        file_form(pad(jpeg())) | prepare(context=override_settings(INGEST_MAX_FILE_BYTES=MEGABYTE))
    ),
    ("registerMedia", "validation_failed"): lambda: file_form(job_id="none"),
    ("registerTemplateMedia", "key_taken"): lambda: prepare(lambda: make_bound_image("style")),
    ("registerTemplateMedia", "not_found"): lambda: template_form(slot_id="slot-099"),
    ("registerTemplateMedia", "payload_too_large"): lambda: template_form(bytes(MAX_MB * 1024 * 1024 + 1)),
    ("testRun", "payload_too_large"): lambda: prepare(lambda: set_slot(size_limit_mb=1)) | file_form(pad(jpeg())),
    ("testRun", "validation_failed"): lambda: file_form(operation_id="none"),
    ("registerTemplateMedia", "validation_failed"): lambda: template_form(setting_key="Style"),
    **{(operation, key): make_changes for operation in NEEDS_WORKER for key, make_changes in WORKER_SPECIAL.items()},
    **{("getFile", key): make_changes for key, make_changes in FILE_SPECIAL.items()},
    **{("getMedia", key): make_changes for key, make_changes in FILE_SPECIAL.items()},
    **{("postPhoto", key): make_changes for key, make_changes in PHOTO_SPECIAL.items()},
    **{("postPhotoToApi", key): make_changes for key, make_changes in PHOTO_SPECIAL.items()},  # the same view
}

# By the code of the refusal: changes to a valid request of any operation, by the media type of its body.
RULES: Mapping[str, Callable[[str], RequestSpec]] = {
    "forbidden": lambda body_type: prepare(make_api=make_api),
    "internal_error": lambda body_type: cause_internal_error(),
    "invalid_credentials": lambda body_type: prepare(make_api=Api),
    "invalid_payload": malformed,
    "media_not_found": lambda body_type: at_path(**UNKNOWN_PARAMS),
    "method_not_allowed": lambda body_type: {"method": "PATCH"},
    "not_acceptable": lambda body_type: {"headers": {"Accept": "text/x-nothing"}},
    "not_found": lambda body_type: at_path(**UNKNOWN_PARAMS),
    "payload_too_large": lambda body_type: raw_body(b" " * BODY_BYTES + b"{}", body_type),
    "queue_unavailable": lambda body_type: lose_database(),
    "result_not_found": lambda body_type: at_path(**UNKNOWN_PARAMS),
    "slot_not_found": lambda body_type: at_path(**UNKNOWN_PARAMS),
    "unsupported_media_type": lambda body_type: raw_body(b"<x/>", "text/xml"),
}
