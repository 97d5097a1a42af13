"""Runs jobs: claims them from the store, has each recording transcribed, and stores how it ended.

A few jobs are in flight at a time; the others wait in the store. Of several places one is kept for short recordings: a
recording that turns out to be long while others hold the places of long ones returns to the queue. A job whose worker
died is queued again by the store until it reaches the limit of deaths; one that two workers died with runs alone. A
server that stops releases its jobs for the next one. Whatever happens to the engine or the disk, an accepted job is not
lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from scribewire.engine.protocol.errors import (
    AlignerMissing,
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineFault,
    EngineUnavailable,
    ModelError,
    RequestCancelled,
)
from scribewire.engine.protocol.messages import Completed, Progress, Started
from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.access.limits import KeyLimits, Lease
from scribewire.server.engine.client import EngineClient
from scribewire.server.http.errors import ApiError, as_api_error, error_type
from scribewire.server.intake.uploads import Upload
from scribewire.server.jobs.changes import JobChanges
from scribewire.server.jobs.job import LONG_SECONDS, Claim, Job, JobFailure, JobParameters, Submission
from scribewire.server.jobs.refusals import as_refusal
from scribewire.server.jobs.reporting import JobReport
from scribewire.server.jobs.store import (
    JobStore,
    JobStoreError,
    JobStoreUnavailable,
    RecordingLost,
    Submitted,
)
from scribewire.server.observability.logs import log_event
from scribewire.server.observability.loops import BackgroundLoops
from scribewire.server.observability.metrics import JobChange, Metrics
from scribewire.server.transcode.turns import long_places
from scribewire.server.transcription.service import TranscriptionService

CONCURRENT_JOBS = 8
WORKER = "local"
CLAIM_WAIT_SECONDS = 10.0
_CLAIM_WAIT_FOR_SHORT_SECONDS = 0.5
"""The store does not hear of a place that is free for long ones again."""
SWEEP_SECONDS = 20.0
_PAUSE_SECONDS = 0.5
_DISK_PAUSE_SECONDS = 5.0

logger = logging.getLogger("scribewire.jobs")

_Value = TypeVar("_Value")


class _NoLongPlace(Exception):
    """A recording is long, and others hold all places that long ones may have."""


class JobRunner:
    """Submits jobs, and runs each in a task of its own; lives on one event loop."""

    def __init__(
        self,
        engine: EngineClient,
        service: TranscriptionService,
        store: JobStore,
        limits: KeyLimits,
        metrics: Metrics,
        loops: BackgroundLoops,
        *,
        concurrent_jobs: int = CONCURRENT_JOBS,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._engine = engine
        self._service = service
        self._store = store
        self._limits = limits
        self._metrics = metrics
        self._changes = JobChanges(metrics)
        self._concurrent_jobs = concurrent_jobs
        self._sweep_seconds = sweep_seconds
        self._capacity = asyncio.Semaphore(concurrent_jobs)
        self._long: set[str] = set()
        """Ids of the jobs in hand that are long."""
        self._loops = loops
        self._tasks: list[asyncio.Task[None]] = []
        self._working: set[asyncio.Task[None]] = set()
        self._leases: dict[str, Lease] = {}
        """Unfinished jobs' leases in their keys' limits, by job id."""

    # ---- lifecycle -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to work on the store's jobs, which count in their owners' limits; the store is open."""
        self._store.on_unreadable = self._note_unreadable
        for job_id, owner in await self._store.unfinished():
            self._leases[job_id] = self._limits.occupy(owner, is_checked=False)
        self._tasks = [
            self._loops.start("jobs", self._keep_claiming),
            self._loops.start("job-sweeps", self._keep_sweeping),
        ]

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Claim nothing more, let running jobs finish for a while, and release the rest, charged no attempt."""
        await _cancelled(self._tasks)
        if self._working:
            await asyncio.wait(self._working, timeout=drain_seconds)
        await _cancelled(self._working)
        with contextlib.suppress(JobStoreError):
            given_back = await self._store.drain()
            if given_back:
                log_event(logger, logging.INFO, "jobs_given_back", count=given_back)

    # ---- submitting and ending -------------------------------------------------------------------------------

    async def submit(
        self,
        upload: Upload,
        parameters: JobParameters,
        *,
        owner: str,
        idempotency_key: str | None = None,
        request_id: str | None = None,
    ) -> Submitted:
        """Store the recording and queue its job; when this returns, both are on disk and the upload is removed.

        raises: ApiError 409 (the key was used for another submission), 429, 503, 507; the caller keeps the upload then
        """
        try:
            audio = await self._store.put_audio(upload.path, sha256=upload.sha256)
            submitted = await self._store.submit(Submission.of(parameters, owner, audio, idempotency_key))
        except JobStoreError as error:
            raise as_refusal(error) from None
        if submitted.is_new:
            self._changes.note("submitted", submitted.job, request_id=request_id)
            if upload.lease is not None:
                self._leases[submitted.job.job_id] = upload.lease
                upload = dataclasses.replace(upload, lease=None)
        # The recording was moved away; only an empty folder is left, removed without a point of cancellation.
        dataclasses.replace(upload, executor=None).begin_delete()
        return submitted

    async def cancel(self, job_id: str, owner: str, *, request_id: str | None = None) -> Job | None:
        """End an unfinished job now; a finished one stays as it is. None when there is none."""
        job = await self._write_end(job_id, owner, lambda: self._store.cancel(job_id, owner), _is_finished)
        if job is not None and job.status == "cancelled":
            self._changes.note("cancelled", job, request_id=request_id)
        return job

    async def retry(self, job_id: str, owner: str, *, request_id: str | None = None) -> Job | None:
        """Queue a failed job again; None when there is none. raises: ApiError 429, JobStoreError"""
        if job_id in self._leases:
            return await self._store.retry(job_id, owner)
        # Before it is queued, because it may have ended before this call returns.
        self._leases[job_id] = self._limits.occupy(owner, is_checked=True)
        try:
            job = await self._store.retry(job_id, owner)
        except BaseException:
            self._release_lease(job_id)
            raise
        if job is None:
            self._release_lease(job_id)
        else:
            self._changes.note("retried", job, request_id=request_id)
        return job

    async def erase(self, job: Job, *, request_id: str | None = None) -> None:
        """Remove a job with all its data."""
        if await self._store.erase(job.job_id, job.owner):
            self._changes.note("erased", job, request_id=request_id)

    def _note_unreadable(self, job: Job) -> None:
        self._release_lease(job.job_id)
        code = job.failure.code if job.failure is not None else None
        self._changes.note("failed", job, code=code, level=logging.WARNING)

    def _release_lease(self, job_id: str) -> None:
        if (lease := self._leases.pop(job_id, None)) is not None:
            lease.release()

    async def _write_end(
        self,
        job_id: str,
        owner: str,
        write: Callable[[], Awaitable[_Value]],
        is_over: Callable[[_Value], bool],
    ) -> _Value:
        """Write a job's end. Its lease is released before, so that a client that sees the end finds the capacity free.

        is_over: True for a written value that was the end; if it was not, the job takes a lease again.
        """
        lease = self._leases.get(job_id)
        if lease is None or lease.owner != owner:
            return await write()
        self._release_lease(job_id)
        has_ended = False
        try:
            written = await write()
            has_ended = is_over(written)
            return written
        finally:
            if not has_ended and job_id not in self._leases:
                self._leases[job_id] = self._limits.occupy(owner, is_checked=False)

    # ---- working ---------------------------------------------------------------------------------------------

    async def _keep_claiming(self) -> None:
        while True:
            await self._capacity.acquire()
            claims: tuple[Claim, ...] = ()
            try:
                # Jobs wait in the store while the engine has no capacity for them.
                await self._until_engine_takes_more()
                takes_long = self._has_long_place
                wait_seconds = CLAIM_WAIT_SECONDS if takes_long else _CLAIM_WAIT_FOR_SHORT_SECONDS
                claims = await self._store.claim(WORKER, wait_seconds=wait_seconds, takes_long=takes_long)
            except JobStoreError as error:
                log_event(logger, logging.ERROR, "jobs_not_claimed", code=error.code, message=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
            finally:
                if not claims:
                    self._capacity.release()
            for claim in claims:
                work = self._work(claim, after=tuple(self._working))
                task = asyncio.create_task(work, name=claim.job.job_id)
                self._working.add(task)
                task.add_done_callback(self._working.discard)
                if claim.must_run_alone:
                    await asyncio.wait(self._working)

    @property
    def _has_long_place(self) -> bool:
        return len(self._long) < long_places(self._concurrent_jobs)

    async def _until_engine_takes_more(self) -> None:
        while True:
            await self._engine.wait_settled()
            try:
                self._engine.check_admission()
                return
            except EngineError:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _work(self, claim: Claim, *, after: tuple[asyncio.Task[None], ...]) -> None:
        """Hold a claim until it ends, and release the capacity."""
        report = JobReport(self._store, claim)
        sending = asyncio.create_task(self._loops.keep("job-reports", report.keep_sending))
        # A store that cannot be read now says nothing about the claim.
        lost = asyncio.create_task(self._until_written(lambda: self._store.wait_until_lost(claim)))
        try:
            if claim.must_run_alone and after:
                await asyncio.wait(after)
            working = asyncio.create_task(self._end(claim, report))
            try:
                await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _cancelled({working})
            if working.cancelled() or working.exception() is not None or not working.result():
                await self._release_if_over(claim)
        finally:
            self._long.discard(claim.job.job_id)
            self._capacity.release()
            await _cancelled({sending, lost})

    async def _release_if_over(self, claim: Claim) -> None:
        with contextlib.suppress(JobStoreError):
            job = await self._store.get(claim.job.job_id, claim.job.owner)
            if job is None or job.is_finished:
                self._release_lease(claim.job.job_id)

    async def _end(self, claim: Claim, report: JobReport) -> bool:
        """Transcribe and store the outcome; True when that was the job's end."""
        job = claim.job
        try:
            transcript, is_demo = await self._transcribe(claim, report)
        except (EngineCrashed, EngineFault) as error:
            return await self._record_death(claim, error)
        except _NoLongPlace:
            # With its length, so that it is not taken for a short one again.
            await self._until_written(report.send)
            await self._release(claim, "no_place_for_long")
        except RecordingLost as error:
            return await self._fail(claim, JobFailure(error.code, str(error), error_type(500)))
        except AlignerMissing as error:
            # Another worker would not find it either.
            return await self._fail(claim, _failure(as_api_error(error)))
        except (EngineBusy, EngineUnavailable, ModelError, RequestCancelled, JobStoreUnavailable):
            # No failure of the job and no worker's death: the job returns to its place in the queue.
            await self._release(claim, "engine_not_available", pause_seconds=_PAUSE_SECONDS)
        except (EngineError, ApiError) as error:
            refusal = error if isinstance(error, ApiError) else as_api_error(error)
            if refusal.rule.status == 507:
                # The recording is stored; only its samples found no room, and the disk may have room again.
                await self._release(claim, "engine_not_available", pause_seconds=_DISK_PAUSE_SECONDS)
            else:
                return await self._fail(claim, _failure(refusal))
        except Exception:
            logger.exception("job_failed_unexpectedly")
            return await self._fail(
                claim, JobFailure("internal_error", "The server failed; its log has more.", error_type(500))
            )
        else:
            await self._until_written(report.send)
            is_completed = await self._write_end(
                job.job_id,
                job.owner,
                lambda: self._until_written(lambda: self._store.complete(claim, transcript, is_demo=is_demo)),
                bool,
            )
            if is_completed:
                self._metrics.note_transcript("job", transcript, is_demo=is_demo, job_id=job.job_id)
                self._changes.note("completed", job)
            return is_completed
        return False

    async def _transcribe(self, claim: Claim, report: JobReport) -> tuple[Transcript, bool]:
        """The transcript, and True when it is the demo model's."""
        path: Path = await self._store.claimed_audio(claim)
        try:
            return await self._transcribe_file(path, claim, report)
        except (OSError, EngineError, ApiError):
            # A recording that went away meanwhile, alone or with its folder, is another reason.
            await self._store.claimed_audio(claim)
            raise

    async def _transcribe_file(self, path: Path, claim: Claim, report: JobReport) -> tuple[Transcript, bool]:
        async with self._engine.admission() as info:
            events = self._service.transcribe(
                path,
                claim.job.options,
                owner=claim.job.owner,
                priority="background",
                wants_deltas=True,
                runs_alone=claim.must_run_alone,
            )
            has_begun = False
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, Completed):
                        return event.transcript, info.is_demo
                    report.take(event)
                    if isinstance(event, Progress):
                        has_to_go_on = has_begun or claim.must_run_alone
                        self._take_long_place(claim, event.audio_seconds_total, has_to_go_on=has_to_go_on)
                    elif isinstance(event, Started):
                        has_begun = True
                        self._changes.note(
                            "processing", dataclasses.replace(claim.job, started_at=time.time())
                        )
        raise RuntimeError("a transcription ended without a transcript")

    def _take_long_place(self, claim: Claim, audio_seconds: float, *, has_to_go_on: bool) -> None:
        """Count a job among the long ones, if it is; raises _NoLongPlace where there is no place for it."""
        job_id = claim.job.job_id
        if audio_seconds > LONG_SECONDS and job_id not in self._long:
            if not (self._has_long_place or has_to_go_on):
                raise _NoLongPlace
            self._long.add(job_id)

    async def _record_death(self, claim: Claim, error: EngineError) -> bool:
        return await self._fail(claim, _failure(as_api_error(error)), retryable=True)

    async def _release(self, claim: Claim, code: str, *, pause_seconds: float = 0.0) -> None:
        if await self._until_written(lambda: self._store.release(claim)):
            self._changes.note("requeued", claim.job, code=code)
        await asyncio.sleep(pause_seconds)

    async def _fail(self, claim: Claim, failure: JobFailure, *, retryable: bool = False) -> bool:
        """Store a failure; True when that was the job's end, False when it is queued again."""
        status = await self._write_end(
            claim.job.job_id,
            claim.job.owner,
            lambda: self._until_written(lambda: self._store.fail(claim, failure, retryable=retryable)),
            lambda status: status == "failed",
        )
        if status is not None:
            change: JobChange = "failed" if status == "failed" else "requeued"
            self._changes.note(change, claim.job, code=failure.code, level=logging.WARNING)
        return status == "failed"

    async def _until_written(self, write: Callable[[], Awaitable[_Value]]) -> _Value:
        """Write to the store until it succeeds: a disk may have room again, and the work would be lost."""
        while True:
            try:
                return await write()
            except JobStoreError as error:
                log_event(logger, logging.ERROR, "job_not_written", code=error.code, message=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)

    # ---- retention -------------------------------------------------------------------------------------------

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                swept = await self._store.sweep()
            except JobStoreError as error:
                log_event(logger, logging.ERROR, "jobs_not_swept", code=error.code, message=str(error))
                continue
            if swept.results or swept.recordings or swept.requeued:
                log_event(logger, logging.INFO, "jobs_swept", **dataclasses.asdict(swept))


def _is_finished(job: Job | None) -> bool:
    return job is not None and job.is_finished


def _failure(refusal: ApiError) -> JobFailure:
    return JobFailure(refusal.code, refusal.message, error_type(refusal.rule.status), refusal.param)


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
