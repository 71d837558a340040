"""One claimed job: from the stored photo through its providers to the stored picture and the finished row."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from core import crypto
from core.logs import correlation_id
from jobs.models import Job
from jobs.queue.records import Claim, Failure, Outcome, Result, SealedAccount
from jobs.queue.verbs import LEASE_SECONDS, Queue, QueueUnavailable
from jobs.storage import files, media
from jobs.storage.thumbnails import Thumbnails
from jobs.worker.concurrency import Place
from jobs.worker.provider_run import CallOutcome, Desk, Recipe, Stage
from providers import registry
from providers.attempts import Clock, DeadlineReached
from providers.base import (
    Account,
    Fallback,
    OperationSettings,
    PermanentError,
    Picture,
    Provider,
    ProviderError,
    Reason,
)
from providers.limits import Ending

logger = logging.getLogger(__name__)

# Larger results are read from their file: in the row they would go through the write-ahead log twice.
INLINE_BYTES = 64 * 1024
# How long after the deadline a slot with `finish_late` waits: OpenAI's longest answers take two minutes.
OVERTIME_SECONDS = 120.0
# The clocks of database and process may differ by this much about when the deadline is.
CLOCK_SECONDS: Final = 1.0


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
        self._instances: dict[tuple[str, SealedAccount], Provider[Any]] = {}

    def of(self, provider_id: str, account: SealedAccount) -> Provider[Any]:
        """Raises `PermanentError` where the account cannot be used."""
        if (provider_id, account) not in self._instances:
            self._instances[provider_id, account] = _provider(provider_id, account)
        return self._instances[provider_id, account]

    async def aclose(self) -> None:
        for provider in self._instances.values():
            await provider.aclose()


def _provider(provider_id: str, account: SealedAccount) -> Provider[Any]:
    provider = registry.classes()[provider_id]
    try:
        key, proxy_url = crypto.decrypt(account.encrypted_key), crypto.decrypt(account.encrypted_proxy_url)
    except crypto.UnreadableSecretError:
        raise PermanentError(Reason.AUTH, "The stored key cannot be read: FERNET_KEYS has changed") from None
    if provider.needs_key and not key:
        raise PermanentError(Reason.AUTH, "The provider's account has no key")
    return provider(Account(key, account.base_url or provider.default_base_url, proxy_url or None))


class Runner:
    """Runs jobs with the providers of this process."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._providers = Providers()
        self._thumbnails = Thumbnails()

    def begin(self, claim: Claim, place: Place) -> JobRun:
        self._thumbnails.rush()
        return JobRun(self._queue, place, self._providers, claim, self._thumbnails)

    def rest(self) -> None:
        """No job is under way any more."""
        self._thumbnails.rest()

    async def aclose(self) -> None:
        await asyncio.to_thread(self._thumbnails.close)
        await self._providers.aclose()


class JobRun:
    """One job while this process has it."""

    def __init__(self, queue: Queue, place: Place, providers: Providers, claim: Claim, thumbnails: Thumbnails) -> None:
        self.claim = claim
        self.lease = Lease.begin()
        self.place = place
        self._queue = queue
        self._providers = providers
        self._thumbnails = thumbnails
        overtime = OVERTIME_SECONDS if claim.settings_json.get("finish_late") is True else 0
        self._clock = Clock.of(claim.seconds_left, overtime)
        self._desk = Desk(queue, place, self._clock)
        self._stage: Stage | None = None
        self._making: asyncio.Task[Picture] | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """The job has ended elsewhere: the provider call is torn down, or after its time may finish without a place.
        Harmless when the job has ended here."""
        if self._clock.overtime and self._clock.left() < CLOCK_SECONDS:
            self.place.leave()
            return
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
        except DeadlineReached as late:
            await self._out_of_time(late)
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
        """By the slot's provider, else by its fallback (design, rule 5)."""
        claim = self.claim
        parsed = registry.parsed(claim.provider_id, claim.operation_id, claim.settings_json)
        if not claim.used_fallback:
            try:
                return await self._made_by(claim.provider_id, claim.operation_id, parsed, parsed.daily_budget)
            except ProviderError as error:
                if parsed.fallback is None or self._clock.left() <= 0:
                    raise
                logger.info("No picture by %s (%s): falling back", claim.provider_id, error.reason)
            await self._desk.insist(self._queue.fall_back, claim)
        assert parsed.fallback
        instead = _fallback_settings(parsed, parsed.fallback)
        chosen = parsed.fallback
        return await self._made_by(chosen.provider_id, chosen.operation_id, instead, parsed.daily_budget, chosen)

    async def _made_by(
        self,
        provider_id: str,
        operation_id: str,
        settings: OperationSettings,
        daily_budget: float | None,
        fallback: Fallback | None = None,
    ) -> Picture:
        account = await self._desk.insist(self._queue.account, provider_id) if fallback else self.claim.account
        if not account.is_enabled:
            raise PermanentError(Reason.OVERLOADED, "The provider is switched off in its account")
        recipe = Recipe(
            self._providers.of(provider_id, account),
            operation_id,
            settings.filled(self.claim.metadata),
            is_fallback=fallback is not None,
            is_limited=account.is_limited,
            daily_budget=daily_budget,
        )
        is_resumed = self.claim.used_fallback == recipe.is_fallback
        self._stage = Stage(self._desk, self.claim, recipe, is_resumed=is_resumed)
        return await self._stage.make()

    async def _hold(self) -> None:
        """Only the worker that has the job may write its file, since all workers write to the same name."""
        if self._clock.left() <= 0:
            if self._clock.left_in_all() <= 0:
                raise DeadlineReached
            return  # the job has timed out: nobody else takes it
        if self.lease.seconds_left() <= 0:  # no heartbeat came through; that alone makes the job nobody else's
            if not await self._desk.insist(self._queue.extend, [self.claim]):
                raise LeaseLost
            self.lease.prolong()

    def _store(self, picture: Picture) -> Result:
        path = files.result_path(self.claim.id, picture.mime_type)
        files.save(path, picture.data)
        size = len(picture.data)
        inline = base64.b64encode(picture.data).decode() if size <= INLINE_BYTES else None
        return Result(path, picture.mime_type, size, files.checksum(picture.data), inline)

    async def _finalize(self, ending: Result | Failure) -> None:
        closed = await self._desk.insist(self._queue.finalize, self.claim, ending, self._desk.report)
        if closed is not None:
            await media.tidy_up(closed)
        else:
            await self._expire()
            outcome = await self._queue.look(self.claim.id)
            # What a first try has done, whose answer was lost with the connection, is no late answer.
            if outcome is not None and outcome.was_made_by(self.claim):
                await media.tidy_up(outcome)
            elif not await self._finished_late(ending):
                await self._drop(ending, outcome)
                return
        if isinstance(ending, Result) and self.claim.source == Job.Source.BOOTH:
            self._thumbnails.make_later(self.claim.id, ending.path)

    async def _finished_late(self, ending: Result | Failure) -> bool:
        """Whether the picture is now under the public link of a job that has timed out, as its slot wants."""
        if not self._clock.overtime or isinstance(ending, Failure):
            return False
        return await self._desk.insist(self._queue.add_late_result, self.claim, ending, self._desk.report.steps)

    async def _expire(self) -> None:
        if closed := await self._queue.expire(self.claim.id, self._desk.report):
            self._desk.report.steps.clear()  # they are written
            await media.tidy_up(closed)

    async def _out_of_time(self, late: DeadlineReached) -> None:
        if self._stage:
            await self._stage.end_call(Ending(CallOutcome.LATE, usage=late.usage))
            await self._stage.tell_provider()
        await self._expire()

    async def _torn_down(self) -> None:
        """The provider is told to stop, unless another worker goes on with this very reference."""
        outcome = await self._queue.look(self.claim.id)
        if self._stage is None:
            return
        if outcome is None or outcome.is_finalized or outcome.provider_job_reference != self._stage.reference:
            is_late = outcome is not None and outcome.failure_reason == "timeout"
            await self._stage.end_call(Ending(CallOutcome.LATE if is_late else CallOutcome.CANCELLED))
            await self._stage.tell_provider()

    async def _handed_back(self) -> None:
        """Another worker goes on with a reference; an immediate call is torn down, and may have been billed."""
        if self._stage and self._stage.reference is None:
            try:
                await self._stage.end_call(Ending(CallOutcome.AMBIGUOUS))
            except QueueUnavailable:
                logger.warning("The database is away: a call of job %s stays open", self.claim.id)

    async def _drop(self, ending: Result | Failure | None, outcome: Outcome | None) -> None:
        """An answer for a job that has ended, or that is another worker's, which then writes the file itself."""
        steps = self._desk.report.steps
        if outcome is None or not outcome.is_finalized:
            logger.warning("The lease ran out while the picture was made; the job is another worker's")
            await self._queue.log(steps)
            return
        await self._queue.drop_late_answer(self.claim, steps)
        if isinstance(ending, Result) and outcome.result_file_path is None:
            await asyncio.to_thread(files.delete, ending.path)


def _fallback_settings(slot: OperationSettings, fallback: Fallback) -> OperationSettings:
    """With the slot's own size and frame where it says nothing about them: the booth prints what it always prints."""
    own = registry.parsed(fallback.provider_id, fallback.operation_id, fallback.settings_json)
    return own.model_copy(update={"output": own.output or slot.output, "frame": own.frame or slot.frame})
