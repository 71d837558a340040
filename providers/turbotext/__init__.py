"""Turbotext's photo API: a job is submitted to its queue and polled until it is done; then its picture is downloaded.

Turbotext fetches the photo itself, by a public link. Every `create_queue` spends one photo attempt of the plan, so none
is repeated once its response was lost; polls and downloads cost nothing. `operations` declares the settings,
`responses` interprets responses, `downloads` fetches pictures. docs/providers/turbotext.md is the operator's page.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import ClassVar

import httpx
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from providers.base import Accepted, Account, PermanentError, Picture, Provider, Reason, Request
from providers.http import Http, Response
from providers.turbotext import responses
from providers.turbotext.downloads import Downloads
from providers.turbotext.operations import OPERATIONS, Settings

MAX_JSON_BYTES = 64 * 1024  # a response has some hundred bytes, and the prompt


@dataclass(frozen=True, slots=True)
class Payload:
    method: str
    fields: dict[str, str] = field(repr=False)  # contains the prompt


class Turbotext(Provider[Payload]):
    id = "turbotext"
    name = "Turbotext"
    operations = OPERATIONS
    default_base_url = "https://www.turbotext.ru"
    requires_public_media = True
    has_queue = True
    poll_seconds: ClassVar[float] = 2.5  # Turbotext recommends 2 to 3 s
    # A result may be reported a moment before its file exists; with these pauses a poll still ends within its 5 s.
    download_pauses: ClassVar[tuple[float, ...]] = (0.5, 1.0)  # seconds
    # Documented results have at most 1.4 megapixels, 1400 a side or so; this leaves room to crop.
    media_accepts: ClassVar[frozenset[str]] = frozenset({"image/jpeg", "image/png"})
    media_max_side: ClassVar[int] = 2400

    def __init__(self, account: Account) -> None:
        super().__init__(account)
        # The documentation gives ".../api_ai" as the address, so staff may have entered that.
        address = account.base_url.rstrip("/").removesuffix("/api_ai")
        self._http = Http(replace(account, base_url=address), {"Authorization": f"Bearer {account.key}"})
        self._downloads = Downloads(account, address, self.download_pauses)

    async def prepare_payload(self, request: Request) -> Payload:
        assert isinstance(request.settings, Settings)
        if request.photo_url is None:
            raise PermanentError(Reason.BAD_SETTINGS, "the photo has no public link: PUBLIC_BASE_URL is not set")
        fields = request.settings.fields(request.photo_url, request.template_urls)
        return Payload(request.settings.method, fields)

    async def submit_job(self, payload: Payload) -> Accepted:
        """The reference contains what polling needs: the method, which is part of the URL, and the queue id."""
        prompts = [payload.fields.get("content", ""), payload.fields.get("negative_prompt", "")]
        response = await self._post(payload.method, {"do": "create_queue"} | payload.fields, is_paid=True)
        return Accepted(f"{payload.method}:{responses.read_queue_id(response, [self.account.key, *prompts])}")

    async def poll_status(self, reference: str) -> Picture | None:
        """Polls, and downloads the picture as soon as it is done: its link may work only once."""
        method, _, queue_id = reference.partition(":")
        response = await self._post(method, {"do": "get_result", "queueid": queue_id})
        result = responses.read_result(method, response, [self.account.key])
        if result is None:
            return None
        try:
            return replace(await self._downloads.fetch(result.link), usage=result.usage)
        except PermanentError as error:
            error.usage = result.usage
            raise

    async def check_account(self) -> None:
        """Queues the list of methods, which spends no photo attempt."""
        responses.read_queue_id(await self._post("available_api", {"do": "create_queue"}), [self.account.key])

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._downloads.aclose()

    @classmethod
    def public_base_url_problem(cls, public_base_url: str, base_url: str) -> Promise | None:
        """A sentence that says why no slot of this provider can work with that PUBLIC_BASE_URL; None if one can.

        A local address is sufficient if the provider's own address (`base_url`) is local too: a sandbox.
        """
        if _is_local(public_base_url) and not _is_local(base_url):
            return _("Turbotext fetches photos by a link: set PUBLIC_BASE_URL to an address that the internet reaches.")
        return None

    async def _post(self, method: str, fields: dict[str, str], *, is_paid: bool = False) -> Response:
        return await self._http.send(
            "POST", f"/api_ai/{method}", data=fields, is_paid=is_paid, max_bytes=MAX_JSON_BYTES
        )


def _is_local(url: str) -> bool:
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL:
        return True
    try:
        return not ip_address(host).is_global
    except ValueError:  # a name
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))
