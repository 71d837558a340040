"""Whether a template image can be a frame: checked when a slot is saved, and for each job before a provider is paid."""

from __future__ import annotations

from enum import Enum
from hashlib import sha256
from threading import Lock
from typing import Final

from django.conf import settings

from core import image_work, images


class Fault(Enum):
    UNREADABLE = "unreadable"
    OPAQUE = "opaque"


_MAX_KNOWN: Final = 1000  # frames, of 32 bytes each; a service has a few dozen
_known: dict[bytes, Fault | None] = {}
_lock = Lock()


def find_fault(data: bytes) -> Fault | None:
    """Why it cannot be a frame; None if it can. The image is decoded once in a process: the answer is remembered."""
    digest = sha256(data).digest()
    with _lock:
        if digest in _known:
            return _known[digest]
    fault = _find_fault(data)
    with _lock:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[digest] = fault
    return fault


def _find_fault(data: bytes) -> Fault | None:
    limit = settings.INGEST_MAX_PIXELS
    try:
        header = images.probe(data, max_pixels=limit)
        image_work.run(images.check_frame, data, limit, pixels=header.width * header.height)
    except images.OpaqueFrame:
        return Fault.OPAQUE
    except images.ImageError:
        return Fault.UNREADABLE
    return None
