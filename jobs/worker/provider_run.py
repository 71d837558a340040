"""One provider's turn at a job: its calls, permitted, written down and priced one by one, until picture or failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils import timezone
from django.utils.translation import gettext_noop

from core.database import in_thread
from jobs.queue.records import Claim, Report
from jobs.queue.verbs import Queue, QueueUnavailable
from jobs.storage import files, media
from jobs.worker.concurrency import Place
from jobs.worker.postprocess import finish
from providers import attempts
from providers.attempts import Clock
from providers.base import (
    AmbiguousError,
    OperationSettings,
    PermanentError,
    Picture,
    Provider,
    ProviderError,
    Reason,
    Request,
    Usage,
)
from providers.limits import Ending, NewCall
from providers.models import ProviderCall
from slots import template_media
from stats.journal import Step

logger = logging.getLogger(__name__)
T = TypeVar("T")
CallOutcome = ProviderCall.Outcome

# A database that is away for a moment must not cost a picture that is already paid for.
DATABASE_RETRY_SECONDS = 0.5


@dataclass(slots=True)
class Desk:
    """What a running job works with."""

    queue: Queue
    place: Place
    clock: Clock
    report: Report = field(default_factory=Report)

    async def insist(self, verb: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """The verb's answer. While the database is away and there is time it is asked again, so that no provider is
        ever called twice for that. Raises `QueueUnavailable`."""
        while True:
            try:
                return await verb(*arguments)
            except (QueueUnavailable, OperationalError, InterfaceError) as error:
                if self.clock.left_in_all() <= DATABASE_RETRY_SECONDS:
                    raise QueueUnavailable(str(error)) from error
                logger.warning("The database is away; the job waits for it")
                await asyncio.sleep(DATABASE_RETRY_SECONDS)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a stage is to do, and with whose account."""

    provider: Provider[Any]
    operation_id: str
    settings: OperationSettings
    is_fallback: bool = False
    is_limited: bool = False
    daily_budget: float | None = None

    @property
    def is_free(self) -> bool:
        """A call that nobody counts needs no permit."""
        return self.provider.repeatable and not self.is_limited


class Stage:
    """The observer of the attempts of one provider."""

    def __init__(self, desk: Desk, claim: Claim, recipe: Recipe, *, is_resumed: bool) -> None:
        """`is_resumed`: the claim's reference and earlier calls are this provider's."""
        self.claim = claim
        self.recipe = recipe
        self.reference = claim.provider_job_reference if is_resumed else None
        self._call = claim.open_call if is_resumed else None
        self._earlier = claim.earlier_calls if is_resumed else 0
        self._may_have_been_billed = is_resumed and claim.may_have_been_billed
        self._desk = desk

    async def make(self) -> Picture:
        """The finished picture; nothing of it is kept yet. Raises `ProviderError`, `DeadlineReached`."""
        recipe = self.recipe
        await self._settle_lost_call()
        request = await self._request()

        async def finished(picture: Picture) -> Picture:
            return await asyncio.to_thread(
                finish, picture, recipe.settings, request.templates, settings.INGEST_MAX_PIXELS
            )

        return await attempts.make_picture(
            recipe.provider, request, self._desk.clock, self, finished, self.reference, self._earlier
        )

    async def end_call(self, ending: Ending) -> None:
        """Of the call under way, if there is one."""
        if self._call is not None:
            await self._desk.insist(self._desk.queue.end_call, self._call, ending)
            self._call = None

    async def tell_provider(self) -> None:
        """That nobody waits for it any more."""
        if self.reference is not None:
            await attempts.tell_cancelled(self.recipe.provider, self.reference)

    async def _settle_lost_call(self) -> None:
        """A worker was lost while it waited for an answer. Where there is no reference to ask by, that call may have
        been billed and is not repeated. Raises `AmbiguousError`."""
        if self.reference is not None:
            return
        await self.end_call(Ending(CallOutcome.AMBIGUOUS))
        if self._may_have_been_billed and not attempts.may_repeat_ambiguous(self.recipe.provider, self.recipe.settings):
            raise AmbiguousError(Reason.INTERNAL, "The worker was lost during the call, which may have been billed")

    async def _request(self) -> Request:
        claim, recipe = self.claim, self.recipe
        try:
            photo = Picture(await asyncio.to_thread(files.read, claim.payload_path), claim.payload_mime_type)
        except FileNotFoundError:
            raise PermanentError(Reason.INTERNAL, "The stored photo is gone") from None
        ids = {key: claim.template_media[key] for key in recipe.settings.template_keys() if key in claim.template_media}
        images = await self._desk.insist(in_thread, template_media.load, ids) if ids else {}
        links: dict[str, str] = {}
        if recipe.provider.requires_public_media and self.reference is None:
            links = await self._desk.insist(in_thread, media.publish, claim, recipe.provider, photo, images)
        return Request(
            job_id=claim.id,
            operation=recipe.operation_id,
            settings=recipe.settings,
            photo=photo,
            templates=images,
            photo_url=links.pop(media.PHOTO, None),
            template_urls=links,
        )

    # attempts.Observer

    async def accepted(self, reference: str) -> None:
        self.reference = reference
        await self._desk.insist(self._desk.queue.refer, self.claim, reference)

    def polled(self) -> None:
        self._desk.report.polls += 1

    async def permit(self) -> None:
        if self.recipe.is_free:
            return
        claim, recipe = self.claim, self.recipe
        call = NewCall(recipe.provider.id, claim.slot_id, claim.id, recipe.is_fallback, recipe.daily_budget)
        while True:
            permit = await self._desk.insist(self._desk.queue.begin_call, claim, call)
            if permit.call_id is not None:
                self._call = permit.call_id
                return
            if permit.wait_seconds >= self._desk.clock.left():
                raise PermanentError(Reason.QUOTA, "The account's own limits leave no time for a call")
            await self.rest(permit.wait_seconds)

    async def rest(self, seconds: float) -> None:
        """Meanwhile another job may have the place."""
        self._desk.place.leave()
        await asyncio.sleep(seconds)
        await self._desk.place.take_again()

    async def attempted(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> None:
        """Failed attempts are logged at once; the last step of the report goes with the job's end."""
        await self.end_call(Ending.of(error, usage))
        report = self._desk.report
        report.attempts += 1
        report.attempt_errors += error is not None
        report.provider_seconds += seconds
        report.steps.append(self._step(number, seconds, error, usage))
        if error is not None:
            await self._log_attempt()

    async def _log_attempt(self) -> None:
        steps = self._desk.report.steps
        try:
            await self._desk.queue.log(steps)
        except QueueUnavailable:
            return  # the steps stay in the report and are written with the job's end
        steps.clear()

    def _step(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> Step:
        usage = error.usage if error else usage
        details = {
            "provider_id": self.recipe.provider.id,
            "provider_reference": self.reference,
            "attempt": number,
            "fallback": self.recipe.is_fallback or None,
            "model": usage and usage.model,
            "cost_usd": str(usage.cost) if usage and usage.cost is not None else None,
            "error": error and error.message,
            "reason": error and error.reason.value,
            "error_class": error and type(error).__name__,
            "may_have_been_billed": isinstance(error, AmbiguousError) or None,
        }
        answered = gettext_noop("The provider answered with a picture")
        message = answered if error is None else gettext_noop("The attempt failed")
        return Step(
            self.claim.id,
            self.claim.slot_id,
            "provider_responded",
            message,
            round(seconds * 1000),
            details,
            timezone.now(),
        )
