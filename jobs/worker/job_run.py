"""One claimed job: from the stored photo, through its providers, to the stored result and the finalized row."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings

from core import crypto
from core.database import DatabaseUnavailable
from core.logs import correlation_id
from jobs import lifecycle
from jobs.models import Job
from jobs.queue.records import Claim, EncryptedAccount, Failure, JobOutcome, JobReport, Result
from jobs.queue.verbs import ClaimLost, Queue
from jobs.storage import files
from jobs.storage.thumbnails import Thumbnails
from jobs.worker.concurrency import JobPermit
from jobs.worker.provider_run import CallOutcome, ProviderPlan, ProviderRun, RunContext
from providers import registry
from providers.attempts import Deadline, DeadlineReached
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
from providers.limits import CallEnding

logger = logging.getLogger(__name__)

# Larger results are read from their file: in the row they would be written to the write-ahead log twice.
INLINE_BYTES = 64 * 1024
# How long after the deadline a slot with `finish_late` waits: OpenAI's longest responses take two minutes.
OVERTIME_SECONDS = 120.0
# The clocks of the database and of this process may differ by this much at the deadline.
CLOCK_SKEW_SECONDS: Final = 1.0
# Design, rule 15: a photo may be what kills its worker.
MAX_LOST_CLAIMS = 2
# Storing a result is tried again for this long while it fails, but not in the last seconds before the deadline.
STORE_SECONDS = 6.0
STORE_RETRY_SECONDS = 0.5
STORE_RESERVE_SECONDS = 1.5
# How long the worker's shutdown waits for a picture that is being stored.
SHUTDOWN_SECONDS = 5.0


@dataclass(slots=True)
class Lease:
    """Until when the job is certainly ours, on this process's monotonic clock; the worker's heartbeat extends it."""

    until: float

    @classmethod
    def begin(cls) -> Lease:
        return cls(time.monotonic() + settings.LEASE_SECONDS)

    def extend(self) -> None:
        self.until = time.monotonic() + settings.LEASE_SECONDS

    def seconds_left(self) -> float:
        return self.until - time.monotonic()


@dataclass(slots=True)
class _Instance:
    provider: Provider[Any]
    account: EncryptedAccount
    jobs: int = 0  # that use it


class Providers:
    """The provider adapters of this process, one for each provider: jobs share its connections. When staff have edited
    an account, jobs under way keep the old adapter; with the last of them it is closed, and its key dropped."""

    def __init__(self) -> None:
        self._instances: dict[str, _Instance] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def use(self, provider_id: str, account: EncryptedAccount) -> Iterator[Provider[Any]]:
        """Raises `PermanentError` where the account cannot be used."""
        instance = self._instances.get(provider_id)
        if instance is None or _get_access(instance.account) != _get_access(account):
            if replaced := self._instances.pop(provider_id, None):
                self._close_unused(replaced)
            instance = self._instances[provider_id] = _Instance(_make_provider(provider_id, account), account)
        instance.jobs += 1
        try:
            yield instance.provider
        finally:
            instance.jobs -= 1
            if self._instances.get(provider_id) is not instance:
                self._close_unused(instance)

    async def aclose(self) -> None:
        for instance in self._instances.values():
            await instance.provider.aclose()
        await asyncio.gather(*self._closing)

    def _close_unused(self, instance: _Instance) -> None:
        """In a task: closing may wait for what the provider still removes, and no job waits for that."""
        if instance.jobs == 0:
            task = asyncio.create_task(instance.provider.aclose(), name="close provider")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _get_access(account: EncryptedAccount) -> tuple[str, str, str]:
    """What a provider's adapter is made from."""
    return account.encrypted_key, account.base_url, account.encrypted_proxy_url


def _make_provider(provider_id: str, account: EncryptedAccount) -> Provider[Any]:
    provider = registry.get_classes()[provider_id]
    try:
        key, proxy_url = crypto.decrypt(account.encrypted_key), crypto.decrypt(account.encrypted_proxy_url)
    except crypto.UnreadableSecretError:
        raise PermanentError(Reason.AUTH, "The stored key cannot be read: FERNET_KEYS has changed") from None
    if provider.needs_key and not key:
        raise PermanentError(Reason.AUTH, "The provider's account has no key")
    return provider(Account(key, account.base_url or provider.default_base_url, proxy_url or None))


class JobRunner:
    """Starts jobs with the providers of this process."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._providers = Providers()
        self._thumbnails = Thumbnails()
        self._unrecorded: dict[int, CallEnding] = {}

    def begin(self, claim: Claim, permit: JobPermit) -> JobRun:
        self._thumbnails.pause()
        return JobRun(self._queue, permit, self._providers, claim, self._thumbnails)

    def on_idle(self) -> None:
        """No job is running any more."""
        self._thumbnails.resume()

    def keep_ending(self, report: JobReport) -> None:
        """Keeps how a run's call ended, which the database did not take."""
        if report.call_id is not None and report.call_ending is not None:
            self._unrecorded[report.call_id] = report.call_ending

    async def record_endings(self) -> None:
        """Records the endings that were kept. Raises `DatabaseUnavailable`: they are kept for the next time."""
        for call_id, ending in list(self._unrecorded.items()):
            await self._queue.end_call(call_id, ending)
            del self._unrecorded[call_id]

    async def aclose(self) -> None:
        await asyncio.to_thread(self._thumbnails.close)
        await self._providers.aclose()


class JobRun:
    """One job while this process holds its claim."""

    def __init__(
        self, queue: Queue, permit: JobPermit, providers: Providers, claim: Claim, thumbnails: Thumbnails
    ) -> None:
        self.claim = claim
        self.lease = Lease.begin()
        self.permit = permit
        self._queue = queue
        self._providers = providers
        self._thumbnails = thumbnails
        overtime = OVERTIME_SECONDS if claim.settings_json.get("finish_late") is True else 0
        self._deadline = Deadline.after(claim.seconds_left, overtime)
        self._context = RunContext(queue, permit, self._deadline, JobReport(call_id=claim.open_call))
        self._provider_run: ProviderRun | None = None
        self._in_use = ExitStack()
        self._task: asyncio.Task[Picture] | None = None
        self._is_stopped = False

    @property
    def report(self) -> JobReport:
        return self._context.report

    def stop(self) -> None:
        """The job has ended elsewhere: cancels the provider call. With `finish_late` and past the deadline the call
        continues, without the worker's permit. Does nothing when the job has ended here."""
        if self._deadline.overtime and self._deadline.seconds_left() < CLOCK_SKEW_SECONDS:
            self.permit.release()
            return
        self._is_stopped = True
        if self._task:
            self._task.cancel()

    async def run(self) -> None:
        """Runs the job to its end. Cancelling this stops the work and leaves the job to another worker, unless there is
        a picture already: that is stored first."""
        correlation_id.set(str(self.claim.id))
        with self._in_use:
            await self._run()

    async def _run(self) -> None:
        if self.claim.lost_claims >= MAX_LOST_CLAIMS:
            await self._finish(Failure(Reason.INTERNAL, f"{MAX_LOST_CLAIMS} workers were lost with this photo"))
            return
        self._task = asyncio.create_task(self._make_picture(), name=f"make {self.claim.id}")
        try:
            made: Picture | Failure = await self._task
        except asyncio.CancelledError:
            if not self._is_stopped:
                await self._end_cut_call()
                raise
            await self._tear_down()
            return
        except DeadlineReached as late:
            await self._handle_deadline(late)
            return
        except ClaimLost:
            await self._expire()
            return
        except DatabaseUnavailable:
            raise
        except ProviderError as error:
            made = Failure(error.reason, error.message)
        except Exception as error:  # noqa: BLE001 - our fault must end the job, not the worker
            made = _make_internal_failure(error)
        await self._finish(made)

    async def _make_picture(self) -> Picture:
        """Calls the slot's provider, and if that fails its fallback (design, rule 5)."""
        claim = self.claim
        own = registry.parse_settings(claim.provider_id, claim.operation_id, claim.settings_json)
        if not claim.used_fallback:
            try:
                return await self._call(claim.provider_id, claim.operation_id, own, own.daily_budget)
            except ProviderError as error:
                if own.fallback is None or self._deadline.seconds_left() <= 0:
                    raise
                logger.info("No picture by %s (%s): falling back", claim.provider_id, error.reason)
            await self._context.retry(self._queue.fall_back, claim)
        assert own.fallback
        fallback = own.fallback
        settings = _merge_fallback_settings(own, fallback)
        return await self._call(fallback.provider_id, fallback.operation_id, settings, own.daily_budget, fallback)

    async def _call(
        self,
        provider_id: str,
        operation_id: str,
        settings: OperationSettings,
        daily_budget: float | None,
        fallback: Fallback | None = None,
    ) -> Picture:
        """Returns one provider's picture. Raises `ProviderError`, `DeadlineReached`, `ClaimLost`."""
        account = await self._context.retry(self._queue.get_account, provider_id) if fallback else self.claim.account
        if not account.is_enabled:
            raise PermanentError(Reason.OVERLOADED, "The provider is switched off in its account")
        plan = ProviderPlan(
            self._in_use.enter_context(self._providers.use(provider_id, account)),
            operation_id,
            settings.fill_placeholders(self.claim.metadata),
            is_fallback=fallback is not None,
            is_limited=account.is_limited,
            daily_budget=daily_budget,
        )
        is_resumed = self.claim.used_fallback == plan.is_fallback
        self._provider_run = ProviderRun(self._context, self.claim, plan, is_resumed=is_resumed)
        return await self._provider_run.run()

    async def _finish(self, made: Picture | Failure) -> None:
        """Ends the job. The picture is paid for: the worker's shutdown waits for this, for SHUTDOWN_SECONDS."""
        finishing = asyncio.create_task(self._store_and_finalize(made), name=f"finish {self.claim.id}")
        try:
            await asyncio.shield(finishing)
        except asyncio.CancelledError:
            await asyncio.wait([finishing], timeout=SHUTDOWN_SECONDS)
            if not finishing.done() or finishing.exception():
                logger.error("The end of job %s could not be recorded before the shutdown", self.claim.id)
                finishing.cancel()
            raise

    async def _store_and_finalize(self, made: Picture | Failure) -> None:
        """Whatever fails here is our fault, and must end the job once instead of paying for another picture."""
        try:
            ending = made if isinstance(made, Failure) else await self._store(made)
            await self._finalize(ending)
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001
            failure = _make_internal_failure(error)
            self.report.steps.clear()  # they may be what cannot be written
            if self.report.call_ending:
                self.report.call_ending = CallEnding(self.report.call_ending.outcome)
            await self._finalize(failure)

    async def _store(self, picture: Picture) -> Result:
        """Stores the picture. Where that fails, the row itself carries it to the booth; guests do not get it."""
        path = files.result_path(self.claim.id, self.claim.token, picture.mime_type)
        is_stored = await self._try_to_store(path, picture)
        size, digest = len(picture.data), files.checksum(picture.data)
        inline = None if is_stored and size > INLINE_BYTES else base64.b64encode(picture.data).decode()
        return Result(path if is_stored else None, picture.mime_type, size, digest, inline)

    async def _try_to_store(self, path: str, picture: Picture) -> bool:
        left = min(STORE_SECONDS, self._deadline.seconds_left_with_overtime() - STORE_RESERVE_SECONDS)
        last_try = time.monotonic() + left
        while True:
            try:
                await asyncio.to_thread(files.save, path, picture.data)
            except Exception as error:  # a file system's or an object store's
                if time.monotonic() >= last_try:
                    logger.exception("The result cannot be stored; only the booth gets it")
                    return False
                logger.warning("The result cannot be stored (%s); trying again", type(error).__name__)
                await asyncio.sleep(STORE_RETRY_SECONDS)
            else:
                return True

    async def _finalize(self, ending: Result | Failure) -> None:
        ended = await self._context.retry(self._queue.finalize, self.claim, ending, self.report)
        self.report.call_id = None  # ended in the same transaction
        if ended is not None:
            await lifecycle.clean_up(ended)
        else:
            await self._expire()
            outcome = await self._queue.get_outcome(self.claim.id)
            # If the connection broke after the first try's commit, that try finalized the job: the result is not late.
            if outcome is not None and outcome.was_ended_by(self.claim):
                await lifecycle.clean_up(outcome)
            elif not await self._add_late_result(ending):
                await self._drop(ending, outcome)
                return
        if isinstance(ending, Result) and ending.path and self.claim.source == Job.Source.BOOTH:
            self._thumbnails.schedule(ending.path)

    async def _add_late_result(self, ending: Result | Failure) -> bool:
        """With `finish_late`, puts the picture under the public link of the job that timed out. False: not added."""
        if not self._deadline.overtime or isinstance(ending, Failure) or ending.path is None:
            return False
        return await self._context.retry(self._queue.add_late_result, self.claim, ending, self.report.steps)

    async def _expire(self) -> None:
        """Ends the job as a timeout if it is due, and the report's open call in any case."""
        if ended := await self._queue.expire(self.claim.id, self.report):
            self.report.steps.clear()  # `expire` wrote them
            await lifecycle.clean_up(ended)
        self.report.call_id = None

    async def _handle_deadline(self, late: DeadlineReached) -> None:
        self.report.call_ending = CallEnding(CallOutcome.LATE, usage=late.usage)
        await self._expire()
        if self._provider_run:
            await self._provider_run.cancel_at_provider()

    async def _tear_down(self) -> None:
        """Cancels the job at the provider, unless another worker polls the same reference."""
        outcome = await self._queue.get_outcome(self.claim.id)
        run = self._provider_run
        if run is None:
            return
        if outcome is None or outcome.is_finalized or outcome.provider_job_reference != run.reference:
            is_late = outcome is not None and outcome.failure_reason == "timeout"
            await run.end_call(CallEnding(CallOutcome.LATE if is_late else CallOutcome.CANCELLED))
            await run.cancel_at_provider()

    async def _end_cut_call(self) -> None:
        """Another worker will poll the reference; a call without one is cut off here, and may have been billed."""
        run = self._provider_run
        if run and run.reference is None and self.report.call_id is not None:
            logger.error("The shutdown cuts off a call of job %s, which may have been billed", self.claim.id)
            try:
                await run.on_cut_off()
            except DatabaseUnavailable:
                logger.warning("The database is unavailable: a call of job %s stays open", self.claim.id)

    async def _drop(self, ending: Result | Failure, outcome: JobOutcome | None) -> None:
        """Drops the result of a job that has ended, or that another worker holds."""
        steps = self.report.steps
        if outcome is None or not outcome.is_finalized:
            logger.warning("The lease ran out while the picture was made; the job is another worker's")
            await self._queue.write_log(steps)
        else:
            await self._queue.drop_late_answer(self.claim, steps)
        if isinstance(ending, Result):
            await asyncio.to_thread(files.delete, ending.path)


def _make_internal_failure(error: Exception) -> Failure:
    """Logs the error. Call it while the error is handled."""
    logger.exception("Job failed by a fault of this service")
    return Failure(Reason.INTERNAL, f"{type(error).__name__} in this service; see the worker's log")


def _merge_fallback_settings(slot: OperationSettings, fallback: Fallback) -> OperationSettings:
    """The fallback's settings, with the slot's output and frame where it has none, so that the booth gets what it
    usually prints."""
    own = registry.parse_settings(fallback.provider_id, fallback.operation_id, fallback.settings_json)
    return own.model_copy(update={"output": own.output or slot.output, "frame": own.frame or slot.frame})
