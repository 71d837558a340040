"""What Schemathesis cannot generate: a booth's password and a photo, without which every request is refused. Runs in
Schemathesis' own process."""

from __future__ import annotations

import io
import os
from typing import Any

import schemathesis
from PIL import Image
from schemathesis import GenerationMode


def make_photo() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "steelblue").save(out, "JPEG")
    return out.getvalue()


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    """Completes the requests that are generated to be valid; the invalid ones stay as they are."""
    is_valid = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if is_valid and "booth" in case.operation.tags and isinstance(case.body, dict):
        case.body = {"fileToUpload": make_photo()} | case.body | {"password": os.environ["INGEST_PASSWORD"]}
    return case
