"""The decorator of a view's method: its permission, its validated input, and its entry in the document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework.request import Request

from staff.api.openapi import BODY_REFUSALS, HEADER_NAMES, OPEN_REFUSALS, REFUSALS, STAFF_REFUSALS
from staff.api.serializers import StrictSerializer, parse_body, parse_form, parse_query

Method = Callable[..., Any]


def operation(
    operation_id: str,
    summary: str,
    *,
    tag: str,
    scope: str = "",
    query: type[StrictSerializer] | None = None,
    body: type[StrictSerializer] | None = None,
    form: type[StrictSerializer] | None = None,
    response: Any,
    status: int = 200,
    headers: Iterable[str] = (),
    refusals: Iterable[str] = (),
    about: str = "",
    example: Any = None,
    request_examples: Mapping[str, Any] | None = None,
    parameters: Iterable[Any] = (),
) -> Callable[[Method], Method]:
    """Decorates a method of a view.

    `scope` is the permission that a `StaffView` requires. `query`, `body` (JSON) and `form` are the input: the method
    gets the validated data as the argument of that name. Input that is not declared is refused.

    The others are for the document: `response` is a serializer, or serializers by status and media type; `headers` are
    names in `openapi.HEADERS`; `refusals` are codes of the envelope beside those of its permission and its input;
    `parameters` are further ones, such as headers.
    """
    examples = [OpenApiExample(name, value, request_only=True) for name, value in (request_examples or {}).items()]
    if example is not None:
        examples.insert(0, OpenApiExample("Answer", example, response_only=True, status_codes=[str(status)]))
    rights = f"Takes the permission `{scope}`." if scope else "Takes no token."
    declared = [serializer for serializer in (query, body, form) if serializer]

    def decorate(method: Method) -> Method:
        @wraps(method)
        def handle(self: Any, request: Request, **path: Any) -> Any:
            return method(self, request, **path, **_parse(request, query, body, form))

        handle.scope = scope  # type: ignore[attr-defined]
        common = [*(STAFF_REFUSALS if scope else OPEN_REFUSALS), *(each.refusal_code for each in declared)]
        common += BODY_REFUSALS if method.__name__ in ("post", "put") else ["invalid_payload"]
        documented = extend_schema(
            operation_id=operation_id,
            summary=summary,
            description=f"{about} {rights}".lstrip(),
            tags=[tag],
            parameters=[*([query] if query else []), *parameters],
            request={"multipart/form-data": form} if form else body,
            responses={
                key: OpenApiResponse(each, description="Done.")
                for key, each in (response if isinstance(response, dict) else {status: response}).items()
            },
            examples=examples,
            extensions={REFUSALS: [*refusals, *common], HEADER_NAMES: [*headers]},
        )
        return documented(handle)

    return decorate


def _parse(
    request: Request,
    query: type[StrictSerializer] | None,
    body: type[StrictSerializer] | None,
    form: type[StrictSerializer] | None,
) -> dict[str, Any]:
    """The method's validated arguments. Raises `ApiError`, also for a query or body that the method does not take."""
    parsed = {"query": parse_query(request, query or StrictSerializer)}
    if form:
        parsed["form"] = parse_form(request, form)
    elif request.method in ("POST", "PUT"):
        parsed["body"] = parse_body(request, body or StrictSerializer)
    return {name: parsed[name] for name, declared in (("query", query), ("body", body), ("form", form)) if declared}
