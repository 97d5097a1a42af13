"""The interface of job stores. Asynchronous, because stores on disk and on other machines will implement it."""

from __future__ import annotations

from typing import Protocol

from engine.protocol.transcript import Transcript
from server.jobs.job import Job, JobFailure


class JobStoreFull(Exception):
    """As many unfinished jobs as the store takes."""


class JobStore(Protocol):
    """Keeps jobs; every job reaches exactly one of completed and failed."""

    async def submit(self, owner: str) -> Job:
        """A new queued job with a random id; raises JobStoreFull."""

    async def get(self, job_id: str, owner: str) -> Job | None:
        """The job, None when there is none of this owner under this id."""

    async def start(self, job_id: str) -> None:
        """Queued becomes processing."""

    async def report(self, job_id: str, audio_seconds_done: float, audio_seconds_total: float) -> None:
        """How far a processing job is."""

    async def complete(self, job_id: str, transcript: Transcript, *, is_demo: bool) -> None:
        """The job's one end, when it went well."""

    async def fail(self, job_id: str, failure: JobFailure) -> None:
        """The job's one end, when it did not."""
