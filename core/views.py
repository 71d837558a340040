"""Decorators of views that several rooms share."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe


def read_only(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """GET and HEAD. Others are told so (405), not that a CSRF token is missing."""
    return csrf_exempt(require_safe(view))
