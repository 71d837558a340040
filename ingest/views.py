"""`POST /ingest/{slot_id}`: takes a photo and answers the same request with its picture, or with an error."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt

from core.errors import ApiError, to_api_error
from ingest.admission import IngestState, admit_post
from ingest.response import wait_and_respond


@csrf_exempt
async def ingest(request: HttpRequest, slot_id: str) -> HttpResponseBase:
    asgi_state = request.scope["state"]  # type: ignore[attr-defined]
    state: IngestState = asgi_state["ingest"]
    try:
        if request.method != "POST":
            raise _make_method_error()
        admission = await admit_post(state, request, slot_id, asgi_state["body"])
        return await wait_and_respond(state, admission, asgi_state["disconnected"])
    except Exception as error:  # noqa: BLE001 - the booth gets the envelope whatever the error; `to_api_error` logs it
        return to_api_error(error).response()


def _make_method_error() -> ApiError:
    error = ApiError("method_not_allowed", _("Post the photo as multipart/form-data."))
    error.headers["Allow"] = "POST"
    return error
