"""The published document: it is what the code says, it describes every address there is, and what it says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from django.conf import settings
from django.core.management import call_command
from django.urls import get_resolver
from jsonschema import Draft202012Validator

from jobs.models import Job
from photoslot.api import SCOPES
from photoslot.errors import STATUS_OF
from photoslot.openapi import MEANINGS
from tests.api import JSON, Api, answers, conforms, document, envelope, held, may, operations, validator
from tests.conftest import Booth, jpeg, use_sandbox
from tests.ingest.helpers import form

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("database")]

OPERATIONS = [pytest.param(method, path, about, id=about["operationId"]) for method, path, about in operations()]


def test_the_committed_document_is_what_the_code_says(tmp_path: Path) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", file=tmp_path / "openapi.yaml")
    assert (tmp_path / "openapi.yaml").read_text() == Path(settings.BASE_DIR, "openapi.yaml").read_text()


def test_it_describes_every_address_and_no_other() -> None:
    routes = [str(pattern.pattern) for pattern in get_resolver().url_patterns]
    addresses = {"/" + re.sub(r"<\w+:(\w+)>", r"{\1}", route) for route in routes if not route.startswith("admin/")}
    assert set(document()["paths"]) == addresses
    assert document()["openapi"].startswith("3.1")


def test_operations_have_names_of_their_own() -> None:
    names = [about["operationId"] for _, _, about in operations()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("method", "path", "about"), OPERATIONS)
def test_each_operation_says_what_it_does_and_how_it_refuses(method: str, path: str, about: dict[str, Any]) -> None:
    assert about["summary"]
    assert about["tags"]
    statuses = set(about["responses"])
    assert statuses & {"200", "201", "202", "204", "307"}
    assert statuses & {"404", "405", "406"}
    assert ("security" in about) == ("403" in statuses)
    assert ("security" in about) <= ({"401", "403"} <= statuses)
    assert ("requestBody" in about) <= ({"400", "413", "415"} <= statuses)


@pytest.mark.parametrize(("method", "path", "about"), OPERATIONS)
def test_each_example_is_what_its_schema_says(method: str, path: str, about: dict[str, Any]) -> None:
    contents = [answer.get("content", {}) for answer in answers(about).values()]
    contents += [about["requestBody"]["content"]] if "requestBody" in about else []
    for content in (content[JSON] for content in contents if JSON in content):
        examples = [example["value"] for example in content.get("examples", {}).values()]
        assert examples or "$ref" not in content["schema"], "no example"
        for example in examples:
            validator(content["schema"]).validate(example)


def test_each_code_of_the_envelope_is_explained() -> None:
    assert MEANINGS.keys() == STATUS_OF.keys()


def test_its_schemas_are_schemas() -> None:
    for schema in document()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("application/vnd.oai.openapi+json", "application/vnd.oai.openapi+json"),
        ("application/vnd.oai.openapi", "application/vnd.oai.openapi"),
    ],
)
def test_it_is_served_as_json_and_as_yaml(accept: str, content_type: str) -> None:
    answer = Api()("get", "/api/schema", headers={"Accept": accept, "Accept-Language": "ru"})
    assert answer.headers["Content-Type"].partition(";")[0] == content_type
    assert yaml.safe_load(answer.content) == document()


def test_neither_it_nor_its_page_is_served_as_what_they_are_not() -> None:
    envelope(Api()("get", "/api/schema", headers={"Accept": "image/png"}), 406, "not_acceptable")
    envelope(Api()("get", "/api/docs", headers={"Accept": "image/png"}), 406, "not_acceptable")


@pytest.mark.e2e
def test_the_page_to_read_it_loads_only_what_this_service_has(web: httpx.Client) -> None:
    page = web.get("/api/docs")
    conforms("get", "/api/docs", page.status_code, page.headers["Content-Type"], None)
    assert not re.search(r"https?://|[\"']//", page.text.replace("http://www.w3.org", ""))
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) >= 3
    assert {web.get(address).status_code for address in loaded} == {200}
    assert '"/api/schema"' in page.text
    assert '"validatorUrl": null' in page.text


@pytest.mark.e2e
def test_the_booths_door_answers_as_the_document_says(web: httpx.Client) -> None:
    use_sandbox("instant")
    asked = [
        form(jpeg()),
        form(None),
        form(jpeg(), password="wrong"),
        form(b"no photo"),
        form(b"GIF89a" + b"\0" * 100),
    ]
    assert [held(web, "post", "/ingest/slot-001", **each).status_code for each in asked] == [200, 400, 401, 400, 400]
    assert held(web, "post", "/api/ingest/slot-099", **form(jpeg())).status_code == 404
    assert held(web, "get", "/api/ingest/slot-001").status_code == 405
    use_sandbox("instant", "refused")
    assert held(web, "post", "/ingest/slot-001", **form(jpeg(colour="red"))).status_code == 502


@pytest.mark.e2e
def test_the_guests_doors_answer_as_the_document_says(web: httpx.Client, booth: Booth) -> None:
    use_sandbox("instant")
    job_id = Job.objects.get(pk=httpx.Headers(dict(booth.post(jpeg()).headers))["X-Job-Id"]).pk
    nobody = "00000000-0000-4000-8000-000000000000"
    moved = held(web, "get", f"/public/results/{job_id}")
    there = moved.headers["Location"]
    assert moved.status_code == 307
    etag = held(web, "get", there).headers["ETag"]
    asked: list[tuple[str, dict[str, str], int]] = [
        (there, {}, 200),
        (there, {"Range": "bytes=0-9"}, 206),
        (there, {"If-None-Match": etag}, 304),
        (there, {"Range": "bytes=999999999-"}, 416),
        ("/public/files/forged", {}, 404),
        (f"/public/results/{nobody}", {}, 404),
        (f"/public/media/{nobody}", {}, 404),
        (f"/r/{job_id}", {}, 200),
        (f"/r/{nobody}", {}, 404),
    ]
    for path, headers, status in asked:
        assert held(web, "get", path, headers=headers).status_code == status, path


@pytest.mark.e2e
@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/api/providers/studio/operations/image_edit/schema"]
)
def test_the_operators_and_programs_doors_answer_as_the_document_says(web: httpx.Client, path: str) -> None:
    assert held(web, "get", path).status_code in (200, 503)
    assert held(web, "post", path).status_code == 405


@pytest.mark.e2e
def test_whatever_a_program_makes_up_is_answered_as_the_document_says(web: httpx.Client, tmp_path: Path) -> None:
    """Schemathesis: requests that fit the document, and requests that do not."""
    committed = str(Path(settings.BASE_DIR, "openapi.yaml"))
    asked = [str(Path(sys.executable).with_name("st")), "run", committed, "--url", str(web.base_url)]
    asked += ["--header", f"Authorization: {may(*SCOPES).headers['Authorization']}"]
    tags = ("login", "providers", "settings", "slots", "template media", "media", "jobs", "document")
    asked += [part for tag in tags for part in ("--include-tag", tag)]
    asked += ["--max-examples", "25", "--seed", "1", "--suppress-health-check", "all", "--no-color"]
    asked += ["--exclude-checks", "positive_data_acceptance"]  # a schema does not say every rule: those are the 422s
    run = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
