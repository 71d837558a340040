"""The published OpenAPI document (contract §6): its error responses, headers and security scheme.

drf-spectacular reads the DRF views, which `operation` describes; `openapi_paths` describes the other paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drf_spectacular.contrib.rest_framework_simplejwt import SimpleJWTScheme
from drf_spectacular.extensions import OpenApiSerializerExtension

from core.errors import STATUS_OF
from staff.api.base import BODY_BYTES

# The refusals of every endpoint, of every one that needs a token, and of every one that takes a body.
OPEN_REFUSALS = ("not_acceptable", "queue_unavailable", "internal_error")
STAFF_REFUSALS = ("invalid_credentials", "forbidden", *OPEN_REFUSALS)
BODY_REFUSALS = ("invalid_payload", "payload_too_large", "unsupported_media_type")
REFUSALS = "x-refusals"  # a key of operations, until `add_refusals` replaces it

MEANINGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "invalid_payload": ("The request is malformed; details name the fields, if it is one of them.", {}),
    "invalid_credentials": ("The password, name or token is missing or wrong.", {}),
    "forbidden": ("The token's owner has no permission to do this.", {}),
    "not_found": ("There is nothing at this address.", {}),
    "slot_not_found": ("There is no such slot, or it is off.", {}),
    "result_not_found": ("There is no such picture, or it is not ready.", {}),
    "media_not_found": ("There is no such file.", {}),
    "method_not_allowed": ("The address does not take that method.", {}),
    "not_acceptable": ("Answers are JSON.", {}),
    "version_required": ("Say which version is meant: If-Match with the ETag.", {}),
    "version_conflict": ("Somebody has changed it since.", {"updated_at": "2026-11-25T12:00:00.000000Z"}),
    "slot_exists": ("There is a slot with this id already.", {"id": "slot-001"}),
    "jobs_under_way": ("Photos are under way; `force=true` does it all the same.", {"jobs": 2}),
    "key_taken": (
        "The slot has an image under this key; `replace=true` takes its place.",
        {"setting_key": "style"},
    ),
    "template_in_use": (
        "It is used elsewhere; `force=true` removes it all the same.",
        {"used_by": [{"slot_id": "slot-002", "setting_key": "frame"}]},
    ),
    "job_finalized": ("The job has ended; nothing was changed.", {}),
    "result_expired": ("The picture was kept for a limited time, which is over.", {}),
    "media_expired": ("The link has expired.", {}),
    "payload_too_large": ("The body is too large.", {"limit_bytes": 52428800}),
    "unsupported_media_type": ("The type is not taken.", {"allowed": ["image/jpeg", "image/png", "image/webp"]}),
    "range_not_satisfiable": ("The file is shorter than that.", {}),
    "validation_failed": (
        "Values are not accepted; details name the fields.",
        {"ingest.sync_response_timeout_sec": ["Ensure this value is less than or equal to 60."]},
    ),
    "queue_busy": ("Too many photos are under way.", {}),
    "budget_exhausted": ("The slot's budget for today is used up.", {}),
    "rate_limited": ("Too many failed attempts.", {}),
    "internal_error": ("Something went wrong on our side.", {"correlation_id": "0f3b5c0c8f5d4f0c"}),
    "provider_error": (
        (
            "The provider could not make a picture. `details.reason` says why: `no_image` (it answered without one), "
            "`refused` (by its safety rules), `bad_photo`, `bad_template`, `bad_settings`, `auth` (the key), `quota`, "
            "`overloaded` or `slow`."
        ),
        {"reason": "refused", "job_id": "6f1c2f3e-8a55-4a4f-9a2b-0c2d8f1f7a10"},
    ),
    "queue_unavailable": ("The database cannot be reached.", {}),
    "job_cancelled": ("Staff cancelled the job.", {}),
    "provider_unavailable": ("The provider is off, or not asked for a while.", {}),
    "sync_timeout": (
        "The picture was not ready in time.",
        {"job_id": "6f1c2f3e-8a55-4a4f-9a2b-0c2d8f1f7a10", "expires_at": "2026-11-25T12:00:48+00:00"},
    ),
}
ERROR = {
    "type": "object",
    "description": "The one shape of every error.",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "additionalProperties": False,
            "properties": {
                "code": {"type": "string", "enum": sorted(STATUS_OF)},
                "message": {"type": "string", "description": "For people, in the language of Accept-Language."},
                "details": {"type": "object", "additionalProperties": True},
            },
        }
    },
}
TEXT, TIME = {"type": "string"}, {"type": "string", "format": "date-time"}
# Response headers: description, schema, and whether every response that names the header has it.
HEADERS: Mapping[str, tuple[str, Mapping[str, Any], bool]] = {
    "X-Correlation-Id": ("Finds this request in the log.", TEXT, True),
    "Retry-After": ("Seconds after which to try again.", {"type": "integer", "minimum": 1}, True),
    "WWW-Authenticate": ("`Bearer`.", TEXT, True),
    "Allow": ("The methods that there are.", TEXT, True),
    "Location": ("Where it is.", {"type": "string", "format": "uri-reference"}, True),
    "ETag": ("Its version, for If-Match or If-None-Match.", TEXT, True),
    "Accept-Ranges": ("`bytes`.", TEXT, True),
    "Content-Range": ("`bytes first-last/size`, or `bytes */size` where there are none of those.", TEXT, True),
    "Content-Disposition": ("With a name for the file; `attachment`: to be saved.", TEXT, True),
    "Cache-Control": ("`private, max-age=…`: the seconds that are left.", TEXT, True),
    "Expires": ("As PhotoChanger-Result-Expires-At, in the form of HTTP.", TEXT, True),
    "PhotoChanger-Result-Expires-At": ("Until when the picture is there.", TIME, True),
    "X-Job-Id": ("The job.", {"type": "string", "format": "uuid"}, True),
    "X-Outcome": (
        "`original`: the photo itself, because no picture could be made.",
        {"type": "string", "enum": ["made", "fallback", "original"]},
        True,
    ),
    "X-Result-Url": ("The guest's page; not for an `original`.", {"type": "string", "format": "uri"}, False),
    "X-Result-Expires-At": ("Until when it is there; not for an `original`.", TIME, False),
}
PICTURE_HEADERS = ("X-Job-Id", "X-Outcome", "Content-Disposition")
REFUSAL_HEADERS = {
    "401": "WWW-Authenticate",
    "405": "Allow",
    "416": "Content-Range",
    "429": "Retry-After",
    "503": "Retry-After",
}
HEADER_NAMES = "x-header-names"  # a key of operations, until `add_refusals` replaces it
# Details in the example of a refusal, where they differ between a JSON body and a form.
JSON_DETAILS: Mapping[str, Mapping[str, Any]] = {
    "payload_too_large": {"limit_bytes": BODY_BYTES},
    "unsupported_media_type": {"allowed": ["application/json"]},
}


class BearerToken(SimpleJWTScheme):  # type: ignore[no-untyped-call]
    target_class = "staff.api.base.StaffTokens"
    name = "staffToken"


class ClosedObjects(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Declares that unknown fields are refused, as `StrictSerializer` does."""

    target_class = "staff.api.serializers.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)  # noqa: SLF001 - the documented way
        return {**schema, "additionalProperties": False}


def add_refusals(document: dict[str, Any]) -> None:
    """Replaces each operation's refusal codes by responses, and adds the headers that every response has."""
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = ERROR
    components["headers"] = {name: _make_header(name) for name in HEADERS}
    components["responses"] = refusals = {}
    for path in document["paths"].values():
        for each in path.values():
            headers = refer_to_headers("X-Correlation-Id", *each.pop(HEADER_NAMES, ()))
            for response in each["responses"].values():
                response["headers"] = response.get("headers", {}) | headers
            is_form = "multipart/form-data" in each.get("requestBody", {}).get("content", {})
            for status, codes in _group_by_status(each.pop(REFUSALS, ())):
                json_details = {} if is_form else {code: JSON_DETAILS[code] for code in codes if code in JSON_DETAILS}
                name = "-".join(codes) + ("-json" if json_details else "")
                refusals[name] = _make_response(status, codes, json_details)
                each["responses"][status] = {"$ref": f"#/components/responses/{name}"}


def _group_by_status(codes: Iterable[str]) -> Iterable[tuple[str, list[str]]]:
    """In the order of `STATUS_OF`, so that the same codes give the same component for every operation."""
    by_status: dict[str, list[str]] = {}
    for code in sorted({*codes}, key=[*STATUS_OF].index):
        by_status.setdefault(str(STATUS_OF[code]), []).append(code)
    return by_status.items()


def _make_response(status: str, codes: list[str], json_details: Mapping[str, Any]) -> dict[str, Any]:
    content = {
        "schema": {"$ref": "#/components/schemas/Error"},
        "examples": {code: {"value": _make_example(code, json_details)} for code in codes},
    }
    names = [REFUSAL_HEADERS[status]] if status in REFUSAL_HEADERS else []
    if "job_cancelled" in codes:  # it has no Retry-After: a new attempt makes no sense
        names = [f"{name}?" for name in names]
    return {
        "description": " ".join(f"`{code}`: {MEANINGS[code][0]}" for code in codes),
        "content": {"application/json": content},
        "headers": refer_to_headers("X-Correlation-Id", *names),
    }


def _make_example(code: str, json_details: Mapping[str, Any]) -> dict[str, Any]:
    message, details = MEANINGS[code]
    return {"error": {"code": code, "message": message, "details": dict(json_details.get(code, details))}}


def refer_to_headers(*names: str) -> dict[str, Any]:
    """References to `HEADERS`. With a question mark: not every response has the header, whatever `HEADERS` says."""
    return {
        name.rstrip("?"): {"$ref": f"#/components/headers/{name}"} if name in HEADERS else _make_header(name)
        for name in names
    }


def _make_header(name: str) -> dict[str, Any]:
    text, schema, is_required = HEADERS[name.rstrip("?")]
    required = {"required": True} if is_required and name in HEADERS else {}
    return {"description": text, **required, "schema": dict(schema)}
