"""Parses a Gemini request as strictly as the real service: protobuf's JSON, both casings, both base64 alphabets.

Fields that are not in the protocol (other providers', the Vertex dialect's, misspelt ones) and values of the wrong type
are a 400 with `fieldViolations`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any

Check = Callable[["Reader", Any, str], Any]


class Reader:
    """Collects violations while it reads."""

    def __init__(self) -> None:
        self.violations: list[dict[str, str]] = []

    def wrong(self, field: str, description: str) -> None:
        self.violations.append({"field": field, "description": description})


def _scalar(name: str, *types: type) -> Check:
    def check(reader: Reader, value: Any, path: str) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            reader.wrong(path, f"Invalid value at '{path}' ({name}), {json.dumps(value)}")
        return value

    return check


def _bytes(reader: Reader, value: Any, path: str) -> bytes:
    try:
        text = re.sub(r"=+$", "", value).replace("-", "+").replace("_", "/")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (TypeError, binascii.Error):  # the real service quotes all of it, too
        reader.wrong(path, f"Invalid value at '{path}' (TYPE_BYTES), Base64 decoding failed for {json.dumps(value)}")
        return b""


def _enum(prefix: str, *names: str) -> Check:
    def check(reader: Reader, value: Any, path: str) -> Any:
        if not isinstance(value, str) or value.upper() not in {prefix + name for name in names}:
            reader.wrong(path, f"Invalid value at '{path}' (TYPE_ENUM), {json.dumps(value)}")
            return ""
        return value.upper()

    return check


def _any(reader: Reader, value: Any, path: str) -> Any:
    return value


def _many(item: Check) -> Check:
    def check(reader: Reader, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            reader.wrong(path, f"Invalid value at '{path}', expected a list")
            return []
        return [item(reader, element, f"{path}[{number}]") for number, element in enumerate(value)]

    return check


def _message(**fields: Check) -> Check:
    """Its fields are known by their snake_case name and by the camelCase one."""

    def check(reader: Reader, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            reader.wrong(path, f"Invalid value at '{path}', expected an object")
            return {}
        read = {}
        for key, content in value.items():
            name = next((f for f in fields if key in {f, _camel(f)}), None)
            if name is None:
                at = f" at '{path}'" if path else ""
                reader.wrong(path, f'Invalid JSON payload received. Unknown name "{key}"{at}: Cannot find field.')
            elif content is not None:
                read[name] = fields[name](reader, content, f"{path}.{name}".lstrip("."))
        return read

    return check


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


TEXT, NUMBER = _scalar("TYPE_STRING", str), _scalar("TYPE_FLOAT", int, float)
INTEGER, FLAG = _scalar("TYPE_INT32", int), _scalar("TYPE_BOOL", bool)
PART = _message(
    text=TEXT,
    inline_data=_message(mime_type=TEXT, data=_bytes),
    file_data=_message(mime_type=TEXT, file_uri=TEXT),
    thought=FLAG,
    thought_signature=_bytes,
)
CONTENT = _message(role=TEXT, parts=_many(PART))
GENERATION = _message(
    response_modalities=_many(_enum("", "TEXT", "IMAGE", "AUDIO", "VIDEO")),
    image_config=_message(aspect_ratio=TEXT, image_size=TEXT),
    thinking_config=_message(
        include_thoughts=FLAG, thinking_budget=INTEGER, thinking_level=_enum("", "MINIMAL", "LOW", "MEDIUM", "HIGH")
    ),
    candidate_count=INTEGER,
    max_output_tokens=INTEGER,
    stop_sequences=_many(TEXT),
    temperature=NUMBER,
    top_p=NUMBER,
    top_k=NUMBER,
    seed=INTEGER,
    response_mime_type=TEXT,
    response_schema=_any,
    media_resolution=_any,
)
SAFETY = _message(
    category=_enum("HARM_CATEGORY_", "HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT"),
    threshold=_enum("", "BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"),
)
GENERATE = _message(
    contents=_many(CONTENT),
    system_instruction=CONTENT,
    generation_config=GENERATION,
    safety_settings=_many(SAFETY),
    store=FLAG,
    service_tier=TEXT,
)
UPLOAD = _message(file=_message(name=TEXT, display_name=TEXT, mime_type=TEXT, size_bytes=_any))


def read(check: Check, body: bytes) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The request in snake_case with its bytes decoded, and its violations."""
    reader = Reader()
    try:
        value = json.loads(body)
    except ValueError as error:
        reader.wrong("", f"Invalid JSON payload received. {error}")
        return {}, reader.violations
    return check(reader, value, ""), reader.violations
