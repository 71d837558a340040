"""The worker: claims jobs for its free permits, extends their leases, and shuts down in order.

Named side tasks; one that fails ends the worker with an error, so that its supervisor restarts it:

    listen      wakes `claim` when a job is ready, and stops the run of a job that has ended
    claim       claims a job for each free permit; polls at least once a second, notified or not
    heartbeat   extends the leases, and stops the runs of jobs that are no longer ours
    sweep       ends jobs past their deadline, and the calls that killed workers left open
    purge       runs the purges that staff requested, in a thread of its own

Shutdown: the first signal lets running jobs finish within the grace period, then releases the rest; a second one
releases them at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Collection
from threading import Thread
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from core.database import UNAVAILABLE_ERRORS, DatabaseUnavailable, in_thread
from jobs import lifecycle
from jobs.queue.notify import POLL_SECONDS, Listener, parse_job_id
from jobs.queue.records import Claim
from jobs.queue.verbs import DONE_CHANNEL, READY_CHANNEL, Queue
from jobs.retention import requests
from jobs.worker.concurrency import JobSemaphore
from jobs.worker.job_run import JobRun, JobRunner

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
HEARTBEATS_PER_LEASE = 4  # a lease survives three lost heartbeats


class Worker:
    """Runs jobs until `stop`. `once`: runs the jobs that wait now, then returns; raises `DatabaseUnavailable`.

    `heartbeat_queue` is for the heartbeat alone, so that no lease runs out because `queue` has no free connection.
    """

    def __init__(
        self,
        queue: Queue,
        heartbeat_queue: Queue,
        providers: Collection[str],
        concurrency: int,
        grace_seconds: float,
        once: bool = False,
    ) -> None:
        self._queue = queue
        self._heartbeat_queue = heartbeat_queue
        self._providers = providers
        self._concurrency = concurrency
        self._grace_seconds = grace_seconds
        self._once = once
        self._id = uuid4()
        self._heartbeat_seconds = settings.LEASE_SECONDS / HEARTBEATS_PER_LEASE
        self._wake = asyncio.Event()
        self._semaphore = JobSemaphore(concurrency, self._wake.set)
        self._runner = JobRunner(queue)
        self._running: dict[UUID, tuple[JobRun, asyncio.Task[None]]] = {}
        self._draining = asyncio.Event()
        self._releasing = asyncio.Event()
        self._listener = Listener({READY_CHANNEL: self._on_ready, DONE_CHANNEL: self._on_done}, self._wake.set)

    def stop(self) -> None:
        """Handles a signal. The first drains, the second releases."""
        (self._releasing if self._draining.is_set() else self._draining).set()
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        logger.info("Worker started: %s at once, providers: %s", self._concurrency, ", ".join(self._providers))
        side_tasks = [
            asyncio.create_task(coroutine, name=name)
            for name, coroutine in (
                ("listen", self._listener.run()),
                ("heartbeat", self._send_heartbeats()),
                ("sweep", self._sweep()),
                ("purge", self._run_purges()),
            )
        ]
        try:
            await _wait_for(asyncio.create_task(self._claim(), name="claim"), side_tasks)
            await _wait_for(asyncio.create_task(self._drain(), name="drain"), side_tasks)
        finally:
            await self._shut_down(side_tasks)

    async def _claim(self) -> None:
        """Until `stop`: claims for the free permits, then waits for a notification or POLL_SECONDS."""
        while not self._draining.is_set():
            self._wake.clear()
            claimed = await self._claim_and_start()
            if self._once and not claimed and not self._running:
                return
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _claim_and_start(self) -> int:
        claims: list[Claim] = []
        permits = self._semaphore.acquire_all()
        try:
            if permits:
                claims = await self._claim_jobs(len(permits))
        finally:
            self._semaphore.release_unused(permits[len(claims) :])
        for claim, permit in zip(claims, permits, strict=False):
            run = self._runner.begin(claim, permit)
            self._running[claim.id] = run, asyncio.create_task(self._run_job(run), name=f"job {claim.id}")
        return len(claims)

    async def _claim_jobs(self, limit: int) -> list[Claim]:
        try:
            if any(run.lease.seconds_left() < self._heartbeat_seconds for run, _ in self._running.values()):
                await self._beat()  # after an outage: claiming must not take our own jobs for those of a dead worker
            return await self._queue.claim(self._providers, limit)
        except DatabaseUnavailable as error:
            if self._once:
                raise
            logger.warning("No job can be claimed: the database does not answer (%s)", error)
            return []

    async def _run_job(self, run: JobRun) -> None:
        try:
            await run.run()
        except DatabaseUnavailable:
            logger.error("The database is unavailable; job %s is left to its deadline or another worker", run.claim.id)
            self._runner.keep_ending(run.report)
        finally:
            self._running.pop(run.claim.id, None)
            run.permit.release()
            if not self._running:
                self._runner.on_idle()
            self._wake.set()

    async def _send_heartbeats(self) -> None:
        while True:
            try:
                await self._beat()
                await self._runner.record_endings()
            except DatabaseUnavailable:
                logger.warning("No heartbeat: the database does not answer")
            await asyncio.sleep(self._heartbeat_seconds)

    async def _beat(self) -> None:
        await self._heartbeat_queue.record_process(
            id=self._id,
            kind="worker",
            name=f"{socket.gethostname()} {os.getpid()}",
            capacity=self._concurrency,
            busy=len(self._running),
            is_listening=self._listener.is_connected,
        )
        runs = [run for run, _ in self._running.values()]
        ours = await self._heartbeat_queue.extend([run.claim for run in runs]) if runs else set()
        for run in runs:
            if run.claim.id in ours:
                run.lease.extend()
            else:
                run.stop()

    async def _sweep(self) -> None:
        while True:
            try:
                for job_id in await self._queue.list_overdue():
                    await lifecycle.expire(self._queue, job_id)
                await self._queue.close_lost_calls()
            except DatabaseUnavailable:
                pass  # logged by the other tasks; the next sweep finds the same jobs
            await asyncio.sleep(SWEEP_SECONDS)

    async def _run_purges(self) -> None:
        """One at a time. Neither jobs nor the shutdown wait for a purge: it may be interrupted anywhere."""
        thread = Thread()
        while True:
            try:
                if not thread.is_alive() and (run := await in_thread(requests.start_next)):
                    thread = Thread(target=requests.run_in_thread, args=[run], name="purge", daemon=True)
                    thread.start()
            except (DatabaseError, InterfaceError) as error:
                if not isinstance(error.__cause__, UNAVAILABLE_ERRORS):
                    raise
                # logged by the other tasks; the request waits
            await asyncio.sleep(SWEEP_SECONDS)

    async def _drain(self) -> None:
        """Waits for the running jobs until the grace period ends or a second signal comes."""
        tasks = [task for _, task in self._running.values()]
        if not tasks:
            return
        logger.info("Draining: %s running jobs may take %s s", len(tasks), self._grace_seconds)
        done = asyncio.ensure_future(asyncio.wait(tasks))
        second_signal = asyncio.ensure_future(self._releasing.wait())
        await asyncio.wait([done, second_signal], timeout=self._grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (done, second_signal):
            waiting.cancel()

    async def _shut_down(self, side_tasks: Collection[asyncio.Task[None]]) -> None:
        unfinished = list(self._running.values())
        await _cancel([task for _, task in unfinished])
        try:
            if unfinished:
                await self._queue.release([run.claim for run, _ in unfinished])
                logger.info("Released %s jobs", len(unfinished))
            await self._queue.remove_process(self._id)
        except DatabaseUnavailable:
            logger.warning("The database is unavailable: unfinished jobs go on when their lease runs out")
        await _cancel(side_tasks)
        await self._runner.aclose()
        logger.info("Worker stopped")

    def _on_ready(self, payload: str) -> None:
        self._wake.set()

    def _on_done(self, payload: str) -> None:
        """The job has ended, elsewhere or here (then `stop` does nothing), and its provider has capacity again."""
        self._wake.set()
        if (job_id := parse_job_id(payload)) and (running := self._running.get(job_id)):
            running[0].stop()


async def _wait_for(main: asyncio.Task[None], side_tasks: Collection[asyncio.Task[None]]) -> None:
    """Waits for `main`. A side task that fails ends the worker; `main` is cancelled first, or it would claim again the
    jobs being released."""
    pending: set[asyncio.Task[None]] = {main, *side_tasks}
    try:
        while main in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        await _cancel([main])


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
