"""Each of Turbotext's own errors, end to end; those of transport and pictures are in their own modules."""

from __future__ import annotations

import pytest

from jobs.models import Job, MediaObject
from tests.ingest.helpers import eventually
from tests.providers.end_to_end.harness import Harness, check
from tests.sandbox.turbotext import TurbotextSpeaker

pytestmark = pytest.mark.e2e

FAULTS = [
    ("error:LIMIT", "failed:quota"),
    ("error:url_error", "failed:bad_settings"),
    ("error:params_error", "failed:bad_settings"),
    ("error:size_error", "failed:bad_photo"),
    ("error:face_not_detected", "failed:bad_photo"),
    ("error:face_not_found", "failed:bad_photo"),
    ("error:quality_limit", "failed:bad_photo"),
    ("error:forbidden_content", "refused:refused"),
    ("error:Something new", "failed:no_image"),
    ("error_number", "failed:no_image"),
    ("error_object:limit,", "failed:quota"),
    ("http:400", "failed:bad_settings"),
    ("http:401", "failed:auth"),
    ("http:402", "failed:quota"),
    ("http:404", "failed:bad_settings"),
    ("http:429", "failed:quota"),
    ("http:504", "ambiguous:slow"),
    ("http:503,60", "failed:overloaded"),  # come again in 60 s: too late
    ("no_queueid", "ambiguous:overloaded"),
    ("error:provider_busy", 5 * "failed:overloaded "),
    # At the polls and after them
    ("forbidden", "refused:refused"),
    ("poll_error:forbidden_content", "refused:refused"),
    ("poll_error:url_error", "failed:bad_settings"),
    ("poll_error:face_not_found", "failed:bad_photo"),
    ("poll_error:LIMIT", "failed:quota"),
    ("poll_error:Something new", "failed:no_image"),
    ("poll_error_number", "failed:no_image"),
    ("no_picture", "failed:no_image"),
    ("gone:404", "failed:no_image"),
    ("gone:410", "failed:no_image"),
    ("not_found_page", "failed:no_image"),
    ("loop", "failed:no_image"),
    ("link:http://127.0.0.1:9/x.png", "failed:no_image"),
    ("link:https://www.example.com/x.png", "failed:no_image"),
    ("rename:queueid", "ambiguous:overloaded"),
    ("rename:success", "ambiguous:overloaded"),
]
PASSING = [
    ("error:provider_busy", "failed:overloaded made"),
    ("http:500", "failed:overloaded made"),
    ("http:502", "failed:overloaded made"),
    ("http:503,0", "failed:overloaded made"),
    ("queueid_string", "made"),
    ("success_text", "made"),
    ("php_warning", "made"),
    ("malformed", "made"),
    ("reconnect:3", "made"),
    ("in_data", "made"),
    ("relative", "made"),
    ("absolute", "made"),
    ("octet_stream", "made"),
    *(
        (f"{what}:{fault}", "made")
        for what in ("poll", "download")
        for fault in ("lost", "truncated", "reset", "html_200", "html_502", "empty", "bad_utf8", "chunked", "gzip")
    ),
    *((f"poll_http:{status}", "made") for status in (401, 404, 429, 500, 504)),
    *((f"download_http:{status}", "made") for status in (404, 410, 429, 503)),
]


@pytest.mark.parametrize(("scenario", "expected"), FAULTS)
def test_a_fault(harness: Harness, scenario: str, expected: str) -> None:
    check(harness, "turbotext", harness.post("turbotext", (scenario,) * 5), 502, expected.strip())


@pytest.mark.parametrize(("scenario", "expected"), PASSING)
def test_a_fault_that_passes(harness: Harness, scenario: str, expected: str) -> None:
    check(harness, "turbotext", harness.post("turbotext", scenario), 200, expected)


@pytest.fixture
def turbotext(harness: Harness) -> TurbotextSpeaker:
    speaker = harness.wire.speakers["turbotext"]
    assert isinstance(speaker, TurbotextSpeaker)
    return speaker


def test_attempts_that_are_used_up(harness: Harness, turbotext: TurbotextSpeaker) -> None:
    turbotext.photo_attempts = 0
    check(harness, "turbotext", harness.post("turbotext"), 502, "failed:quota")


def test_a_photo_that_turbotext_cannot_reach(harness: Harness, turbotext: TurbotextSpeaker) -> None:
    turbotext.allows_private = False
    check(harness, "turbotext", harness.post("turbotext"), 502, "failed:bad_settings")


def test_the_reference_is_kept_and_the_link_to_the_photo_is_not(harness: Harness, turbotext: TurbotextSpeaker) -> None:
    assert harness.post("turbotext").status == 200
    assert Job.objects.get().provider_job_reference == "generate_image2image:4001"
    assert next(iter(turbotext.fetched)).startswith(f"{harness.booth.url}/public/media/")
    assert eventually(lambda: not MediaObject.objects.exists())
