"""View decorators that several rooms share."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe


def read_only(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Allows GET and HEAD. Other methods get 405, not a CSRF failure."""
    return csrf_exempt(require_safe(view))
