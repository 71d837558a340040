"""The breaking changes that `make check` reports between the released document and the present one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from tests.api import load_document
from tests.api_changes import find_announced, find_breaking_changes

pytestmark = pytest.mark.unit

BASE: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
FORM = "multipart/form-data"
BEARER, KEY = {"type": "http", "scheme": "bearer"}, {"type": "apiKey", "in": "header", "name": "X-Key"}
STRING, NUMBER, WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}


def api(**parts: Any) -> dict[str, Any]:
    """A document of one operation. Its parts: `request` and `response` are schemas, the others the operation's own."""
    request, response = parts.pop("request", BASE), parts.pop("response", BASE)
    about = {
        "operationId": "doIt",
        "description": "Takes the permission `slots:write`.",
        "security": [{"staffToken": []}],
        "parameters": [{"in": "query", "name": "page", "schema": WHOLE}],
        "requestBody": {"content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {"content": {"application/json": {"schema": response}}, "headers": {"ETag": {"required": True}}},
            "429": refusal("busy", "limited"),
        },
    }
    components = {
        "schemas": {"Error": parts.pop("error", error())} | parts.pop("schemas", {}),
        "securitySchemes": {"staffToken": parts.pop("scheme", BEARER), "key": KEY},
    }
    return {"paths": {"/it": {parts.pop("method", "post"): about | parts}}, "components": components}


def error(codes: tuple[str, ...] = ("busy", "limited"), **more: Any) -> dict[str, Any]:
    inner = {"type": "object", "properties": {"code": {"enum": [*codes]}} | more, "required": ["code", *more]}
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}


def refusal(*codes: str) -> dict[str, Any]:
    examples: dict[str, Any] = {code: {"value": {}} for code in codes}
    return {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}, "examples": examples}}}


def responses(headers: Any = None, **refusals: Any) -> dict[str, Any]:
    """The default responses with these changes; None removes one."""
    default = api()["paths"]["/it"]["post"]["responses"]
    default["200"] |= {} if headers is None else {"headers": headers}
    return {status: each for status, each in (default | refusals).items() if each is not None}


def form(*types: str) -> dict[str, Any]:
    return {"content": {FORM: {"schema": BASE, "encoding": {"a": {"contentType": ", ".join(types)}} if types else {}}}}


def fields(required: tuple[str, ...] = ("a",), **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": STRING} | more, "required": [*required]}


def query(name: str = "page", schema: Any = WHOLE, **more: Any) -> dict[str, Any]:
    return {"in": "query", "name": name, "schema": schema} | more


def content(schema: Any = BASE, kind: str = "application/json") -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}


OPERATIONS: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("nothing", {}, {}, []),
    ("another method", {}, {"method": "put"}, ["it is gone"]),
    ("another name", {}, {"operationId": "did"}, ["it is called did"]),
    ("other words", {}, {"description": "It does. Takes the permission `slots:write`."}, []),
    (
        "a permission",
        {},
        {"description": "Takes the permission `settings:write`."},
        ["it takes settings:write"],
    ),
    ("a token", {"security": [], "description": ""}, {"description": ""}, ["it takes staffToken"]),
    ("another token", {}, {"security": [{"key": []}]}, ["it takes key"]),
    ("a token of another kind", {}, {"scheme": KEY}, ["it takes staffToken"]),
    ("a token by another name", {"scheme": KEY}, {"scheme": KEY, "security": [{"key": []}]}, []),
    ("one of two tokens", {}, {"security": [{"key": []}, {"staffToken": []}]}, []),
    ("one of two tokens less", {"security": [{"key": []}, {"staffToken": []}]}, {}, ["it takes staffToken"]),
    ("no token any more", {}, {"security": [], "description": "Takes no token."}, []),
    ("a parameter more", {}, {"parameters": [query(), query("size")]}, []),
    (
        "a parameter more that must be",
        {},
        {"parameters": [query(), query("size", required=True)]},
        ["query parameter size is required"],
    ),
    ("a parameter that must be", {}, {"parameters": [query(required=True)]}, ["query parameter page is required"]),
    ("a parameter less", {}, {"parameters": []}, ["query parameter page is gone"]),
    (
        "a parameter of less",
        {},
        {"parameters": [query(schema=WHOLE | {"maximum": 9})]},
        ["query parameter page: maximum None where it is 9"],
    ),
    ("a parameter of more", {"parameters": [query(schema=WHOLE | {"maximum": 9})]}, {}, []),
    (
        "a parameter that means another",
        {"parameters": [query(schema=WHOLE | {"default": 1})]},
        {"parameters": [query(schema=WHOLE | {"default": 0})]},
        ["query parameter page: default 0 where it was 1"],
    ),
    ("no body", {}, {"requestBody": {}}, ["body is gone"]),
    ("a body", {"requestBody": {}}, {}, []),
    (
        "a body that must be",
        {"requestBody": {}},
        {"requestBody": content() | {"required": True}},
        ["a body is required"],
    ),
    (
        "a body of another type",
        {},
        {"requestBody": content(kind="multipart/form-data")},
        ["body: application/json is gone"],
    ),
    (
        "a part of a type less",
        {"requestBody": form("image/png", "image/gif")},
        {"requestBody": form("image/png")},
        ["gif"],
    ),
    ("a part of a type more", {"requestBody": form("image/png")}, {"requestBody": form("image/gif", "image/png")}, []),
    (
        "a part of no type",
        {"requestBody": form("image/png")},
        {"requestBody": form()},
        ["body: a as image/png is gone"],
    ),
    ("a response more", {}, {"responses": responses(**{"202": {}})}, []),
    (
        "a response of another status",
        {},
        {"responses": responses(**{"200": None, "202": content()})},
        ["200 is gone"],
    ),
    (
        "a response of another type",
        {},
        {"responses": responses(**{"200": content(kind="text/csv")})},
        ["ETag", "application/json"],
    ),
    ("a header less", {}, {"responses": responses(headers={})}, ["200: ETag is gone"]),
    ("a header that may be missing", {}, {"responses": responses(headers={"ETag": {}})}, ["200: ETag may be missing"]),
    ("a refusal more", {}, {"responses": responses(**{"409": refusal("taken")})}, []),
    ("a refusal less", {}, {"responses": responses(**{"429": None})}, ["429 is gone"]),
    (
        "a refusal of another status",
        {},
        {"responses": responses(**{"429": None, "420": refusal("busy", "limited")})},
        ["429 is gone"],
    ),
    ("a code more", {}, {"responses": responses(**{"429": refusal("busy", "limited", "spent")})}, []),
    ("a code less", {}, {"responses": responses(**{"429": refusal("busy")})}, ["429: limited is gone"]),
]


@pytest.mark.parametrize(("old", "new", "expected"), [pytest.param(*row[1:], id=row[0]) for row in OPERATIONS])
def test_changes_of_an_operation_are_found(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    found = sorted(change for name, change in find_breaking_changes(api(**old), api(**new)) if name == "doIt")
    assert len(found) == len(expected)
    assert all(part in change for part, change in zip(expected, found, strict=True))


# Two schemas; what is wrong when the first becomes the second in a request, and in a response ("": nothing).
SCHEMAS: list[tuple[str, Any, Any, str, str]] = [
    ("a field more", fields(), fields(b=STRING), "", ""),
    ("a field more that must be", fields(), fields(("a", "b"), b=STRING), "b is required", ""),
    ("a field that must be", fields(b=STRING), fields(("a", "b"), b=STRING), "b is required", ""),
    ("a field that may be missing", fields(("a", "b"), b=STRING), fields(b=STRING), "", "b may be missing"),
    ("a field less", fields(b=STRING), fields(), "b is gone", "b is gone"),
    ("a field less that was always there", fields(("a", "b"), b=STRING), fields(), "b is gone", "b is gone"),
    ("another type", fields(b=STRING), fields(b=WHOLE), "string where", "integer where"),
    ("a wider type", fields(b=WHOLE), fields(b=NUMBER), "", "number where"),
    ("null too", fields(b=STRING), fields(b={"type": ["string", "null"]}), "", "null where"),
    ("any type", fields(b=STRING), fields(b={}), "", "where it is string"),
    ("a word more", fields(b={"enum": ["x"]}), fields(b={"enum": ["x", "y"]}), "", "['x', 'y'] where"),
    ("a word less", fields(b={"enum": ["x", "y"]}), fields(b={"enum": ["x"]}), "['x', 'y'] where", ""),
    ("only one word", fields(b=STRING), fields(b=STRING | {"const": "x"}), "anything where", ""),
    ("a higher limit", fields(b={"maximum": 5}), fields(b={"maximum": 6}), "", "maximum 6"),
    ("a lower least", fields(b={"minLength": 5}), fields(b={"minLength": 4}), "", "minLength 4"),
    ("a higher least", fields(b={"minLength": 4}), fields(b={"minLength": 5}), "minLength 4", ""),
    ("no limit", fields(b={"maxLength": 5}), fields(b={}), "", "maxLength None"),
    ("a form", fields(b=STRING), fields(b=STRING | {"format": "uuid"}), "format None", ""),
    ("no pattern", fields(b=STRING | {"pattern": "x"}), fields(b=STRING), "", "pattern None"),
    ("no other fields", fields(), fields() | {"additionalProperties": False}, "no other fields", ""),
    ("other fields", fields() | {"additionalProperties": False}, fields(), "", ""),
    (
        "other fields of another type",
        {"additionalProperties": STRING},
        {"additionalProperties": WHOLE},
        ".*: string where",
        ".*: integer where",
    ),
    ("items", {"items": STRING}, {"items": {}}, "", "[]: "),
    ("deep inside", {"items": fields(b=fields())}, {"items": fields(b=fields(()))}, "", "[].b.a may be missing"),
    ("a choice more", {"oneOf": [STRING]}, {"oneOf": [STRING, WHOLE]}, "", "integer where"),
    ("a choice less", {"anyOf": [STRING, WHOLE]}, {"anyOf": [STRING]}, "integer where", ""),
    ("another meaning of none", fields(b={"default": 1}), fields(b={"default": 2}), "default 2 where it was 1", ""),
    ("no meaning of none", fields(b={"default": 1}), fields(b={}), "default None where it was 1", ""),
    ("parts of one", {"allOf": [fields(), fields(b=STRING)]}, fields(b=STRING), "", ""),
    ("parts of less", {"allOf": [fields(), fields(b=STRING)]}, fields(), "b is gone", "b is gone"),
    ("the same by another name", {"$ref": "#/components/schemas/Tree"}, {"$ref": "#/components/schemas/Same"}, "", ""),
    ("something deep in a tree", {"$ref": "#/components/schemas/Tree"}, {"$ref": "#/components/schemas/Bush"}, "", "w"),
]


def tree(of: str, **leaf: Any) -> dict[str, Any]:
    branches = {"type": "array", "items": {"$ref": f"#/components/schemas/{of}"}}
    return {"type": "object", "properties": {"branches": branches, "leaf": {"type": "string"} | leaf}}


TREES = {"Tree": tree("Tree"), "Same": tree("Same"), "Bush": tree("Bush", type=["string", "null"])}


@pytest.mark.parametrize("part", ["request", "response"])
@pytest.mark.parametrize(
    ("old", "new", "in_request", "in_response"), [pytest.param(*row[1:], id=row[0]) for row in SCHEMAS]
)
def test_changes_of_a_schema_are_found(old: Any, new: Any, in_request: str, in_response: str, part: str) -> None:
    found = [
        change
        for _, change in find_breaking_changes(api(schemas=TREES, **{part: old}), api(schemas=TREES, **{part: new}))
    ]
    expected = in_request if part == "request" else in_response
    assert len(found) == (expected != ""), found
    assert all(expected in change for change in found)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (error(("busy", "limited", "spent")), []),
        (error(message=STRING), []),
        (error(codes=()), []),  # reported for the operations that had them
        (BASE, ["Error.error is gone"]),
        (error() | {"required": []}, ["Error.error may be missing"]),
        (error() | {"type": "array"}, ["Error: array where it is object"]),
    ],
)
def test_the_envelope_is_compared_on_its_own(new: dict[str, Any], expected: list[str]) -> None:
    assert [*find_breaking_changes(api(), api(error=new))] == [("Error", change) for change in expected]


def test_our_own_document_does_not_break_with_itself() -> None:
    assert [*find_breaking_changes(load_document(), load_document())] == []


def test_only_entries_under_unreleased_announce() -> None:
    text = (
        "# Changelog\n\n## Unreleased\n\n- A field.\n- Breaking: getIt, putIt\n  and listIt are gone.\n- Not doIt.\n\n"
    )
    assert {"getIt", "putIt", "listIt"} <= find_announced(text + "## 0.1.0\n\n- Breaking: oldIt.\n")
    assert not {"doIt", "oldIt", "A"} & find_announced(text + "## 0.1.0\n\n- Breaking: oldIt.\n")


def run_check(folder: Path) -> tuple[int, str]:
    """Runs the check as `make check` does. Returns its exit code and output."""
    command = [sys.executable, "-m", "tests.api_changes", str(folder)]
    run = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    return run.returncode, run.stdout


def write_release(folder: Path, changelog: str, **change: Any) -> None:
    (folder / "docs").mkdir()
    (folder / "docs/openapi-released.yaml").write_text(yaml.safe_dump(api()))
    (folder / "openapi.yaml").write_text(yaml.safe_dump(api(**change)))
    (folder / "CHANGELOG.md").write_text(f"## Unreleased\n\n{changelog}\n")


@pytest.mark.parametrize(
    ("changelog", "change", "code", "expected"),
    [
        ("- Nothing.", {}, 0, ""),
        ("- Nothing.", {"method": "put"}, 1, "BREAKING: doIt: it is gone"),
        ("- Breaking: doThat goes.", {"method": "put"}, 1, "BREAKING: doIt: it is gone"),
        ("- Breaking: doIt is done by PUT.", {"method": "put"}, 0, "Meant: doIt: it is gone"),
    ],
)
def test_the_check_fails_unless_the_changelog_says_that_it_is_meant(
    tmp_path: Path, changelog: str, change: dict[str, Any], code: int, expected: str
) -> None:
    write_release(tmp_path, changelog, **change)
    assert run_check(tmp_path)[0] == code
    assert expected in run_check(tmp_path)[1]


def test_before_the_first_release_nothing_breaks(tmp_path: Path) -> None:
    code, output = run_check(tmp_path)
    assert (code, "No release yet" in output) == (0, True)


def test_the_repositorys_own_check_passes() -> None:
    assert run_check(Path(settings.BASE_DIR))[0] == 0
