"""The document's paths that are not DRF's: those of booths, guests, providers and operators.

In `tests/staff/api/`, `test_openapi.py` compares them with the URLs, `test_response_coverage.py` with the responses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from staff.api.openapi import PICTURE_HEADERS, REFUSALS, add_refusals, refer_to_headers

PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp")
PHOTO_REFUSALS = (
    "invalid_payload",
    "invalid_credentials",
    "slot_not_found",
    "method_not_allowed",
    "payload_too_large",
    "unsupported_media_type",
    "queue_busy",
    "rate_limited",
    "budget_exhausted",
    "internal_error",
    "provider_error",
    "queue_unavailable",
    "job_cancelled",
    "provider_unavailable",
    "sync_timeout",
)
READ_REFUSALS = ("method_not_allowed", "queue_unavailable", "internal_error")
DOCUMENT_KINDS = ("json", "vnd.oai.openapi+json", "vnd.oai.openapi")
LIFETIME = ("Cache-Control", "Expires", "PhotoChanger-Result-Expires-At")
UUID = {"type": "string", "format": "uuid"}
JSON_OBJECT = {"type": "object", "additionalProperties": True}
DOCUMENT_CONTENT = {f"application/{kind}": {"schema": JSON_OBJECT} for kind in DOCUMENT_KINDS}
FORM = {
    "type": "object",
    "required": ["password"],
    "properties": {
        "password": {"type": "string", "description": "The ingest password."},
        "fileToUpload": {"type": "string", "format": "binary", "description": "The photo, as this or as `file`."},
        "file": {"type": "string", "format": "binary", "description": "The same under another name."},
        "hash": {"type": "string", "description": "Or `hash_hex`: kept, never checked."},
    },
    "additionalProperties": {"type": "string", "description": "At most 64 fields of 4 KiB; kept with the job."},
}
PHOTO_TYPES = {"contentType": ", ".join((*PICTURE_TYPES, "image/heic", "image/heif"))}
PHOTO_ENCODING = {"fileToUpload": PHOTO_TYPES, "file": PHOTO_TYPES}
CONDITIONS = [
    {"name": name, "in": "header", "description": text, "schema": {"type": "string"}, "example": example}
    for name, text, example in (
        ("Range", "One range of bytes; several, and other units, get the whole file.", "bytes=0-1023"),
        ("If-Range", "An ETag: the range only if it is still the file's, else the whole file.", '"9f86d081"'),
        ("If-None-Match", "ETags that are there already, or `*`.", '"9f86d081"'),
    )
]
ABOUT_PHOTOS = (
    "The answer may take as long as `sync_response_timeout_sec` of the settings, 60 seconds at most: wait a little "
    "longer than that. With `Expect: 100-continue`, what needs no body to be refused is refused before it is sent. "
    "The same photo again, to the same slot and with the same `id`, within two minutes (INGEST_DEDUPE_SECONDS): while "
    "the first is under way, or was not delivered, it gets the picture of the first; after that, a new one."
)
ABOUT_PICTURES = (
    "The picture. multipart/form-data only where the slot says `reply: multipart`: `metadata`, JSON with what the "
    "headers named X-… say, and `image`."
)
READY = {
    "type": "object",
    "required": ["ready", "checks"],
    "properties": {
        "ready": {"type": "boolean"},
        "checks": {"type": "object", "additionalProperties": {"type": "boolean"}},
    },
}


def complete_document(result: dict[str, Any], **_more: Any) -> dict[str, Any]:
    """drf-spectacular's postprocessing hook: completes the document."""
    result["paths"] |= _describe_paths()
    result["paths"] = dict(sorted(result["paths"].items()))
    add_refusals(result)
    _remove_enum_ids(result)
    return result


def _remove_enum_ids(part: Any) -> None:
    """Removes the generator's hashes of enum labels, which depend on the active language."""
    if isinstance(part, dict):
        part.pop("x-spec-enum-id", None)
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _remove_enum_ids(each)


def _describe_paths() -> dict[str, Any]:
    return {
        "/ingest/{slot_id}": {"post": _describe_ingest("postPhoto", "Post a photo and wait for its picture")},
        "/api/ingest/{slot_id}": {"post": _describe_ingest("postPhotoToApi", "The same as /ingest/{slot_id}")},
        "/api/providers/{provider_id}/operations/{operation_id}/schema": _describe_read(
            "getOperationSchema",
            "JSON Schema of an operation's settings",
            "providers",
            {"200": _describe_json("JSON Schema, draft 2020-12.", JSON_OBJECT)},
            ("not_found", "method_not_allowed"),
            _describe_parameter("provider_id"),
            _describe_parameter("operation_id"),
        ),
        "/api/schema": _describe_read(
            "getDocument",
            "This document",
            "document",
            {"200": {"description": "OpenAPI 3.1.", "content": DOCUMENT_CONTENT}},
            ("method_not_allowed", "not_acceptable"),
        ),
        "/api/docs": _describe_read(
            "getDocs",
            "A page to read this document",
            "document",
            {"200": _describe_html("It loads nothing from elsewhere.")},
            ("method_not_allowed", "not_acceptable"),
        ),
        "/public/results/{job_id}": _describe_read(
            "getResult",
            "A job's picture",
            "public",
            {
                "307": {
                    "description": "The picture is at Location, for as long as the result is kept.",
                    "headers": refer_to_headers("Location", *LIFETIME),
                }
            },
            ("result_not_found", "result_expired", *READ_REFUSALS),
            _describe_parameter("job_id", UUID),
            _describe_download(),
        ),
        "/public/files/{token}": _describe_read(
            "getFile",
            "The bytes that a signed link leads to",
            "public",
            _describe_files("Content-Disposition", *LIFETIME),
            ("result_not_found", "result_expired", "range_not_satisfiable", *READ_REFUSALS),
            _describe_parameter("token"),
            _describe_download(),
            *CONDITIONS,
        ),
        "/public/media/{media_id}": _describe_read(
            "getMedia",
            "A temporary file, for a provider that fetches it",
            "public",
            _describe_files(),
            ("media_not_found", "media_expired", "range_not_satisfiable", *READ_REFUSALS),
            _describe_parameter("media_id", UUID),
            *CONDITIONS,
        ),
        "/r/{job_id}": _describe_read(
            "getGuestPage",
            "The guest's page",
            "public",
            {status: _describe_html(text, *GUEST_HEADERS.get(status, ())) for status, text in GUEST_PAGES.items()},
            ("method_not_allowed",),
            _describe_parameter("job_id", UUID),
        ),
        **_describe_operator_paths(),
    }


GUEST_PAGES = {
    "200": "The picture.",
    "404": "There is none.",
    "410": "It was kept for a time, which is over.",
    "500": "A fault of ours.",
    "503": "The database cannot be reached.",
}
GUEST_HEADERS = {"200": LIFETIME, "503": ("Retry-After",)}


def _describe_operator_paths() -> dict[str, Any]:
    status = {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}
    alive = {"200": _describe_json("It does.", status)}
    ready = {"200": _describe_json("Ready.", READY), "503": _describe_json("Not ready; the checks say why.", READY)}
    text = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    refusals = ("invalid_credentials", *READ_REFUSALS)
    return {
        "/healthz": _describe_read("getHealth", "Whether the process serves", "operators", alive),
        "/readyz": _describe_read("getReadiness", "Whether photos can be taken", "operators", ready),
        "/metrics": _describe_read(
            "getMetrics",
            "Metrics, for METRICS_TOKEN as bearer token; where it is unset, for the service's own machine",
            "operators",
            {"200": text},
            refusals,
        ),
    }


def _describe_ingest(operation_id: str, summary: str) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {} for kind in (*PICTURE_TYPES, "multipart/form-data")}
    headers = refer_to_headers(*PICTURE_HEADERS, "X-Result-Url", "X-Result-Expires-At")
    return {
        "operationId": operation_id,
        "summary": summary,
        "description": ABOUT_PHOTOS,
        "tags": ["booth"],
        "parameters": [_describe_parameter("slot_id")],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": FORM, "encoding": PHOTO_ENCODING}},
        },
        "responses": {"200": {"description": ABOUT_PICTURES, "content": content, "headers": headers}},
        REFUSALS: PHOTO_REFUSALS,
    }


def _describe_read(
    operation_id: str,
    summary: str,
    tag: str,
    responses: dict[str, Any],
    refusals: Iterable[str] = ("method_not_allowed",),
    *parameters: dict[str, Any],
) -> dict[str, Any]:
    about = {"operationId": operation_id, "summary": summary, "tags": [tag], "parameters": list(parameters)}
    return {"get": about | {"responses": responses, REFUSALS: tuple(refusals)}}


def _describe_files(*more: str) -> dict[str, Any]:
    """The responses of a file, whole or in part; `more` names further headers."""
    content: dict[str, Any] = {kind: {} for kind in PICTURE_TYPES}
    headers = refer_to_headers("ETag", "Accept-Ranges", *more)
    part = headers | refer_to_headers("Content-Range")
    return {
        "200": {"description": "The file.", "content": content, "headers": headers},
        "206": {"description": "The range that was asked for.", "content": content, "headers": part},
        "304": {"description": "The client has it already.", "headers": headers},
    }


def _describe_json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _describe_html(description: str, *headers: str) -> dict[str, Any]:
    content = {"text/html": {"schema": {"type": "string"}}}
    return {"description": description, "content": content, "headers": refer_to_headers(*headers)}


def _describe_parameter(name: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema or {"type": "string"}}


def _describe_download() -> dict[str, Any]:
    text = "`1`: as an attachment, to be saved."
    return {"name": "download", "in": "query", "description": text, "schema": {"type": "string"}}
