"""The sandbox's Gemini is as strict as the real one: what it refuses, and with which message."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.providers.gemini_factories import PHOTO
from tests.sandbox.gemini import KEY
from tests.sandbox.gemini import Gemini as Google

pytest_plugins = "tests.providers.gemini_fixtures"
pytestmark = pytest.mark.integration

DATA = base64.b64encode(PHOTO.data).decode()
PART = {"inlineData": {"mimeType": "image/jpeg", "data": DATA}}
MODEL = "gemini-nano-banana-2.1"


def body(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [*(parts or (PART,)), {"text": "hello"}]}]} | more


def config(**generation: Any) -> dict[str, Any]:
    return body(generationConfig=generation)


@pytest.fixture
def client(google: Google) -> Iterator[httpx.Client]:
    with closing(httpx.Client(base_url=f"{google.sandbox.url}/gemini", headers={"x-goog-api-key": KEY})) as opened:
        yield opened


def ask(client: httpx.Client, sent: Any, model: str = MODEL, version: str = "v1beta", **more: Any) -> httpx.Response:
    return client.post(f"/{version}/models/{model}:generateContent", json=sent, **more)


SNAKE = {
    "contents": [{"parts": [{"inline_data": {"mime_type": "image/jpeg", "data": DATA}}, {"text": "x"}]}],
    "generation_config": {"image_config": {"aspect_ratio": "1:1"}, "response_modalities": ["Image"]},
}
MIXED = {
    "contents": [{"parts": [{"inlineData": {"data": DATA, "mime_type": "image/jpeg"}}, {"text": "x"}]}],
    "generationConfig": {"imageConfig": {"aspectRatio": "1:1"}, "thinkingConfig": {"thinking_level": "high"}},
}
URL_SAFE = {"inlineData": {"mimeType": "image/jpeg", "data": base64.urlsafe_b64encode(PHOTO.data).decode().rstrip("=")}}


@pytest.mark.parametrize("version", ["v1", "v1beta"])
@pytest.mark.parametrize("sent", [body(), SNAKE, MIXED, body(URL_SAFE)], ids=["camel", "snake", "mixed", "url-safe"])
def test_every_dialect_of_the_protocol_is_understood(client: httpx.Client, version: str, sent: Any) -> None:
    answer = ask(client, sent, version=version)
    assert answer.status_code == 200, answer.text
    assert answer.json()["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize(
    ("sent", "field", "words"),
    [
        (body(seed=1), "", 'Unknown name "seed": Cannot find field.'),
        (config(imgConfig={}), "generation_config", "Unknown name \"imgConfig\" at 'generation_config'"),
        (config(imageConfig={"personGeneration": "ALLOW_ALL"}), "generation_config.image_config", "personGeneration"),
        (config(imageConfig={"outputMimeType": "image/png"}), "generation_config.image_config", "outputMimeType"),
        (body({"inlineData": {"mimetype": "x"}}), "contents[0].parts[0].inline_data", "mimetype"),
        (config(seed="one"), "generation_config.seed", "TYPE_INT32"),
        (config(store=True), "generation_config", "store"),
        (config(responseModalities=["PICTURE"]), "generation_config.response_modalities[0]", "TYPE_ENUM"),
        (config(thinkingConfig={"thinkingLevel": "extreme"}), "generation_config.thinking_config.thinking_level", ""),
        (body(safetySettings=[{"category": "HARM_CATEGORY_IMAGE_HATE"}]), "safety_settings[0].category", ""),
        (body({"inlineData": {"data": "#"}}), "contents[0].parts[0].inline_data.data", "TYPE_BYTES"),
        (config(imageConfig={"aspectRatio": "5:7"}), "generation_config.image_config.aspect_ratio", "5:7"),
        (config(imageConfig={"imageSize": "1k"}), "generation_config.image_config.image_size", "1k"),
        (config(imageConfig={"imageSize": "512"}), "generation_config.image_config.image_size", "512"),
        (config(thinkingConfig={"thinkingLevel": "LOW"}), "generation_config.thinking_config.thinking_level", "LOW"),
        ({"contents": []}, "contents", "not specified"),
        (body({}), "contents[0].parts[0]", "data"),
    ],
)  # fmt: skip
def test_what_is_not_in_the_protocol_is_refused(client: httpx.Client, sent: Any, field: str, words: str) -> None:
    answer = ask(client, sent)
    error = answer.json()["error"]
    assert (answer.status_code, error["status"]) == (400, "INVALID_ARGUMENT")
    [violations] = [d["fieldViolations"] for d in error["details"] if d["@type"].endswith("google.rpc.BadRequest")]
    assert violations[0]["field"] == field
    assert words in error["message"]


@pytest.mark.parametrize(
    ("sent", "model", "status", "words"),
    [
        (body(), "gemini-3-pro-image-preview", 404, "is not found for API version v1beta"),
        (body(), "gemini-3.1-flash-image", 404, "is not found"),
        (config(imageConfig={"aspectRatio": "8:1"}), "gemini-3-pro-image", 400, "8:1"),
        (config(imageConfig={"imageSize": "1K"}), "gemini-3.1-flash-lite-image", 400, "1K"),
        (body({"text": "word " * 30_000}), "gemini-2.5-flash-image", 400, "token count exceeds"),
        (body({"inlineData": {"mimeType": "image/gif", "data": DATA}}), MODEL, 400, "Unsupported MIME type"),
        (body({"inlineData": {"mimeType": "image/png", "data": DATA[:400]}}), MODEL, 400, "process input image"),
        (body({"fileData": {"mimeType": "image/png", "fileUri": "https://x/files/1"}}), MODEL, 403, "File 1"),
    ],
)
def test_what_cannot_be_done_is_refused(client: httpx.Client, sent: Any, model: str, status: int, words: str) -> None:
    answer = ask(client, sent, model)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_a_body_above_the_limit_is_refused(client: httpx.Client) -> None:
    answer = ask(client, body({"text": "x" * 21_000_000}))
    assert answer.status_code == 400
    assert "payload size" in answer.json()["error"]["message"]


def test_the_request_is_read_before_the_key_is_looked_at(client: httpx.Client) -> None:
    wrong = {"x-goog-api-key": "wrong"}
    assert "Unknown name" in ask(client, body(seed=1), headers=wrong).json()["error"]["message"]
    error = ask(client, body(), headers=wrong).json()["error"]
    assert (error["code"], error["details"][0]["reason"]) == (400, "API_KEY_INVALID")
    assert ask(client, body(), headers={"x-goog-api-key": ""}).status_code == 403


def test_what_is_no_json_is_refused(client: httpx.Client) -> None:
    answer = client.post(f"/v1beta/models/{MODEL}:generateContent", content=b"{")
    assert "Invalid JSON payload" in answer.json()["error"]["message"]


def upload(client: httpx.Client, offset: str = "0", size: int = len(PHOTO.data)) -> httpx.Response:
    start = {
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(size),
        "X-Goog-Upload-Header-Content-Type": "image/jpeg",
    }
    url = client.post("/upload/v1beta/files", headers=start, json={"file": {"displayName": "x"}}).headers[
        "x-goog-upload-url"
    ]
    sent = {"X-Goog-Upload-Offset": offset, "X-Goog-Upload-Command": "upload, finalize"}
    return httpx.post(url, headers=sent, content=PHOTO.data)


def test_a_file_lives_48_hours(client: httpx.Client, google: Google) -> None:
    file = upload(client).json()["file"]
    assert file["sizeBytes"] == str(len(PHOTO.data))
    part = {"fileData": {"mimeType": file["mimeType"], "fileUri": file["uri"]}}
    assert ask(client, body(part)).status_code == 200
    google.files.ahead = dt.timedelta(hours=48)
    assert ask(client, body(part)).status_code == 403
    assert client.get(f"/v1beta/{file['name']}").status_code == 403


def test_an_upload_must_be_whole(client: httpx.Client) -> None:
    assert upload(client, offset="8").status_code == 400
    assert upload(client, size=len(PHOTO.data) + 1).status_code == 400


def test_uploading_needs_the_key_and_its_headers(client: httpx.Client) -> None:
    assert client.post("/upload/v1beta/files", headers={"x-goog-api-key": ""}).status_code == 403
    assert client.post("/upload/v1beta/files", json={}).status_code == 400
    answer = client.post("/upload/v1beta/files", json={"file": {"colour": "red"}})
    assert "Unknown name" in json.dumps(answer.json())


def test_a_file_in_processing_cannot_be_used(client: httpx.Client, google: Google) -> None:
    google.files.plays.append("processing:1")
    file = upload(client).json()["file"]
    part = {"fileData": {"mimeType": "image/jpeg", "fileUri": file["uri"]}}
    assert ask(client, body(part)).json()["error"]["status"] == "FAILED_PRECONDITION"
    assert client.get(f"/v1beta/{file['name']}").json()["state"] == "ACTIVE"
    assert ask(client, body(part)).status_code == 200


def test_a_scenario_may_be_selected_in_the_prompt(client: httpx.Client) -> None:
    answer = ask(client, body(PART, {"text": "a hat [[finish:NO_IMAGE]]"}))
    assert answer.json()["candidates"][0]["finishReason"] == "NO_IMAGE"
