"""Works on jobs: has each recording decoded and transcribed and writes its one end into the store.

A few jobs are with the engine at a time; the others wait here, where they cost nothing. The recording is deleted as
soon as the job ends, however it ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from engine.protocol.config import TranscribeOptions
from engine.protocol.errors import EngineBusy, EngineError, EngineUnavailable
from engine.protocol.messages import Progress
from server.engine_client import EngineClient
from server.errors import ApiError, as_api_error, error_type
from server.jobs.job import Job, JobFailure
from server.jobs.store import JobStore, JobStoreFull
from server.logs import log_event
from server.recognition import Recognizer
from server.transcript_log import log_transcript
from server.uploads import Upload

CONCURRENT_JOBS = 8
_BUSY_PAUSE_SECONDS = 0.5

logger = logging.getLogger("scribewire.jobs")


class JobRunner:
    """Submits jobs and runs each in a task of its own."""

    def __init__(
        self,
        engine: EngineClient,
        recognizer: Recognizer,
        store: JobStore,
        *,
        concurrent_jobs: int = CONCURRENT_JOBS,
    ) -> None:
        self._engine = engine
        self._recognizer = recognizer
        self._store = store
        self._slots = asyncio.Semaphore(concurrent_jobs)
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, upload: Upload, options: TranscribeOptions, *, owner: str) -> Job:
        """Take over the recording and queue its job; raises ApiError 429 and leaves the recording to the caller."""
        try:
            job = await self._store.submit(owner)
        except JobStoreFull as error:
            raise ApiError(
                429, "too_many_jobs", f"{error}; try again later.", retry_after_seconds=10
            ) from None
        self._spawn(self._run(job, upload, options), name=job.job_id)
        return job

    async def stop(self) -> None:
        """Cancel what runs: jobs in memory end with the process, and nobody could ask for their results."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job, upload: Upload, options: TranscribeOptions) -> None:
        with upload:
            try:
                async with self._slots:
                    await self._transcribe(job, upload, options)
            except (EngineError, ApiError) as error:
                refusal = error if isinstance(error, ApiError) else as_api_error(error)
                await self._fail(job, refusal.code, refusal.message, refusal.rule.status, refusal.param)
            except asyncio.CancelledError:
                await self._fail(job, "server_stopping", "The server stopped before the job was done.", 503)
                raise
            except Exception:
                logger.exception("job_failed_unexpectedly")
                await self._fail(job, "internal_error", "The server failed; its log has more.", 500)

    async def _transcribe(self, job: Job, upload: Upload, options: TranscribeOptions) -> None:
        def on_started() -> None:
            self._spawn(self._store.start(job.job_id), name="job-start")

        def on_progress(progress: Progress) -> None:
            self._spawn(
                self._store.report(job.job_id, progress.audio_seconds_done, progress.audio_seconds_total),
                name="job-progress",
            )

        while True:
            try:
                transcript = await self._recognizer.transcribe(
                    upload.path,
                    options,
                    owner=job.owner,
                    priority="background",
                    on_started=on_started,
                    on_progress=on_progress,
                )
                break
            except (EngineBusy, EngineUnavailable):
                # Admitted already: an engine that is full or starting is a reason to wait, not to fail.
                if self._engine.state not in ("starting", "restarting", "ready"):
                    raise
                await asyncio.sleep(_BUSY_PAUSE_SECONDS)
        info = self._engine.info
        is_demo = info is not None and info.is_demo
        await self._store.complete(job.job_id, transcript, is_demo=is_demo)
        log_transcript(transcript, is_demo=is_demo, job_id=job.job_id)

    async def _fail(self, job: Job, code: str, message: str, status: int, param: str | None = None) -> None:
        await self._store.fail(job.job_id, JobFailure(code, message, error_type(status), param))
        log_event(logger, logging.WARNING, "job_failed", job_id=job.job_id, code=code)
