"""Google's own SDK accepts the sandbox, and Google's own schemas accept the sandbox's responses and the adapter's
requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from google import genai
from google.ai import generativelanguage_v1beta as schema
from google.genai import errors, types
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from PIL import Image

from providers.gemini import Gemini
from providers.gemini.responses import FINISH
from tests.providers.gemini_factories import PHOTO, build_request, make, read_json
from tests.sandbox.gemini import KEY
from tests.sandbox.gemini import Gemini as Google
from tests.sandbox.gemini_errors import ERRORS, LIMITS
from tests.sandbox.pictures import ODD

pytest_plugins = "tests.providers.gemini_fixtures"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:google"),
    pytest.mark.filterwarnings("ignore:.*is not a valid:UserWarning"),  # the SDK's warning on a new finish reason
]

MODEL = "gemini-nano-banana-2.1"
PART = types.Part.from_bytes(data=PHOTO.data, mime_type="image/jpeg")


def make_client(google: Google, key: str = KEY, version: str = "v1beta") -> genai.Client:
    url = f"{google.sandbox.url}/gemini"
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=url, api_version=version, timeout=30_000))


@pytest.fixture
def client(google: Google) -> Iterator[genai.Client]:
    with make_client(google) as opened:
        yield opened


def generate(client: genai.Client, *parts: Any, model: str = MODEL, **config: Any) -> types.GenerateContentResponse:
    generation = types.GenerateContentConfig(response_modalities=["IMAGE"], **config)
    return client.models.generate_content(
        model=model, contents=[*(parts or (PART,)), "As a watercolour"], config=generation
    )


def open_picture(response: types.GenerateContentResponse) -> Image.Image:
    blob = (response.parts or [])[-1].inline_data
    assert blob
    return Image.open(BytesIO(blob.data or b""))


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_the_sdk_gets_its_picture(google: Google, version: str) -> None:
    with make_client(google, version=version) as client:
        config = types.ImageConfig(aspect_ratio="3:4", image_size="2K")
        response = generate(client, image_config=config, thinking_config=types.ThinkingConfig(thinking_level="HIGH"))
    assert open_picture(response).size == (1792, 2400)
    assert response.usage_metadata
    assert response.usage_metadata.candidates_token_count == 1680
    assert google.sandbox.journal[0].path == f"/{version}/models/{MODEL}:generateContent"


def test_the_sdk_uploads_uses_and_deletes_a_file(google: Google, client: genai.Client) -> None:
    google.files.plays.append("processing:1")
    file = client.files.upload(file=BytesIO(PHOTO.data), config={"mime_type": "image/jpeg", "display_name": "photo"})
    assert file.name
    assert client.files.get(name=file.name).state is types.FileState.ACTIVE
    assert open_picture(generate(client, file)).size == (1264, 848)
    client.files.delete(name=file.name)
    with pytest.raises(errors.ClientError, match="do not have permission"):
        generate(client, file)


@pytest.mark.parametrize(
    ("scenario", "kind", "code", "status"),
    [
        ("rate:14s", errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
        ("depleted", errors.ClientError, 402, "RESOURCE_EXHAUSTED"),
        ("gone", errors.ClientError, 404, "NOT_FOUND"),
        ("overloaded", errors.ServerError, 503, "UNAVAILABLE"),
        ("in_a_list", errors.ServerError, 503, "UNAVAILABLE"),
        ("internal", errors.ServerError, 500, "INTERNAL"),
        ("html_502", errors.ServerError, 502, "Bad Gateway"),
    ],
)
def test_the_sdk_understands_the_errors(
    google: Google, client: genai.Client, scenario: str, kind: type[errors.APIError], code: int, status: str
) -> None:
    google.play(scenario)
    with pytest.raises(kind) as raised:
        generate(client)
    assert (raised.value.code, raised.value.status) == (code, status)


def test_the_sdk_reports_a_wrong_key(google: Google) -> None:
    with make_client(google, "wrong") as client, pytest.raises(errors.ClientError, match="API key not valid"):
        generate(client)


SUCCESSFUL = [
    *(
        "",
        "no_candidates",
        "no_parts",
        "text_only",
        "drafts",
        "only_thoughts",
        "two_images",
        "same",
        "recorded_refusal",
    ),
    *("no_usage", "chunked", "gzip", "duplicate_headers", "base64:url_safe", *(f"picture:{name}" for name in ODD)),
]


@pytest.mark.parametrize("scenario", [*SUCCESSFUL, "block:SAFETY", *(f"finish:{reason}" for reason in FINISH)])
def test_an_answer_has_no_field_the_sdk_does_not_know(google: Google, scenario: str) -> None:
    answer = fetch_json(google, scenario)
    answer.get("usageMetadata", {}).pop("serviceTier", None)  # sent by the real service, unknown to the SDK
    known = types.GenerateContentResponse.model_validate(answer)
    reasons = [candidate.finish_reason for candidate in known.candidates or []]
    assert {reason.value for reason in reasons if reason} <= set(types.FinishReason)


@pytest.mark.parametrize("name", [*ERRORS, *LIMITS])
@pytest.mark.parametrize("delay", ["", "1.500s"])
def test_an_error_is_a_google_rpc_status(google: Google, name: str, delay: str) -> None:
    body = fetch_json(google, f"{name}:{delay}")
    error = (body[0] if isinstance(body, list) else body)["error"]
    parsed = json_format.ParseDict(
        {"code": 8} | {k: error[k] for k in ("message", "details") if k in error}, status_pb2.Status()
    )
    packed = [detail.TypeName() for detail in parsed.details]
    assert (error_details_pb2.RetryInfo.DESCRIPTOR.full_name in packed) == bool(delay or name in {"day", "no_billing"})


def fetch_json(google: Google, scenario: str) -> Any:
    """The response's JSON, unchanged."""
    google.play(scenario)
    part = {"inlineData": {"mimeType": "image/jpeg", "data": json.loads(PART.model_dump_json())["inline_data"]["data"]}}
    url = f"{google.sandbox.url}/gemini/v1beta/models/{MODEL}:generateContent"
    sent = {"contents": [{"parts": [part, {"text": "x"}]}]}
    return httpx.post(url, json=sent, headers={"x-goog-api-key": KEY}).json()


@pytest.mark.parametrize("field", ["candidates", "content", "parts", "inlineData", "data", "mimeType", "finishReason"])
def test_a_renamed_field_is_noticed_by_the_sdk(google: Google, field: str) -> None:
    answer = json.loads(json.dumps(fetch_json(google, "")).replace(f'"{field}":', f'"{field}X":'))
    answer["usageMetadata"].pop("serviceTier")
    with pytest.raises(ValueError, match="Extra inputs"):
        types.GenerateContentResponse.model_validate(answer)


async def test_the_adapters_request_is_one_by_googles_schema(gemini: Gemini, google: Google) -> None:
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}]
    settings: dict[str, Any] = {"aspect_ratio": "3:4", "image_size": "2K", "safety_settings": safety}
    await make(gemini, build_request(thinking_level="high", **settings))
    body = read_json(google)
    generation = body["generationConfig"]
    assert generation["imageConfig"].pop("imageSize") == "2K"  # these two are newer than the schema
    assert generation["thinkingConfig"].pop("thinkingLevel") == "HIGH"
    parsed = schema.GenerateContentRequest.pb()()
    json_format.ParseDict(body, parsed)
    assert parsed.contents[0].parts[0].inline_data.data == PHOTO.data
    assert parsed.generation_config.image_config.aspect_ratio == "3:4"


async def test_the_adapters_settings_are_spelt_as_the_sdk_spells_them(gemini: Gemini, google: Google) -> None:
    settings: dict[str, Any] = {"aspect_ratio": "3:4", "image_size": "2K"}
    await make(gemini, build_request(thinking_level="high", **settings))
    with make_client(google) as client:
        config = types.ImageConfig(**settings)
        generate(client, image_config=config, thinking_config=types.ThinkingConfig(thinking_level="HIGH"))
    ours, theirs = (read_json(google, number)["generationConfig"] for number in (0, 1))
    theirs["thinkingConfig"] = {"thinkingLevel": theirs["thinkingConfig"]["thinking_level"]}
    assert ours == theirs
