"""Gemini's Files API, for template images that many photos share and for images too large to send inline.

Google keeps an uploaded file for 48 hours. A `FileCache` remembers what has been uploaded.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from django.conf import settings

from providers.base import Account, PermanentError, Picture, Reason, TransientError
from providers.gemini.errors import Fault, make_error
from providers.http import Http, Response

LIFE: Final = dt.timedelta(hours=48)
MARGIN: Final = dt.timedelta(minutes=10)  # a file must outlive the photo that uses it, and our clocks may differ
ACTIVE_POLLS: Final = 10
ACTIVE_PAUSE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class RemoteFile:
    name: str  # files/…
    uri: str
    mime_type: str
    expires_at: dt.datetime

    def is_fresh(self) -> bool:
        return self.expires_at - dt.datetime.now(dt.UTC) > MARGIN

    def part(self) -> dict[str, Any]:
        return {"fileData": {"mimeType": self.mime_type, "fileUri": self.uri}}


class FileCache:
    """Uploaded files by a digest of account and content, in this process. May still contain files that have expired."""

    def __init__(self) -> None:
        self._files: dict[str, RemoteFile] = {}

    async def get(self, digest: str) -> RemoteFile | None:
        return self._files.get(digest)

    async def put(self, digest: str, file: RemoteFile) -> None:
        self._files[digest] = file

    async def forget(self, digest: str) -> None:
        """Does nothing if the digest is not there."""
        self._files.pop(digest, None)


class Files:
    """One account's files."""

    def __init__(self, account: Account, http: Http, cache: FileCache) -> None:
        self._account = account
        self._http = http
        self._uploads = Http(account, {})  # an upload's URL is its own credential: no key is sent there
        self._cache = cache
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def digest(self, data: bytes) -> str:
        account = hashlib.sha256(f"{self._account.base_url} {self._account.key}".encode()).digest()
        return hashlib.sha256(account + hashlib.sha256(data).digest()).hexdigest()

    async def get(self, digest: str) -> RemoteFile | None:
        file = await self._cache.get(digest)
        return file if file and file.is_fresh() else None

    async def get_or_upload(self, digest: str, picture: Picture) -> RemoteFile:
        """The file of that digest; uploaded once, however many photos need it at the same time."""
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            file = await self.get(digest)
            if file is None:
                file = await self.upload(picture, Reason.BAD_TEMPLATE)
                await self._cache.put(digest, file)
            return file

    async def forget(self, digest: str) -> None:
        await self._cache.forget(digest)

    async def upload(self, picture: Picture, bad: Reason) -> RemoteFile:
        """Uploads and waits until the file can be used. `bad` is the error's reason if the provider cannot read it."""
        address = await self._start_upload(picture)
        headers = {"X-Goog-Upload-Offset": "0", "X-Goog-Upload-Command": "upload, finalize"}
        response = await self._call(self._uploads, "POST", address, headers=headers, content=picture.data)
        if response.headers.get("x-goog-upload-status") != "final":
            raise TransientError(Reason.SLOW, "the upload was not finished")
        return await self._wait_until_active(_parse_json(response).get("file") or {}, bad)

    async def delete(self, file: RemoteFile) -> None:
        await self._call(self._http, "DELETE", f"/v1beta/{file.name}")

    async def aclose(self) -> None:
        await self._uploads.aclose()

    async def _start_upload(self, picture: Picture) -> str:
        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(len(picture.data)),
            "X-Goog-Upload-Header-Content-Type": picture.mime_type,
        }
        file = {"mimeType": picture.mime_type, "sizeBytes": str(len(picture.data))}
        response = await self._call(self._http, "POST", "/upload/v1beta/files", headers=headers, json={"file": file})
        target, own = urlsplit(response.headers.get("x-goog-upload-url", "")), urlsplit(self._account.base_url)
        if not target.path:
            raise TransientError(Reason.OVERLOADED, "no address to upload to")
        # The photo is sent to the account's own host, even if that is a relay which does not rewrite URLs.
        return str(target._replace(scheme=own.scheme, netloc=own.netloc).geturl())

    async def _wait_until_active(self, file: dict[str, Any], bad: Reason) -> RemoteFile:
        for _ in range(ACTIVE_POLLS):
            if file.get("state") == "ACTIVE":
                return _parse_file(file)
            if file.get("state") == "FAILED":
                raise PermanentError(bad, "the provider could not process the uploaded image")
            await asyncio.sleep(ACTIVE_PAUSE_SECONDS)
            file = _parse_json(await self._call(self._http, "GET", f"/v1beta/{file.get('name', '')}"))
        raise TransientError(Reason.SLOW, "the provider is still processing the uploaded image")

    async def _call(self, http: Http, method: str, url: str, **request: Any) -> Response:
        return await send_control(http, self._account.key, method, url, **request)


async def send_control(http: Http, key: str, method: str, url: str, **request: Any) -> Response:
    """A short call that costs nothing. Raises `ProviderError` for every status but 200."""
    try:
        async with asyncio.timeout(settings.PROVIDER_CALL_TIMEOUT_SECONDS):
            response = await http.send(method, url, **request)
    except TimeoutError:
        raise TransientError(Reason.SLOW, f"no answer within {settings.PROVIDER_CALL_TIMEOUT_SECONDS} s") from None
    if response.status != 200:
        raise make_error(Fault.parse(response), key)
    return response


def _parse_json(response: Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise TransientError(Reason.OVERLOADED, "the answer is not as documented")
    return body


def _parse_file(file: dict[str, Any]) -> RemoteFile:
    try:
        expires = file.get("expirationTime")
        until = dt.datetime.fromisoformat(expires) if expires else dt.datetime.now(dt.UTC) + LIFE
        return RemoteFile(file["name"], file["uri"], file["mimeType"], until)
    except (LookupError, ValueError) as error:
        raise TransientError(Reason.OVERLOADED, f"the file is not as documented ({error})") from error
