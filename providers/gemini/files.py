"""Gemini's Files API: for template images that many photos share, and for what is too large to go with the request.

An uploaded file lives 48 hours there. Which ones this account has is remembered in a `FileCache`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from django.conf import settings

from providers.base import Account, PermanentError, Picture, Reason, TransientError
from providers.gemini.errors import Fault, error_of
from providers.http import Answer, Http

LIFE: Final = dt.timedelta(hours=48)
MARGIN: Final = dt.timedelta(minutes=10)  # a file must outlive the photo that uses it, and our clocks may differ
ACTIVE_LOOKS: Final = 10
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


class FileCache(Protocol):
    """Where uploaded files are remembered, by a digest of account and content. What has expired may still be there."""

    async def get(self, digest: str) -> RemoteFile | None: ...

    async def put(self, digest: str, file: RemoteFile) -> None: ...

    async def forget(self, digest: str) -> None:
        """Harmless when it is not there."""


class MemoryCache:
    """A `FileCache` of this process."""

    def __init__(self) -> None:
        self._files: dict[str, RemoteFile] = {}

    async def get(self, digest: str) -> RemoteFile | None:
        return self._files.get(digest)

    async def put(self, digest: str, file: RemoteFile) -> None:
        self._files[digest] = file

    async def forget(self, digest: str) -> None:
        self._files.pop(digest, None)


class Files:
    """One account's files."""

    def __init__(self, account: Account, http: Http, cache: FileCache) -> None:
        self._account = account
        self._http = http
        self._uploads = Http(account, {})  # the upload's own address is its permission: no key goes there
        self._cache = cache
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def digest(self, data: bytes) -> str:
        account = hashlib.sha256(f"{self._account.base_url} {self._account.key}".encode()).digest()
        return hashlib.sha256(account + hashlib.sha256(data).digest()).hexdigest()

    async def known(self, digest: str) -> RemoteFile | None:
        file = await self._cache.get(digest)
        return file if file and file.is_fresh() else None

    async def shared(self, digest: str, picture: Picture) -> RemoteFile:
        """The file under that digest; uploaded once, however many photos ask for it at the same time."""
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            file = await self.known(digest)
            if file is None:
                file = await self.upload(picture, Reason.BAD_TEMPLATE)
                await self._cache.put(digest, file)
            return file

    async def forget(self, digest: str) -> None:
        await self._cache.forget(digest)

    async def upload(self, picture: Picture, bad: Reason) -> RemoteFile:
        """Uploads and waits until the file may be used. `bad` is the reason when the provider cannot read it."""
        address = await self._begun(picture)
        headers = {"X-Goog-Upload-Offset": "0", "X-Goog-Upload-Command": "upload, finalize"}
        answer = await self._call(self._uploads, "POST", address, headers=headers, content=picture.data)
        if answer.headers.get("x-goog-upload-status") != "final":
            raise TransientError(Reason.SLOW, "the upload was not finished")
        return await self._active(_json(answer).get("file") or {}, bad)

    async def delete(self, file: RemoteFile) -> None:
        await self._call(self._http, "DELETE", f"/v1beta/{file.name}")

    async def aclose(self) -> None:
        await self._uploads.aclose()

    async def _begun(self, picture: Picture) -> str:
        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(len(picture.data)),
            "X-Goog-Upload-Header-Content-Type": picture.mime_type,
        }
        file = {"mimeType": picture.mime_type, "sizeBytes": str(len(picture.data))}
        answer = await self._call(self._http, "POST", "/upload/v1beta/files", headers=headers, json={"file": file})
        given, own = urlsplit(answer.headers.get("x-goog-upload-url", "")), urlsplit(self._account.base_url)
        if not given.path:
            raise TransientError(Reason.OVERLOADED, "no address to upload to")
        # The photo goes to the account's own host, also where that is a relay which does not rewrite addresses.
        return str(given._replace(scheme=own.scheme, netloc=own.netloc).geturl())

    async def _active(self, file: dict[str, Any], bad: Reason) -> RemoteFile:
        for _ in range(ACTIVE_LOOKS):
            if file.get("state") == "ACTIVE":
                return _remote(file)
            if file.get("state") == "FAILED":
                raise PermanentError(bad, "the provider could not process the uploaded image")
            await asyncio.sleep(ACTIVE_PAUSE_SECONDS)
            file = _json(await self._call(self._http, "GET", f"/v1beta/{file.get('name', '')}"))
        raise TransientError(Reason.SLOW, "the provider is still processing the uploaded image")

    async def _call(self, http: Http, method: str, url: str, **request: Any) -> Answer:
        return await control(http, self._account.key, method, url, **request)


async def control(http: Http, key: str, method: str, url: str, **request: Any) -> Answer:
    """A short call that costs nothing. Raises `ProviderError` for everything but 200."""
    try:
        async with asyncio.timeout(settings.PROVIDER_CALL_TIMEOUT_SECONDS):
            answer = await http.send(method, url, **request)
    except TimeoutError:
        raise TransientError(Reason.SLOW, f"no answer within {settings.PROVIDER_CALL_TIMEOUT_SECONDS} s") from None
    if answer.status != 200:
        raise error_of(Fault.of(answer), key)
    return answer


def _json(answer: Answer) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise TransientError(Reason.OVERLOADED, "the answer is not as documented")
    return body


def _remote(file: dict[str, Any]) -> RemoteFile:
    try:
        expires = file.get("expirationTime")
        until = dt.datetime.fromisoformat(expires) if expires else dt.datetime.now(dt.UTC) + LIFE
        return RemoteFile(file["name"], file["uri"], file["mimeType"], until)
    except (LookupError, ValueError) as error:
        raise TransientError(Reason.OVERLOADED, f"the file is not as documented ({error})") from error
