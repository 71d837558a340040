"""What Schemathesis cannot make up: a booth's password and a photo, without which nothing gets past the door. It runs
in Schemathesis' own process."""

from __future__ import annotations

import io
import os
from typing import Any

import schemathesis
from PIL import Image
from schemathesis import GenerationMode


def photo() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "steelblue").save(out, "JPEG")
    return out.getvalue()


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    """Of what is meant to fit the document; what is not stays as bad as it is."""
    is_good = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if is_good and "booth" in case.operation.tags and isinstance(case.body, dict):
        case.body = {"fileToUpload": photo()} | case.body | {"password": os.environ["INGEST_PASSWORD"]}
    return case
