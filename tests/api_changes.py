"""What in the API's document breaks with the last release: `make check` runs it, CONTRIBUTING says what to do about it.

Two documents of OpenAPI 3.1 are compared, by this rule: a request that was taken is still taken, and an answer is still
what its readers know. Refusals may gain statuses and codes, and lose none.
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

SCOPE = re.compile(r"Takes the permission `([a-z:]+)`")  # as `staff.api.openapi.operation` writes it
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
SAME = ("format", "pattern", "multipleOf", "contentMediaType")
ENVELOPE = {"$ref": "#/components/schemas/Error"}  # of each refusal, so compared once
TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")


def breaking(old: Json, new: Json) -> Iterator[tuple[str, str]]:
    """Each breaking change, behind the name (`operationId`) of the operation."""
    for path, methods in old["paths"].items():
        for method, about in methods.items():
            now = new["paths"].get(path, {}).get(method)
            for change in ["it is gone"] if now is None else Comparison(old, new).operation(about, now):
                yield about["operationId"], change
    if "Error" in old["components"]["schemas"]:
        for change in Comparison(old, new)._schema(ENVELOPE, ENVELOPE, "Error", is_request=False):
            if not change.startswith("Error.error.code: ["):  # there may be more codes; fewer, some operation has lost
                yield "Error", change


@dataclass(frozen=True)
class Comparison:
    """Of parts of two documents."""

    old: Json
    new: Json

    def operation(self, old: Json, new: Json) -> Iterator[str]:
        if old["operationId"] != new["operationId"]:
            yield f"it is called {new['operationId']}"
        before, after = SCOPE.findall(old.get("description", "")), SCOPE.findall(new.get("description", ""))
        if after not in ([], before):
            yield f"it takes {', '.join(after)}"
        keys, locks = _security(self.old, old), _security(self.new, new)
        if {} not in locks and any(key not in locks for key in keys):
            yield f"it takes {' or '.join(name for each in new['security'] for name in each)}"
        yield from self._parameters(_parameters(self.old, old), _parameters(self.new, new))
        body, then = _to(self.old, old.get("requestBody", {})), _to(self.new, new.get("requestBody", {}))
        if then.get("required") and not body.get("required"):
            yield "a body is required"
        yield from self._contents(body, then, "body", is_request=True)
        for status, answer in old["responses"].items():
            then = _to(self.new, new["responses"].get(status, {}))
            yield from self._contents(_to(self.old, answer), then, status, is_request=False)

    def _parameters(self, old: dict[str, Json], new: dict[str, Json]) -> Iterator[str]:
        yield from (f"{name} is gone" for name in old if name not in new)
        for name, parameter in new.items():
            if parameter.get("required") and not old.get(name, {}).get("required"):
                yield f"{name} is required"
            if name in old:
                yield from self._schema(old[name]["schema"], parameter["schema"], name, True)

    def _contents(self, old: Json, new: Json, where: str, *, is_request: bool) -> Iterator[str]:
        if old and not new:
            yield f"{where} is gone"
            return
        for part in ("content", "headers"):
            yield from (f"{where}: {name} is gone" for name in old.get(part, {}) if name not in new.get(part, {}))
        for name, header in old.get("headers", {}).items():
            now = _to(self.new, new.get("headers", {}).get(name, header))
            if _to(self.old, header).get("required") and not now.get("required"):
                yield f"{where}: {name} may be missing"
        for kind in old.get("content", {}).keys() & new.get("content", {}).keys():
            before, after = old["content"][kind], new["content"][kind]
            for name in sorted(_words(before) - _words(after)):
                yield f"{where}: {name} is gone"
            if not before.get("schema") == after.get("schema") == ENVELOPE:
                yield from self._schema(before.get("schema", {}), after.get("schema", {}), where, is_request)

    def _schema(
        self, old: Any, new: Any, where: str, is_request: bool, seen: tuple[tuple[Any, Any], ...] = ()
    ) -> Iterator[str]:
        """Requests: is every value of the old schema one of the new? Answers: every one of the new one of the old?"""
        refs = (old["$ref"], new["$ref"]) if "$ref" in old and "$ref" in new else None
        if refs in seen:
            return
        seen = (*seen, refs) if refs else seen
        olds, news = _alternatives(self.old, old), _alternatives(self.new, new)
        for value in olds if is_request else news:
            pairs = [(value, each) for each in news] if is_request else [(each, value) for each in olds]
            yield from min((list(self._plain(*pair, where, is_request, seen)) for pair in pairs), key=len)

    def _plain(
        self, old: Json, new: Json, where: str, is_request: bool, seen: tuple[tuple[Any, Any], ...]
    ) -> Iterator[str]:
        given, taken = (old, new) if is_request else (new, old)
        yield from (f"{where}: {misfit}" for misfit in _misfits(given, taken))
        if is_request and "default" in old and old["default"] != new.get("default"):
            yield f"{where}: default {new.get('default')} where it was {old['default']}"
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in sorted({*taken.get("required", ())} - {*given.get("required", ())}):
            if is_request or name in after:
                yield f"{where}.{name} is required" if is_request else f"{where}.{name} may be missing"
        yield from (f"{where}.{name} is gone" for name in before if name not in after)
        for name in before.keys() & after.keys():
            yield from self._schema(before[name], after[name], f"{where}.{name}", is_request, seen)
        more, then = _others(old), _others(new)
        if is_request and more is not None and then is None:
            yield f"{where} takes no other fields"
        if (more or then) and None not in (more, then):
            yield from self._schema(more or {}, then or {}, f"{where}.*", is_request, seen)
        if "items" in old or "items" in new:
            yield from self._schema(old.get("items", {}), new.get("items", {}), f"{where}[]", is_request, seen)


def _misfits(given: Json, taken: Json) -> Iterator[str]:
    """What the first schema lets through, by itself, and the second does not."""
    if extra := _types(given) - _types(taken):
        yield f"{' or '.join(sorted(extra))} where it is {taken['type']}"
    some, allowed = _choices(given), _choices(taken)
    if allowed is not None and (some is None or any(each not in allowed for each in some)):
        yield f"{some or 'anything'} where it is {allowed}"
    for name in (*UPPER, *LOWER):
        sign = 1 if name in UPPER else -1
        if name in taken and (name not in given or given[name] * sign > taken[name] * sign):
            yield f"{name} {given.get(name)} where it is {taken[name]}"
    for name in SAME:
        if name in taken and given.get(name) != taken[name]:
            yield f"{name} {given.get(name)} where it is {taken[name]}"


def _types(schema: Json) -> set[str]:
    named = schema.get("type", TYPES)
    types = {named} if isinstance(named, str) else {*named}
    return types | {"integer"} if "number" in types else types


def _choices(schema: Json) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _others(schema: Json) -> Json | None:
    """What fields that it does not name may be; None: there are none."""
    more = schema.get("additionalProperties", True)
    return None if more is False else {} if more is True else dict(more)


def _words(content: Json) -> set[str]:
    """The types that its parts may have, and, of a refusal, its codes."""
    types = {
        f"{name} as {kind.strip()}"
        for name, part in content.get("encoding", {}).items()
        for kind in part.get("contentType", "").split(",")
    }
    return types | {*(content["examples"] if content.get("schema") == ENVELOPE else ())}


def _security(document: Json, about: Json) -> list[Json]:
    """What opens it: each of these, by what the schemes are and not by their names. `{}`: nothing is needed."""
    schemes = document["components"].get("securitySchemes", {})
    return [{str(schemes[name]): scopes for name, scopes in each.items()} for each in about.get("security") or [{}]]


def _to(document: Json, part: Json) -> Json:
    """The part, with what it refers to in its place."""
    while "$ref" in part:
        target: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        part = target | {name: value for name, value in part.items() if name != "$ref"}
    return dict(part)


def _alternatives(document: Json, schema: Json) -> list[Json]:
    """The schema as those of which a value fits one: without references and the three of `oneOf`, at its top."""
    whole = _to(document, schema)
    choices = [[each] for each in whole.pop("allOf", [])]
    choices += [whole.pop(name) for name in ("oneOf", "anyOf") if name in whole]
    found = [whole]
    for options in choices:
        found = [_both(a, b) for a in found for option in options for b in _alternatives(document, option)]
    return found


def _both(one: Json, other: Json) -> Json:
    properties = one.get("properties", {}) | other.get("properties", {})
    required = [*one.get("required", ()), *other.get("required", ())]
    return (
        one | other | ({"properties": properties} if properties else {}) | ({"required": required} if required else {})
    )


def _parameters(document: Json, about: Json) -> dict[str, Json]:
    found = [_to(document, each) for each in about.get("parameters", ())]
    return {f"{each['in']} parameter {each['name']}": each for each in found}


def announced(changelog: str) -> set[str]:
    """The operations that an entry "- Breaking: …" of "Unreleased" names."""
    unreleased = changelog.partition("## Unreleased")[2].partition("\n## ")[0]
    entries = re.findall(r"^- Breaking:((?:.|\n(?!-))*)", unreleased, re.MULTILINE)
    return {word for entry in entries for word in re.findall(r"\w+", entry)}


def main(root: Path) -> int:
    released = root / "docs/openapi-released.yaml"
    if not released.exists():
        sys.stdout.write("No release yet: there is nothing that the API's document could break with.\n")
        return 0
    old, new = (yaml.safe_load(path.read_text()) for path in (released, root / "openapi.yaml"))
    meant = announced((root / "CHANGELOG.md").read_text())
    changes = [*breaking(old, new)]
    for name, change in changes:
        sys.stdout.write(f"{'Meant' if name in meant else 'BREAKING'}: {name}: {change}\n")
    if unannounced := {name for name, _ in changes} - meant:
        sys.stdout.write(f'If that is meant, CHANGELOG\'s "Unreleased" says so: "- Breaking: {min(unannounced)} …"\n')
    return 1 if unannounced else 0


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:])))
