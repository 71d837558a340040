"""Turbotext's photo API in the sandbox: queue, polls, downloads, and their errors.

It really fetches the pictures from the links it receives. What the documentation leaves open (the error codes for a
wrong key and an unknown id) is this sandbox's own choice; nothing may depend on it. Scenarios, by request:

    create_queue   any of `wire.common`; error:CODE  error_object:CODE,FIELD  error_number  http:STATUS,RETRY_AFTER
                   no_queueid  queueid_string
    get_result     poll:NAME (of `wire.common`, once)  poll_http:STATUS (once)  reconnect:N  forever  late_fetch
                   poll_error:CODE  poll_error_object:CODE,FIELD  poll_error_number  forbidden  no_picture  says_nothing
                   in_data  relative  absolute  two_images  malformed  link:URL
    both           success_text  php_warning  rename:FIELD
    download       download:NAME (of `wire.common`, once)  download_http:STATUS (once)  gone:STATUS  not_found_page
                   octet_stream  loop  too_large  same  picture:NAME (of `pictures`)
    webhook        webhook_late (waits for `deliver_late`)  webhook_twice
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl

import httpx
from PIL import Image, ImageDraw, ImageOps

from tests.sandbox.pictures import ODD, encode
from tests.sandbox.wire import COMMON, WAIT_SECONDS, Received, Reply, Speaker, WireSandbox, common

KEY = "turbotext-key"
FORM = "application/x-www-form-urlencoded"
FETCH_SECONDS = 3.0
TLS = ssl.create_default_context()
MAX_FETCHED_BYTES = 50 * 1024 * 1024
MAX_SIDE = 1024  # pixels of a result
FIRST_ID = 4_001
Json = dict[str, Any]


class Refused(Exception):
    """A `success: false`, with its code."""


def _is_text(value: str) -> bool:
    return bool(value.strip())


def _is_whole(low: int, high: int) -> Callable[[str], bool]:
    return lambda value: value.isascii() and value.isdecimal() and low <= int(value) <= high


def _is_number(low: float, high: float) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        try:
            return low <= float(value) <= high
        except ValueError:
            return False

    return check


def _one_of(*values: str) -> Callable[[str], bool]:
    return values.__contains__


COMMON_FIELDS: dict[str, Callable[[str], bool]] = {"webhook": _is_text, "user_id": _is_whole(1, 10**9)}
FIELDS: dict[str, dict[str, Callable[[str], bool]]] = {
    "available_api": {},
    "generate_image2image": {
        "url": _is_text,
        "content": _is_text,
        "strength": _is_whole(0, 80),
        "seed": _is_whole(1, 10**10),
        "scale": _is_number(0.1, 20),
        "negative_prompt": lambda value: 1 <= len(value.split()) <= 80,
        "original_language": _one_of("ru", "en", "de", "fr", "es"),
    },
    "mix_images": {"url": _is_text, "url_image_target": _is_text, "content": _is_text},
    "deepfake_photo": {"url": _is_text, "url_image_target": _is_text, "face_restore": _one_of("True", "False")},
}
REQUIRED = {
    "available_api": (),
    "generate_image2image": ("url", "content"),
    "mix_images": ("url", "url_image_target"),
    "deepfake_photo": ("url", "url_image_target"),
}


@dataclass(slots=True)
class Queued:
    """One job in the queue."""

    id: int
    method: str
    form: dict[str, str]
    scenario: str
    argument: str
    picture: Image.Image | None = field(default=None, repr=False)  # None once fetched: its link works only once
    polls: int = 0
    downloads: int = 0

    def is_playing(self, *names: str) -> bool:
        return self.scenario in names

    @property
    def file(self) -> str:
        return f"{self.method}_id{self.id}_0.png"


class TurbotextSpeaker(Speaker):
    prefix = "turbotext"

    def __init__(self, sandbox: WireSandbox) -> None:
        super().__init__(sandbox)
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self.jobs: dict[int, Queued] = {}
        self.fetched: dict[str, str] = {}  # SHA-256 of what links led to
        self.photo_attempts = 1000  # left of the plan
        self.allows_private = True  # links into private networks: tests have no others
        self.reconnects = 1  # polls before a job is done, where no scenario says otherwise
        self.deliver_late = threading.Event()  # the scenario webhook_late waits for it

    def reset(self) -> None:
        super().reset()
        self._clear()

    def answer(self, request: Received) -> Reply:
        if request.method == "GET":
            return self._download(request)
        method = request.path.removeprefix("/api_ai/")
        if request.method != "POST" or not request.path.startswith("/api_ai/") or method not in FIELDS:
            return Reply(404, b"<html>404</html>", "text/html")
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _json({"success": False, "error": "auth_error"}, 401)
        try:
            form = _form(request)
            match form.pop("do", ""):
                case "create_queue":
                    return self._create(method, form)
                case "get_result":
                    return self._result(method, form)
            raise Refused("params_error")
        except Refused as refused:
            return _json({"success": False, "error": str(refused)})

    def describe_parts(self, request: Received) -> list[tuple[str, str | None]]:
        return [(name, self.fetched.get(value)) for name, value in parse_qsl(request.body.decode(errors="replace"))]

    # create_queue

    def _create(self, method: str, form: dict[str, str]) -> Reply:
        _validate(method, form)
        is_photo = method != "available_api"
        scenario, argument = self.scenario(form.get("content", "")) if is_photo else ("", "")
        refusal = _refusal(scenario, argument, "")
        if refusal is not None:
            return refusal
        inputs = {} if scenario == "late_fetch" else self._inputs(form)
        with self._lock:
            if is_photo and self.photo_attempts <= 0:
                raise Refused("LIMIT")
            self.photo_attempts -= is_photo
            job = Queued(FIRST_ID + len(self.jobs), method, form, scenario, argument)
            self.jobs[job.id] = job
        if inputs:
            job.picture = transform(job, inputs)
        if "webhook" in form:
            threading.Thread(target=self._deliver, args=[job], daemon=True).start()
            return _json({"success": True, "asyncid": job.id})
        return _build_created_reply(job)

    def _inputs(self, form: dict[str, str]) -> dict[str, Image.Image]:
        return {name: self._fetch(value) for name, value in form.items() if name.startswith("url")}

    def _fetch(self, link: str) -> Image.Image:
        """The picture behind a link. Raises `Refused` unless it is a JPEG or PNG that answers at once."""
        try:
            url = httpx.URL(link)
            hosts = socket.getaddrinfo(url.host, url.port or 443, type=socket.SOCK_STREAM)
            if not self.allows_private and not all(ip_address(host[4][0]).is_global for host in hosts):
                raise Refused("url_error")
            response = httpx.get(url, timeout=FETCH_SECONDS, trust_env=False, verify=TLS)
            if response.status_code != 200 or len(response.content) > MAX_FETCHED_BYTES:
                raise Refused("url_error")
            self.fetched[link] = sha256(response.content).hexdigest()
            with Image.open(BytesIO(response.content), formats=["JPEG", "PNG"]) as image:
                return image.convert("RGB")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, SyntaxError) as error:
            raise Refused("url_error") from error

    # get_result

    def _result(self, method: str, form: dict[str, str]) -> Reply:
        if form.keys() != {"queueid"} or not form["queueid"].isdecimal():
            raise Refused("params_error")
        job = self.jobs.get(int(form["queueid"]))
        if job is None or job.method != method:
            raise Refused("queue_error")
        job.polls += 1
        if job.is_playing("late_fetch") and job.picture is None:
            job.picture = transform(job, self._inputs(job.form))
        if job.polls == 1 and job.is_playing("poll", "poll_http"):
            return _spoil(job, self._build_result(job))
        refusal = _refusal(job.scenario, job.argument, "poll_")
        if refusal is not None:
            return refusal
        waits = int(job.argument) if job.is_playing("reconnect") else self.reconnects
        if job.polls <= waits or job.is_playing("forever"):
            return _json({"action": "reconnect"})
        return self._build_result(job)

    def _build_result(self, job: Queued) -> Reply:
        if job.method == "available_api":
            return _json({"success": True, "error": "", "data": {"methods": sorted(FIELDS)}})
        answer = self._success(job)
        match job.scenario:
            case "forbidden":
                answer["data"]["forbidden_content"] = True
            case "no_picture":
                del answer["uploaded_image"], answer["data"]["image"]
            case "says_nothing":
                answer = {"success": None}
            case "in_data":
                answer["data"]["uploaded_image"] = answer.pop("uploaded_image")
            case "relative" | "absolute":
                del answer["uploaded_image"]
            case "two_images":
                answer["data"]["image"].insert(0, "image/a_draft.png")
            case "link":
                answer["uploaded_image"] = job.argument
        if job.is_playing("absolute"):
            answer["data"]["image"] = [f"{self._url}/{answer['data']['image'][0]}"]
        return _build_reply(job, answer)

    def _success(self, job: Queued) -> Json:
        width, height = job.picture.size if job.picture else (0, 0)  # it was fetched: its link works no more
        data: Json = {"image": [f"image/{job.file}"], "width": width, "height": height}
        if job.method == "deepfake_photo":
            data |= {"forbidden_content": False, "face_restore": job.form.get("face_restore", "False")}
        else:
            data |= {"prompt": job.form.get("content", ""), "seed": 5_443_937_701, "strength": 40}
        return {
            "success": True,
            "error": "",
            "data": data,
            "uploaded_image": f"{self._url}/download.php?f={job.file}",
            "limits": {"foto_limit": self.photo_attempts, "text_limit": 50},
        }

    def _deliver(self, job: Queued) -> None:
        """Posts the result to the job's webhook."""
        if job.is_playing("webhook_late"):
            self.deliver_late.wait(WAIT_SECONDS)
        for _ in range(2 if job.is_playing("webhook_twice") else 1):
            httpx.post(job.form["webhook"], json=self._success(job) | {"asyncid": job.id}, trust_env=False, verify=TLS)

    # downloads

    @property
    def _url(self) -> str:
        return f"{self.sandbox.url}/{self.prefix}"

    def _download(self, request: Received) -> Reply:
        name = request.query.get("f", [""])[0] if request.path == "/download.php" else request.path.rpartition("/")[2]
        job = next((job for job in self.jobs.values() if job.file == name), None)
        if job is None or job.picture is None:
            return Reply(404, b"<html>404</html>", "text/html")
        job.downloads += 1
        return _find_substitute(job, f"{self._url}{request.path}?f={name}") or self._picture(job)

    def _picture(self, job: Queued) -> Reply:
        assert job.picture is not None
        data, mime_type = encode(job.picture, "PNG"), "image/png"
        if job.is_playing("picture"):
            data, mime_type = ODD[job.argument](job.picture)
        if job.is_playing("too_large"):
            data += bytes(MAX_FETCHED_BYTES)
        reply = Reply(200, data, "application/octet-stream" if job.is_playing("octet_stream") else mime_type)
        if job.is_playing("download") and job.downloads == 1:
            scenario, _, argument = job.argument.partition(":")
            return common(scenario, argument, reply)
        job.picture = None
        return reply


def _find_substitute(job: Queued, itself: str) -> Reply | None:
    """The scenario's reply instead of the picture, or None; `itself` is the requested URL."""
    match job.scenario:
        case "gone":
            return Reply(int(job.argument), b"gone", "text/plain")
        case "not_found_page":
            return Reply(200, b"<html>not found</html>", "text/html")
        case "loop":
            return Reply(302, headers={"Location": itself})
        case "download_http" if job.downloads == 1:
            return Reply(int(job.argument), b"<html>error</html>", "text/html")
    return None


def transform(job: Queued, inputs: dict[str, Image.Image]) -> Image.Image:
    """A visible transformation of the request's pictures, with a border and the method's name."""
    form = job.form
    picture = inputs["url_image_target" if job.method == "mix_images" else "url"]
    if job.is_playing("same"):
        return picture
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    if job.method == "generate_image2image":
        picture = Image.blend(picture, ImageOps.invert(picture), int(form.get("strength", "40")) / 100)
    elif job.method == "mix_images":
        picture = Image.blend(picture, inputs["url"].resize(picture.size), 0.5)
    else:
        picture.paste(inputs["url_image_target"].resize((picture.width // 2, picture.height // 2)), (0, 0))
    ImageDraw.Draw(picture).text((6, picture.height - 18), f"{job.method} {form.get('content', '')[:40]!a}")
    return ImageOps.expand(ImageOps.crop(picture, 4), 4, "magenta")


def _form(request: Received) -> dict[str, str]:
    """The fields. Raises `Refused` for another type of body, for fields that come twice and for blank ones."""
    if request.headers.get("content-type") != FORM or request.query:
        raise Refused("params_error")
    try:
        pairs = parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError as error:
        raise Refused("params_error") from error
    if len(dict(pairs)) != len(pairs):
        raise Refused("params_error")
    return dict(pairs)


def _validate(method: str, form: dict[str, str]) -> None:
    checks = FIELDS[method] | COMMON_FIELDS
    if any(name not in checks or not checks[name](value) for name, value in form.items()):
        raise Refused("params_error")
    if any(name not in form for name in REQUIRED[method]):
        raise Refused("params_error")


def _refusal(scenario: str, argument: str, prefix: str) -> Reply | None:
    """The scenario's refusal, if it has this prefix: "" for `create_queue`, "poll_" for `get_result`."""
    first, _, second = argument.partition(",")
    if scenario == f"{prefix}error":
        return _json({"success": False, "error": argument})
    if scenario == f"{prefix}error_object":
        return _json({"success": False, "error": {"code": first, "fields": [second]}, "data": []})
    if scenario == f"{prefix}error_number":
        return _json({"success": False, "error": 13})
    if scenario == "http" and not prefix:
        return _json({"success": False, "error": "server"}, int(first), {"Retry-After": second} if second else {})
    return None


def _build_created_reply(job: Queued) -> Reply:
    answer: Json = {"success": True, "queueid": job.id}
    if job.is_playing("no_queueid"):
        del answer["queueid"]
    elif job.is_playing("queueid_string"):
        answer["queueid"] = str(job.id)
    reply = _build_reply(job, answer)
    is_spoiled = job.scenario in COMMON and not job.is_playing("rename")
    return common(job.scenario, job.argument, reply) if is_spoiled else reply


def _spoil(job: Queued, reply: Reply) -> Reply:
    if job.is_playing("poll_http"):
        return Reply(int(job.argument), b"<html>error</html>", "text/html")
    scenario, _, argument = job.argument.partition(":")
    return common(scenario, argument, reply)


def _build_reply(job: Queued, answer: Json) -> Reply:
    """The answer as a reply, with the scenario's change of its text."""
    if job.is_playing("success_text"):
        answer |= {"success": str(answer["success"]).lower()}
    reply = _json(answer)
    if job.is_playing("rename"):
        return common("rename", job.argument, reply)
    if job.is_playing("php_warning"):
        reply.body = b"<br />\n<b>Warning</b>: Undefined index {limit} in <b>/api.php</b> on line 7\n" + reply.body
    if job.is_playing("malformed") and "data" in answer:  # as the published sample is
        reply.body = reply.body.replace(b'", "seed"', b'"], "seed"')
        assert b'"], "seed"' in reply.body
    return reply


def _json(answer: Json, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    session = {
        "Set-Cookie": "PHPSESSID=1; path=/"
    }  # as PHP does; calls with the same session would wait for each other
    return Reply(status, json.dumps(answer).encode(), headers=session | (headers or {}))
