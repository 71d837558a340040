"""The published document: it matches the code, describes every URL, and every response matches it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import httpx
import pytest
import yaml
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.urls import get_resolver
from jsonschema import Draft202012Validator

from core.errors import STATUS_OF
from jobs.models import Job
from jobs.storage.links import file_url
from providers.base import Reason
from staff.api.openapi import MEANINGS
from tests import admin_client
from tests.admin_client import make_staff_user
from tests.api import (
    JSON,
    Api,
    check_refusal,
    check_response,
    get_responses,
    get_token,
    list_operations,
    load_document,
    make_validator,
)
from tests.conftest import PASSWORD, use_sandbox
from tests.response_coverage import make_bound_image, make_media, make_result

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("rolled_back_database")]

OPERATIONS = [pytest.param(method, path, about, id=about["operationId"]) for method, path, about in list_operations()]


def test_the_committed_document_is_what_the_code_says(tmp_path: Path) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", file=tmp_path / "openapi.yaml")
    assert (tmp_path / "openapi.yaml").read_text() == Path(settings.BASE_DIR, "openapi.yaml").read_text()


def test_it_describes_every_url_and_no_other() -> None:
    routes = [str(pattern.pattern) for pattern in get_resolver().url_patterns]
    paths = {"/" + re.sub(r"<\w+:(\w+)>", r"{\1}", route) for route in routes if not route.startswith("admin/")}
    assert set(load_document()["paths"]) == paths
    assert load_document()["openapi"].startswith("3.1")


def test_operations_have_names_of_their_own() -> None:
    names = [about["operationId"] for _, _, about in list_operations()]
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
    contents = [response.get("content", {}) for response in get_responses(about).values()]
    contents += [about["requestBody"]["content"]] if "requestBody" in about else []
    for content in (content[JSON] for content in contents if JSON in content):
        examples = [example["value"] for example in content.get("examples", {}).values()]
        assert examples or "$ref" not in content["schema"], "no example"
        for example in examples:
            make_validator(content["schema"]).validate(example)


def test_each_code_of_the_envelope_is_explained() -> None:
    assert MEANINGS.keys() == STATUS_OF.keys()


def test_each_reason_of_a_provider_is_explained() -> None:
    meaning = MEANINGS["provider_error"][0]
    assert [reason for reason in Reason if f"`{reason}`" not in meaning] == [Reason.INTERNAL]  # it is a 500


def test_its_schemas_are_schemas() -> None:
    for schema in load_document()["components"]["schemas"].values():
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
    response = Api()("get", "/api/schema", headers={"Accept": accept, "Accept-Language": "ru"})
    assert response.headers["Content-Type"].partition(";")[0] == content_type
    assert yaml.safe_load(response.content) == load_document()


def test_neither_it_nor_its_page_is_served_as_what_they_are_not() -> None:
    check_refusal(Api()("get", "/api/schema", headers={"Accept": "image/png"}), 406, "not_acceptable")
    check_refusal(Api()("get", "/api/docs", headers={"Accept": "image/png"}), 406, "not_acceptable")


@pytest.mark.e2e
def test_the_page_to_read_it_loads_only_what_this_service_has(web: httpx.Client) -> None:
    page = web.get("/api/docs")
    check_response("get", "/api/docs", page.status_code, page.headers, None)
    urls = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    script = next(web.get(url).text for url in urls if "script=" in url)
    assert not re.search(r"https?://|[\"']//", (page.text + script).replace("http://www.w3.org", ""))
    assert len(urls) >= 4
    assert {web.get(url).status_code for url in urls} == {200}
    assert '"/api/schema"' in script
    assert '"validatorUrl": null' in script


# Requests to the staff API change what booths need, such as the password, so these are tested in a run of their own.
PUBLIC_TAGS = ["booth", "public", "operators", "document", "login"]
TAGS = {tag for _, _, about in list_operations() for tag in about["tags"]}


@pytest.mark.e2e
@pytest.mark.parametrize("tags", [PUBLIC_TAGS, sorted(TAGS - {*PUBLIC_TAGS})], ids=["public", "staff"])
def test_whatever_a_program_generates_is_answered_as_the_document_says(
    web: httpx.Client, tmp_path: Path, tags: list[str]
) -> None:
    """Schemathesis: requests that fit the document, and requests that do not; `tests/schemathesis.toml` says how."""
    user, base = make_staff_user(superuser=True), Path(settings.BASE_DIR)
    User.objects.update(username="serg")  # as in the document's example
    user.refresh_from_db()
    login = {"STAFF_NAME": user.username, "STAFF_PASSWORD": admin_client.PASSWORD}
    config = Template((base / "tests/schemathesis.toml").read_text()).substitute(login | make_objects())
    (tmp_path / "schemathesis.toml").write_text(config)
    command = [str(Path(sys.executable).with_name("st")), "run", str(base / "openapi.yaml"), "--url", str(web.base_url)]
    command += ["--no-color", "--header", f"Authorization: Bearer {get_token(user.username)}"]
    command += [part for tag in tags for part in ("--include-tag", tag)]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(base), "INGEST_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    delivered = Job.objects.filter(failure_reason=None, delivered_at__isnull=False)  # unlike that of `make_objects`
    assert delivered.exists(), "no booth got a picture"


def make_objects() -> dict[str, str]:
    """A job with its picture, a temporary file and a template image, by placeholder in `tests/schemathesis.toml`."""
    use_sandbox("instant")
    job = make_result()
    token = file_url(job).rpartition("/")[2]
    return {"JOB": str(job.pk), "TOKEN": token, "MEDIA": str(make_media(3600).pk), "IMAGE": str(make_bound_image().pk)}
