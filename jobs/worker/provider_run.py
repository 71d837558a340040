"""One provider's part of a job: every call is permitted, recorded and priced, until a picture or a failure."""

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

from core.database import DatabaseUnavailable, in_thread
from jobs.queue.records import Claim, JobReport
from jobs.queue.verbs import Queue
from jobs.storage import files, media
from jobs.worker.concurrency import JobPermit
from jobs.worker.postprocess import check, postprocess
from providers import attempts
from providers.attempts import Deadline, DeadlineReached
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
from providers.limits import CallEnding, NewCall
from providers.models import ProviderCall
from slots import template_media
from stats.journal import Step

logger = logging.getLogger(__name__)
T = TypeVar("T")
CallOutcome = ProviderCall.Outcome

# A short outage of the database must not cost a picture that is already paid for.
DATABASE_RETRY_SECONDS = 0.5


@dataclass(slots=True)
class RunContext:
    """What a running job works with."""

    queue: Queue
    permit: JobPermit
    deadline: Deadline
    report: JobReport = field(default_factory=JobReport)

    async def retry(self, verb: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Calls the verb, and repeats it while the database is unavailable and time is left: a short outage must not
        cause a second call to a provider. Raises `DatabaseUnavailable`."""
        while True:
            try:
                return await verb(*arguments)
            except (DatabaseUnavailable, OperationalError, InterfaceError) as error:
                if self.deadline.seconds_left_with_overtime() <= DATABASE_RETRY_SECONDS:
                    raise DatabaseUnavailable(str(error)) from error
                logger.warning("The database is unavailable; the job waits for it")
                await asyncio.sleep(DATABASE_RETRY_SECONDS)


@dataclass(frozen=True, slots=True)
class ProviderPlan:
    """Which provider to call, with which account, operation and settings."""

    provider: Provider[Any]
    operation_id: str
    settings: OperationSettings
    is_fallback: bool = False
    is_limited: bool = False
    daily_budget: float | None = None

    @property
    def is_free(self) -> bool:
        """Whether calls cost nothing and are not limited, so that they need no permit."""
        return self.provider.repeatable and not self.is_limited


class ProviderRun:
    """The observer of one provider's attempts."""

    def __init__(self, context: RunContext, claim: Claim, plan: ProviderPlan, *, is_resumed: bool) -> None:
        """`is_resumed`: the claim's reference and earlier calls are this provider's."""
        self.claim = claim
        self.plan = plan
        self.reference = claim.provider_job_reference if is_resumed else None
        self._earlier_calls = claim.earlier_calls if is_resumed else 0
        self._may_have_been_billed = is_resumed and claim.may_have_been_billed
        self._was_refused = is_resumed and claim.was_refused
        self._context = context

    async def run(self) -> Picture:
        """Returns the postprocessed picture, not yet stored. Raises `ProviderError`, `DeadlineReached`."""
        plan = self.plan
        await self._settle_lost_call()
        request = await self._build_request()
        await asyncio.to_thread(check, plan.settings, request.templates)

        async def finish(picture: Picture) -> Picture:
            return await asyncio.to_thread(
                postprocess, picture, plan.settings, request.templates, settings.INGEST_MAX_PIXELS
            )

        return await attempts.make_picture(
            plan.provider, request, self._context.deadline, self, finish, self.reference, self._earlier_calls
        )

    async def end_call(self, ending: CallEnding) -> None:
        """Records the ending of the open call, if there is one."""
        report = self._context.report
        if report.call_id is not None:
            report.call_ending = ending
            await self._context.retry(self._context.queue.end_call, report.call_id, ending)
            report.call_id = report.call_ending = None

    async def cancel_at_provider(self) -> None:
        """Asks the provider to stop, if it has given a reference."""
        if self.reference is not None:
            await attempts.cancel_at_provider(self.plan.provider, self.reference)

    async def _settle_lost_call(self) -> None:
        """Ends a call that an earlier worker left open. Without a reference to poll, neither one that may have been
        billed nor one that was refused is repeated. Raises `AmbiguousError`, `PermanentError`."""
        if self.reference is not None:
            return
        await self.end_call(CallEnding(CallOutcome.AMBIGUOUS))
        if self._was_refused:
            raise PermanentError(Reason.REFUSED, "The provider refused the photo; then its worker was lost")
        if self._may_have_been_billed and not attempts.may_repeat_ambiguous(self.plan.provider, self.plan.settings):
            raise AmbiguousError(Reason.INTERNAL, "The worker was lost during the call, which may have been billed")

    async def _build_request(self) -> Request:
        claim, plan = self.claim, self.plan
        try:
            photo = Picture(await asyncio.to_thread(files.read, claim.payload_path), claim.payload_mime_type)
        except FileNotFoundError:
            raise PermanentError(Reason.INTERNAL, "The stored photo is gone") from None
        ids = {key: claim.template_media[key] for key in plan.settings.template_keys() if key in claim.template_media}
        images = await self._context.retry(in_thread, template_media.load, ids) if ids else {}
        links: dict[str, str] = {}
        if plan.provider.requires_public_media and self.reference is None:
            links = await self._context.retry(in_thread, media.publish, claim, plan.provider, photo, images)
        return Request(
            job_id=claim.id,
            operation=plan.operation_id,
            settings=plan.settings,
            photo=photo,
            templates=images,
            photo_url=links.pop(media.PHOTO, None),
            template_urls=links,
        )

    # attempts.Observer

    async def on_accepted(self, reference: str) -> None:
        self.reference = reference
        await self._context.retry(self._context.queue.store_provider_reference, self.claim, reference)

    def on_poll(self) -> None:
        self._context.report.polls += 1

    async def wait_for_permit(self) -> None:
        if self.plan.is_free:
            return
        claim, plan = self.claim, self.plan
        call = NewCall(plan.provider.id, claim.slot_id, plan.is_fallback, plan.daily_budget)
        while True:
            permit = await self._context.retry(self._context.queue.begin_call, claim, call)
            if permit.call_id is not None:
                self._context.report.call_id = permit.call_id
                return
            if permit.wait_seconds >= self._context.deadline.seconds_left():
                raise PermanentError(Reason.QUOTA, "The account's own limits leave no time for a call")
            await self.back_off(permit.wait_seconds)

    async def back_off(self, seconds: float) -> None:
        """Sleeps without the permit, so that another job can run meanwhile."""
        self._context.permit.release()
        await asyncio.sleep(seconds)
        deadline = self._context.deadline
        try:
            await deadline.bound(self._context.permit.reacquire(), deadline.seconds_left())
        except TimeoutError:
            raise DeadlineReached from None

    async def on_attempt(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> None:
        """Records and logs a failed attempt at once, a successful one with the job's end."""
        report = self._context.report
        ending = CallEnding.of(error, usage)
        if error is not None:
            await self.end_call(ending)
        elif report.call_id is not None:
            report.call_ending = ending
        report.attempts += 1
        report.attempt_errors += error is not None
        report.provider_seconds += seconds
        report.steps.append(self._make_step(number, seconds, error, usage))
        if error is not None:
            await self._log_attempt()

    async def on_cut_off(self) -> None:
        """The worker's shutdown cuts the call off: records and logs that it may have been billed."""
        error = AmbiguousError(Reason.INTERNAL, "The worker was stopped during the call, which may have been billed")
        await self.on_attempt(self._earlier_calls + self._context.report.attempts + 1, 0, error, None)

    async def _log_attempt(self) -> None:
        steps = self._context.report.steps
        try:
            await self._context.queue.write_log(steps)
        except DatabaseUnavailable:
            return  # the steps stay in the report, and are written with the job's end
        steps.clear()

    def _make_step(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> Step:
        usage = error.usage if error else usage
        details = {
            "provider_id": self.plan.provider.id,
            "provider_reference": self.reference,
            "attempt": number,
            "fallback": self.plan.is_fallback or None,
            "model": usage and usage.model,
            "cost_usd": str(usage.cost) if usage and usage.cost is not None else None,
            "error": error and error.message,
            "reason": error and error.reason.value,
            "error_class": error and type(error).__name__,
            "may_have_been_billed": isinstance(error, AmbiguousError) or None,
        }
        success = gettext_noop("The provider answered with a picture")
        message = success if error is None else gettext_noop("The attempt failed")
        return Step(
            self.claim.id,
            self.claim.slot_id,
            "provider_responded",
            message,
            round(seconds * 1000),
            details,
            timezone.now(),
        )
