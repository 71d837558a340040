"""`POST /ingest/{slot_id}`: a photo comes in, and its picture or an honest error goes out in the same answer."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt

from core.errors import ApiError, from_exception, queue_unavailable
from ingest.admission import Door, admit
from ingest.response import answered
from jobs.queue.verbs import QueueUnavailable


@csrf_exempt
async def ingest(request: HttpRequest, slot_id: str) -> HttpResponseBase:
    state = request.scope["state"]  # type: ignore[attr-defined]
    door: Door = state["door"]
    try:
        if request.method != "POST":
            raise _only_post()
        admission = await admit(door, request, slot_id)
        return await answered(door, admission, state["gone"])
    except QueueUnavailable:
        return queue_unavailable().response()
    except Exception as error:  # noqa: BLE001 - whatever it is, the booth gets the envelope; it is logged there
        return from_exception(error).response()


def _only_post() -> ApiError:
    error = ApiError("method_not_allowed", _("Post the photo as multipart/form-data."))
    error.headers["Allow"] = "POST"
    return error
