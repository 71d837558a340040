"""One claimed job: from the stored photo through its provider to the stored picture and the finished row."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils import timezone
from django.utils.translation import gettext_noop
from pydantic import ValidationError

from jobs import files, media
from jobs.finish import finish
from jobs.places import Places
from jobs.queue import LEASE_SECONDS, Claim, Failure, Outcome, Queue, QueueUnavailable, Report, Result
from jobs.thumbnails import Thumbnails
from photoslot import crypto
from photoslot.database import in_thread
from photoslot.logs import correlation_id
from providers import attempts, registry
from providers.attempts import Clock, DeadlineReached
from providers.base import (
    Account,
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
from providers.limits import Ending
from providers.models import ProviderCall
from slots import templates
from stats.journal import Step

logger = logging.getLogger(__name__)
T = TypeVar("T")
CallOutcome = ProviderCall.Outcome

# Larger results are read from their file: in the row they would go through the write-ahead log twice.
INLINE_BYTES = 64 * 1024
# A database that is away for a moment must not cost a picture that is already paid for.
DATABASE_RETRY_SECONDS = 0.5


class LeaseLost(Exception):
    """The job has ended or is another worker's."""


@dataclass(slots=True)
class Lease:
    """How long the job is surely ours, on this process's monotonic clock; the worker's heartbeat prolongs it."""

    until: float

    @classmethod
    def begin(cls) -> Lease:
        return cls(time.monotonic() + LEASE_SECONDS)

    def prolong(self) -> None:
        self.until = time.monotonic() + LEASE_SECONDS

    def seconds_left(self) -> float:
        return self.until - time.monotonic()


class Providers:
    """The adapters of this process, one instance an account: jobs share its connections."""

    def __init__(self) -> None:
        self._instances: dict[tuple[str, ...], Provider[Any]] = {}

    def of(self, claim: Claim) -> Provider[Any]:
        """Raises `PermanentError` where the account cannot be used."""
        key = claim.provider_id, claim.encrypted_key, claim.base_url, claim.encrypted_proxy_url
        if key not in self._instances:
            self._instances[key] = _provider(claim)
        return self._instances[key]

    async def aclose(self) -> None:
        for provider in self._instances.values():
            await provider.aclose()


def _provider(claim: Claim) -> Provider[Any]:
    provider = registry.classes()[claim.provider_id]
    try:
        key, proxy_url = crypto.decrypt(claim.encrypted_key), crypto.decrypt(claim.encrypted_proxy_url)
    except crypto.UnreadableSecretError:
        raise PermanentError(Reason.AUTH, "The stored key cannot be read: FERNET_KEYS has changed") from None
    if provider.needs_key and not key:
        raise PermanentError(Reason.AUTH, "The provider's account has no key")
    return provider(Account(key, claim.base_url or provider.default_base_url, proxy_url or None))


class Runner:
    """Runs jobs with the providers of this process."""

    def __init__(self, queue: Queue, places: Places) -> None:
        self._queue = queue
        self._places = places
        self._providers = Providers()
        self._thumbnails = Thumbnails()

    def begin(self, claim: Claim) -> JobRun:
        """A place must have been taken for it."""
        self._thumbnails.rush()
        return JobRun(self._queue, self._places, self._providers, claim, self._thumbnails)

    def rest(self) -> None:
        """No job is under way any more."""
        self._thumbnails.rest()

    async def aclose(self) -> None:
        await asyncio.to_thread(self._thumbnails.close)
        await self._providers.aclose()


class JobRun:
    """One job while this process has it; the observer of its attempts."""

    def __init__(
        self, queue: Queue, places: Places, providers: Providers, claim: Claim, thumbnails: Thumbnails
    ) -> None:
        self.claim = claim
        self.lease = Lease.begin()
        self._queue = queue
        self._places = places
        self._has_place = True
        self._providers = providers
        self._provider: Provider[Any] | None = None
        self._thumbnails = thumbnails
        self._clock = Clock.of(claim.seconds_left)
        self._report = Report()
        self._reference = claim.provider_job_reference
        self._call = claim.open_call
        self._making: asyncio.Task[Picture] | None = None
        self._is_stopped = False

    def leave_place(self) -> None:
        """The work on the job is over."""
        if self._has_place:
            self._has_place = False
            self._places.give_back()

    def stop(self) -> None:
        """The job has ended elsewhere: the provider call is torn down. Harmless when the job has ended here."""
        self._is_stopped = True
        if self._making:
            self._making.cancel()

    async def bring_to_its_end(self) -> None:
        """From photo to picture or failure. Cancelling this stops the work and leaves the job to another worker."""
        correlation_id.set(str(self.claim.id))
        self._making = asyncio.create_task(self._made(), name=f"make {self.claim.id}")
        try:
            picture = await self._making
            await self._hold()
            ending: Result | Failure = await asyncio.to_thread(self._store, picture)
        except asyncio.CancelledError:
            if not self._is_stopped:
                await self._handed_back()
                raise
            await self._torn_down()
            return
        except DeadlineReached:
            await self._out_of_time()
            return
        except LeaseLost:
            await self._drop(None, await self._queue.look(self.claim.id))
            return
        except QueueUnavailable:
            raise
        except ProviderError as error:
            ending = Failure(error.reason, error.message)
        except Exception as error:  # a fault of ours must end the job, not the worker; the booth is told at once
            logger.exception("Job failed by a fault of this service")
            ending = Failure(Reason.INTERNAL, f"{type(error).__name__} in this service; see the worker's log")
        await self._finalize(ending)

    async def _made(self) -> Picture:
        """The finished picture; nothing of it is kept yet."""
        provider = self._provider = self._providers.of(self.claim)
        parsed = _parsed(self.claim)
        await self._settle_lost_call(provider, parsed)
        request = await self._request(provider, parsed)

        async def finished(picture: Picture) -> Picture:
            return await asyncio.to_thread(finish, picture, parsed, request.templates, settings.INGEST_MAX_PIXELS)

        return await attempts.make_picture(
            provider, request, self._clock, self, finished, self._reference, self.claim.earlier_calls
        )

    async def _settle_lost_call(self, provider: Provider[Any], parsed: OperationSettings) -> None:
        """A worker was lost while it waited for an answer. Where there is no reference to ask by, that call may have
        been billed and is not repeated. Raises `AmbiguousError`."""
        if self._reference is not None:
            return
        if self._call is not None:
            await self._end_call(Ending(CallOutcome.AMBIGUOUS))
        if self.claim.may_have_been_billed and not attempts.may_repeat_ambiguous(provider, parsed):
            raise AmbiguousError(Reason.INTERNAL, "The worker was lost during the call, which may have been billed")

    async def _request(self, provider: Provider[Any], parsed: OperationSettings) -> Request:
        claim = self.claim
        try:
            photo = await asyncio.to_thread(files.read, claim.payload_path)
        except FileNotFoundError:
            raise PermanentError(Reason.INTERNAL, "The stored photo is gone") from None
        ids = {key: claim.template_media[key] for key in parsed.template_keys() if key in claim.template_media}
        is_public = provider.requires_public_media
        return Request(
            job_id=claim.id,
            operation=claim.operation_id,
            settings=parsed,
            photo=Picture(photo, claim.payload_mime_type),
            templates=await self._insist(in_thread, templates.load, ids) if ids else {},
            photo_url=await self._insist(in_thread, media.publish, claim, len(photo)) if is_public else None,
        )

    async def _hold(self) -> None:
        """Only the worker that has the job may write its file, since all workers write to the same name."""
        if self._clock.left() <= 0:
            raise DeadlineReached
        if self.lease.seconds_left() <= 0:  # no heartbeat came through; that alone makes the job nobody else's
            if not await self._insist(self._queue.extend, [self.claim]):
                raise LeaseLost
            self.lease.prolong()

    def _store(self, picture: Picture) -> Result:
        path = files.result_path(self.claim.id, picture.mime_type)
        files.save(path, picture.data)
        size = len(picture.data)
        inline = base64.b64encode(picture.data).decode() if size <= INLINE_BYTES else None
        return Result(path, picture.mime_type, size, files.checksum(picture.data), inline)

    async def _finalize(self, ending: Result | Failure) -> None:
        if await self._insist(self._queue.finalize, self.claim, ending, self._report) is None:
            await self._expire()
            outcome = await self._queue.look(self.claim.id)
            # What a first try has done, whose answer was lost with the connection, is no late answer.
            if outcome is None or not outcome.was_made_by(self.claim):
                await self._drop(ending, outcome)
                return
        await media.tidy_up(self.claim)
        if isinstance(ending, Result):
            self._thumbnails.make_later(self.claim.id, ending.path)

    async def _insist(self, verb: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """The verb's answer. While the database is away and there is time it is asked again, so that no provider is
        ever called twice for that. Raises `QueueUnavailable`."""
        while True:
            try:
                return await verb(*arguments)
            except (QueueUnavailable, OperationalError, InterfaceError) as error:
                if self._clock.left() <= DATABASE_RETRY_SECONDS:
                    raise QueueUnavailable(str(error)) from error
                logger.warning("The database is away; the job waits for it")
                await asyncio.sleep(DATABASE_RETRY_SECONDS)

    async def _expire(self) -> None:
        if closed := await self._queue.expire(self.claim.id, self._report):
            self._report.steps.clear()  # they are written
            await media.tidy_up(closed)

    async def _out_of_time(self) -> None:
        await self._end_call(Ending(CallOutcome.LATE))
        await self._tell_provider()
        await self._expire()

    async def _torn_down(self) -> None:
        """The provider is told to stop, unless another worker goes on with this very reference."""
        outcome = await self._queue.look(self.claim.id)
        if outcome is None or outcome.is_finalized or outcome.provider_job_reference != self._reference:
            is_late = outcome is not None and outcome.failure_reason == "timeout"
            await self._end_call(Ending(CallOutcome.LATE if is_late else CallOutcome.CANCELLED))
            await self._tell_provider()

    async def _handed_back(self) -> None:
        """Another worker goes on with a reference; an immediate call is torn down, and may have been billed."""
        if self._reference is None:
            try:
                await self._end_call(Ending(CallOutcome.AMBIGUOUS))
            except QueueUnavailable:
                logger.warning("The database is away: a call of job %s stays open", self.claim.id)

    async def _drop(self, ending: Result | Failure | None, outcome: Outcome | None) -> None:
        """An answer for a job that has ended, or that is another worker's, which then writes the file itself."""
        if outcome is None or not outcome.is_finalized:
            logger.warning("The lease ran out while the picture was made; the job is another worker's")
            await self._queue.log(self._report.steps)
            return
        await self._queue.drop_late_answer(self.claim, self._report.steps)
        if isinstance(ending, Result) and outcome.result_file_path is None:
            await asyncio.to_thread(files.delete, ending.path)

    async def _tell_provider(self) -> None:
        if self._reference is not None and self._provider is not None:
            await attempts.tell_cancelled(self._provider, self._reference)

    # attempts.Observer

    async def accepted(self, reference: str) -> None:
        self._reference = reference
        await self._insist(self._queue.refer, self.claim, reference)

    def polled(self) -> None:
        self._report.polls += 1

    async def permit(self) -> None:
        """A free provider without limits is asked straight away; every other call is written down before it is made."""
        assert self._provider
        if self._provider.repeatable and not self.claim.is_limited and self.claim.is_enabled:
            return
        while True:
            permit = await self._insist(self._queue.begin_call, self.claim)
            if permit.call_id is not None:
                self._call = permit.call_id
                return
            if permit.wait_seconds >= self._clock.left():
                raise PermanentError(Reason.QUOTA, "The account's own limit of calls a minute leaves no time")
            await self.rest(permit.wait_seconds)

    async def rest(self, seconds: float) -> None:
        """Meanwhile another job may have the place."""
        self.leave_place()
        await asyncio.sleep(seconds)
        await self._places.take_again()
        self._has_place = True

    async def _end_call(self, ending: Ending) -> None:
        if self._call is not None:
            await self._insist(self._queue.end_call, self._call, ending)
            self._call = None

    async def attempted(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> None:
        """Failed attempts are logged at once; the last step of the report goes with the job's end."""
        await self._end_call(Ending.of(error, usage))
        self._report.attempts += 1
        self._report.attempt_errors += error is not None
        self._report.provider_seconds += seconds
        self._report.steps.append(self._step(number, seconds, error, usage))
        if error is not None:
            await self._log_attempt()

    async def _log_attempt(self) -> None:
        try:
            await self._queue.log(self._report.steps)
        except QueueUnavailable:
            return  # the steps stay in the report and are written with the job's end
        self._report.steps.clear()

    def _step(self, number: int, seconds: float, error: ProviderError | None, usage: Usage | None) -> Step:
        usage = error.usage if error else usage
        details = {
            "provider_id": self.claim.provider_id,
            "provider_reference": self._reference,
            "attempt": number,
            "model": usage and usage.model,
            "cost_usd": str(usage.cost) if usage and usage.cost is not None else None,
            "error": error and error.message,
            "reason": error and error.reason.value,
            "error_class": error and type(error).__name__,
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


def _parsed(claim: Claim) -> OperationSettings:
    """The job's snapshot of settings, checked again: since then the service may have been upgraded."""
    operation = registry.operation(claim.provider_id, claim.operation_id)
    if operation is None:
        raise PermanentError(Reason.BAD_SETTINGS, "The provider no longer has this operation")
    try:
        return operation.settings.model_validate(claim.settings_json)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors())
        raise PermanentError(Reason.BAD_SETTINGS, f"Not accepted any more: {fields}") from error
