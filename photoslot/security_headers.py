"""Headers that tell browsers what a response may do, on every response: Django's middleware sees neither the booths'
nor the static files."""

from __future__ import annotations

from collections.abc import Iterable

from django.conf import settings

Headers = Iterable[tuple[bytes, bytes]]

# A guest's page has no script at all.
GUEST_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# Swagger UI's page has a style sheet of its own within it, and nothing that anybody has entered.
DOCS_POLICY = f"{settings.CONTENT_SECURITY_POLICY}; style-src 'self' 'unsafe-inline'"

COMMON = {
    b"x-content-type-options": "nosniff",
    b"x-frame-options": settings.X_FRAME_OPTIONS,
    b"referrer-policy": settings.SECURE_REFERRER_POLICY,
}
if settings.SECURE_HSTS_SECONDS:  # Django sends it only where TLS ends at a proxy in TRUSTED_PROXIES
    COMMON[b"strict-transport-security"] = f"max-age={settings.SECURE_HSTS_SECONDS}"


def add_missing(path: str, headers: Headers) -> list[tuple[bytes, bytes]]:
    """The response's headers, and those of ours that it does not have."""
    sent = [*headers]
    names = {name.lower() for name, _ in sent}
    ours = COMMON | {b"content-security-policy": _find_policy(path)}
    return sent + [(name, value.encode()) for name, value in ours.items() if name not in names]


def _find_policy(path: str) -> str:
    if path.startswith("/r/"):
        return GUEST_POLICY
    return DOCS_POLICY if path == "/api/docs" else settings.CONTENT_SECURITY_POLICY
