"""Finds breaking changes of the API's document since the last release. `make check` runs it; see CONTRIBUTING.

It compares two OpenAPI 3.1 documents by this rule: every request that was accepted is still accepted, and every
response is one that clients of the old document can read. Refusals may gain statuses and codes, and lose none.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

SCOPE = re.compile(r"Takes the permission `([a-z:]+)`")  # as `staff.api.operation` writes it
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
SAME = ("format", "pattern", "multipleOf", "contentMediaType")
ENVELOPE = {"$ref": "#/components/schemas/Error"}  # of each refusal, so compared once
TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")


def find_breaking_changes(old: Json, new: Json) -> Iterator[tuple[str, str]]:
    """Yields the name (`operationId`) of the operation and the change, for each breaking change."""
    for path, methods in old["paths"].items():
        for method, about in methods.items():
            new_about = new["paths"].get(path, {}).get(method)
            comparison = Comparison(old, new)
            for change in ["it is gone"] if new_about is None else comparison.compare_operations(about, new_about):
                yield about["operationId"], change
    if "Error" in old["components"]["schemas"]:
        for change in Comparison(old, new).compare_schemas(ENVELOPE, ENVELOPE, "Error", is_request=False):
            if not change.startswith("Error.error.code: ["):  # new codes are allowed; an operation reports lost ones
                yield "Error", change


@dataclass(frozen=True)
class Comparison:
    """Compares parts of two documents; yields what breaks."""

    old: Json
    new: Json

    def compare_operations(self, old: Json, new: Json) -> Iterator[str]:
        if old["operationId"] != new["operationId"]:
            yield f"it is called {new['operationId']}"
        before, after = SCOPE.findall(old.get("description", "")), SCOPE.findall(new.get("description", ""))
        if after not in ([], before):
            yield f"it takes {', '.join(after)}"
        schemes, new_schemes = _list_security(self.old, old), _list_security(self.new, new)
        if {} not in new_schemes and any(scheme not in new_schemes for scheme in schemes):
            yield f"it takes {' or '.join(name for each in new['security'] for name in each)}"
        yield from self._compare_parameters(_get_parameters(self.old, old), _get_parameters(self.new, new))
        body, new_body = _resolve(self.old, old.get("requestBody", {})), _resolve(self.new, new.get("requestBody", {}))
        if new_body.get("required") and not body.get("required"):
            yield "a body is required"
        yield from self._compare_contents(body, new_body, "body", is_request=True)
        for status, response in old["responses"].items():
            new_response = _resolve(self.new, new["responses"].get(status, {}))
            yield from self._compare_contents(_resolve(self.old, response), new_response, status, is_request=False)

    def _compare_parameters(self, old: dict[str, Json], new: dict[str, Json]) -> Iterator[str]:
        yield from (f"{name} is gone" for name in old if name not in new)
        for name, parameter in new.items():
            if parameter.get("required") and not old.get(name, {}).get("required"):
                yield f"{name} is required"
            if name in old:
                yield from self.compare_schemas(old[name]["schema"], parameter["schema"], name, True)

    def _compare_contents(self, old: Json, new: Json, where: str, *, is_request: bool) -> Iterator[str]:
        if old and not new:
            yield f"{where} is gone"
            return
        for part in ("content", "headers"):
            yield from (f"{where}: {name} is gone" for name in old.get(part, {}) if name not in new.get(part, {}))
        for name, header in old.get("headers", {}).items():
            new_header = _resolve(self.new, new.get("headers", {}).get(name, header))
            if _resolve(self.old, header).get("required") and not new_header.get("required"):
                yield f"{where}: {name} may be missing"
        for kind in old.get("content", {}).keys() & new.get("content", {}).keys():
            before, after = old["content"][kind], new["content"][kind]
            for name in sorted(_list_types_and_codes(before) - _list_types_and_codes(after)):
                yield f"{where}: {name} is gone"
            if not before.get("schema") == after.get("schema") == ENVELOPE:
                yield from self.compare_schemas(before.get("schema", {}), after.get("schema", {}), where, is_request)

    def compare_schemas(
        self, old: Any, new: Any, where: str, is_request: bool, seen: tuple[tuple[Any, Any], ...] = ()
    ) -> Iterator[str]:
        """In a request, the new schema must accept what the old one did; in a response, the reverse."""
        refs = (old["$ref"], new["$ref"]) if "$ref" in old and "$ref" in new else None
        if refs in seen:
            return
        seen = (*seen, refs) if refs else seen
        olds, news = _expand(self.old, old), _expand(self.new, new)
        for value in olds if is_request else news:
            pairs = [(value, each) for each in news] if is_request else [(each, value) for each in olds]
            yield from min(
                (list(self._compare_alternatives(*pair, where, is_request, seen)) for pair in pairs), key=len
            )

    def _compare_alternatives(
        self, old: Json, new: Json, where: str, is_request: bool, seen: tuple[tuple[Any, Any], ...]
    ) -> Iterator[str]:
        narrow, wide = (old, new) if is_request else (new, old)
        yield from (f"{where}: {misfit}" for misfit in _find_misfits(narrow, wide))
        if is_request and "default" in old and old["default"] != new.get("default"):
            yield f"{where}: default {new.get('default')} where it was {old['default']}"
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in sorted({*wide.get("required", ())} - {*narrow.get("required", ())}):
            if is_request or name in after:
                yield f"{where}.{name} is required" if is_request else f"{where}.{name} may be missing"
        yield from (f"{where}.{name} is gone" for name in before if name not in after)
        for name in before.keys() & after.keys():
            yield from self.compare_schemas(before[name], after[name], f"{where}.{name}", is_request, seen)
        others, new_others = _get_other_fields(old), _get_other_fields(new)
        if is_request and others is not None and new_others is None:
            yield f"{where} takes no other fields"
        if (others or new_others) and None not in (others, new_others):
            yield from self.compare_schemas(others or {}, new_others or {}, f"{where}.*", is_request, seen)
        if "items" in old or "items" in new:
            yield from self.compare_schemas(old.get("items", {}), new.get("items", {}), f"{where}[]", is_request, seen)


def _find_misfits(narrow: Json, wide: Json) -> Iterator[str]:
    """Yields what the first schema accepts and the second does not, nested schemas aside."""
    if extra := _types(narrow) - _types(wide):
        yield f"{' or '.join(sorted(extra))} where it is {wide['type']}"
    some, allowed = _choices(narrow), _choices(wide)
    if allowed is not None and (some is None or any(each not in allowed for each in some)):
        yield f"{some or 'anything'} where it is {allowed}"
    for name in (*UPPER, *LOWER):
        sign = 1 if name in UPPER else -1
        if name in wide and (name not in narrow or narrow[name] * sign > wide[name] * sign):
            yield f"{name} {narrow.get(name)} where it is {wide[name]}"
    for name in SAME:
        if name in wide and narrow.get(name) != wide[name]:
            yield f"{name} {narrow.get(name)} where it is {wide[name]}"


def _types(schema: Json) -> set[str]:
    named = schema.get("type", TYPES)
    types = {named} if isinstance(named, str) else {*named}
    return types | {"integer"} if "number" in types else types


def _choices(schema: Json) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _get_other_fields(schema: Json) -> Json | None:
    """The schema of fields that it does not name; None if it allows no others."""
    more = schema.get("additionalProperties", True)
    return None if more is False else {} if more is True else dict(more)


def _list_types_and_codes(content: Json) -> set[str]:
    """The media types that its parts may have, and, of a refusal, its codes."""
    types = {
        f"{name} as {kind.strip()}"
        for name, part in content.get("encoding", {}).items()
        for kind in part.get("contentType", "").split(",")
    }
    return types | {*(content["examples"] if content.get("schema") == ENVELOPE else ())}


def _list_security(document: Json, about: Json) -> list[Json]:
    """The alternative security schemes, by definition instead of by name. `{}`: no login is needed."""
    schemes = document["components"].get("securitySchemes", {})
    return [{str(schemes[name]): scopes for name, scopes in each.items()} for each in about.get("security") or [{}]]


def _resolve(document: Json, part: Json) -> Json:
    """The part, with its reference replaced by the target."""
    while "$ref" in part:
        target: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        part = target | {name: value for name, value in part.items() if name != "$ref"}
    return dict(part)


def _expand(document: Json, schema: Json) -> list[Json]:
    """Schemas of which one must accept the value, without references, `allOf`, `oneOf` and `anyOf` at their top."""
    whole = _resolve(document, schema)
    choices = [[each] for each in whole.pop("allOf", [])]
    choices += [whole.pop(name) for name in ("oneOf", "anyOf") if name in whole]
    found = [whole]
    for options in choices:
        found = [_merge_schemas(a, b) for a in found for option in options for b in _expand(document, option)]
    return found


def _merge_schemas(one: Json, other: Json) -> Json:
    properties = one.get("properties", {}) | other.get("properties", {})
    required = [*one.get("required", ()), *other.get("required", ())]
    return (
        one | other | ({"properties": properties} if properties else {}) | ({"required": required} if required else {})
    )


def _get_parameters(document: Json, about: Json) -> dict[str, Json]:
    found = [_resolve(document, each) for each in about.get("parameters", ())]
    return {f"{each['in']} parameter {each['name']}": each for each in found}


def find_announced(changelog: str) -> set[str]:
    """All words of the entries "- Breaking: …" under "Unreleased", among them names of operations."""
    unreleased = changelog.partition("## Unreleased")[2].partition("\n## ")[0]
    entries = re.findall(r"^- Breaking:((?:.|\n(?!-))*)", unreleased, re.MULTILINE)
    return {word for entry in entries for word in re.findall(r"\w+", entry)}


def main(root: Path) -> int:
    released = root / "docs/openapi-released.yaml"
    if not released.exists():
        sys.stdout.write("No release yet: there is nothing that the API's document could break with.\n")
        return 0
    old, new = (yaml.safe_load(path.read_text()) for path in (released, root / "openapi.yaml"))
    intended = find_announced((root / "CHANGELOG.md").read_text())
    changes = [*find_breaking_changes(old, new)]
    for name, change in changes:
        sys.stdout.write(f"{'Meant' if name in intended else 'BREAKING'}: {name}: {change}\n")
    if unannounced := {name for name, _ in changes} - intended:
        sys.stdout.write(f'If that is meant, CHANGELOG\'s "Unreleased" says so: "- Breaking: {min(unannounced)} …"\n')
    return 1 if unannounced else 0


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:])))
