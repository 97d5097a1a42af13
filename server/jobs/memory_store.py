"""Jobs in memory: bounded in number and in time, gone with the process.

Results are kept for a time that a clock jump does not change, and the oldest finished ones give way when the store
is full. Unfinished jobs never give way; when they alone fill the store, further ones are refused.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from engine.protocol.transcript import Transcript
from server.jobs.job import Job, JobFailure
from server.jobs.store import JobStoreFull


class MemoryJobStore:
    """A JobStore for one process."""

    def __init__(
        self,
        *,
        max_jobs: int,
        retention_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_jobs = max_jobs
        self._retention_seconds = retention_seconds
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._jobs: dict[str, Job] = {}
        self._finished_at: dict[str, float] = {}
        """When each finished job ended, on the monotonic clock, oldest first."""

    async def submit(self, owner: str) -> Job:
        """See JobStore."""
        self._expire()
        if len(self._jobs) >= self._max_jobs:
            if not self._finished_at:
                raise JobStoreFull(f"{self._max_jobs} jobs are unfinished already")
            self._forget(next(iter(self._finished_at)))
        job = Job(job_id="job_" + secrets.token_hex(16), owner=owner, created_at=self._wall_clock())
        self._jobs[job.job_id] = job
        return job

    async def get(self, job_id: str, owner: str) -> Job | None:
        """See JobStore."""
        self._expire()
        job = self._jobs.get(job_id)
        return job if job is not None and job.owner == owner else None

    async def start(self, job_id: str) -> None:
        """See JobStore."""
        job = self._jobs.get(job_id)
        if job is not None and job.status == "queued":
            self._jobs[job_id] = replace(job, status="processing", started_at=self._wall_clock())

    async def report(self, job_id: str, audio_seconds_done: float, audio_seconds_total: float) -> None:
        """See JobStore."""
        job = self._jobs.get(job_id)
        if job is not None and not job.is_finished:
            self._jobs[job_id] = replace(
                job, audio_seconds_done=audio_seconds_done, audio_seconds_total=audio_seconds_total
            )

    async def complete(self, job_id: str, transcript: Transcript, *, is_demo: bool) -> None:
        """See JobStore."""
        self._finish(
            replace(
                self._jobs[job_id],
                status="completed",
                transcript=transcript,
                is_demo=is_demo,
                audio_seconds_done=transcript.duration_seconds,
                audio_seconds_total=transcript.duration_seconds,
            )
        )

    async def fail(self, job_id: str, failure: JobFailure) -> None:
        """See JobStore."""
        self._finish(replace(self._jobs[job_id], status="failed", failure=failure))

    def _finish(self, job: Job) -> None:
        if self._jobs[job.job_id].is_finished:
            raise RuntimeError("a job ends once")
        self._jobs[job.job_id] = replace(job, finished_at=self._wall_clock())
        self._finished_at[job.job_id] = self._monotonic()

    def _expire(self) -> None:
        oldest_kept = self._monotonic() - self._retention_seconds
        for job_id in [job_id for job_id, ended in self._finished_at.items() if ended < oldest_kept]:
            self._forget(job_id)

    def _forget(self, job_id: str) -> None:
        del self._jobs[job_id]
        del self._finished_at[job_id]
