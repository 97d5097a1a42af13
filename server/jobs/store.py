"""The interface of job stores, its rules and its refusals: what a store promises, whatever keeps it.

A job that was accepted is on disk, with its recording, before the caller hears of it, and reaches exactly one of
completed, failed and cancelled. Whoever works on a job holds a claim; a claim that was taken away (cancelled, lease
over, server restarted) can neither report nor end the job any more. Nobody sees the job of another owner.

Nothing here knows of tables, files or connections, so that a broker on another machine can be a store as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.jobs.callback import Delivery
from scribewire.server.jobs.job import (
    Claim,
    Job,
    JobEvent,
    JobFailure,
    JobPage,
    JobStatus,
    StoredAudio,
    StoreStats,
    Submission,
    Swept,
)

CURSOR_PATTERN = "^[0-9a-f]{1,15}$"
"""What cursors look like. Any that does is taken: it names a place in a list, whether or not a job stands there."""

MAX_PAGE = 100
LEASE_OVER = "lease_over"
"""The code of a death that was seen only by its silence."""

DAY_SECONDS = 86_400.0


class JobStoreError(Exception):
    """Base of what a store refuses or cannot do; the message is one line."""

    code = "job_store_error"


class JobStoreFull(JobStoreError):
    """As many unfinished jobs as the store takes."""

    code = "too_many_jobs"


class JobStoreDiskFull(JobStoreError):
    """No room on the disk; nothing of what was asked for is left behind."""

    code = "disk_full"


class JobStoreUnavailable(JobStoreError):
    """The store cannot be reached, read or written now, or is closed."""

    code = "job_store_unavailable"


class DataFolderInUse(JobStoreError):
    """Another server works on this data folder."""

    code = "data_folder_in_use"


class IdempotencyConflict(JobStoreError):
    """The idempotency key belongs to a submission of another recording, or with other options."""

    code = "idempotency_conflict"


class CursorInvalid(JobStoreError):
    """Not a cursor of this store."""

    code = "cursor_invalid"


class JobNotRetryable(JobStoreError):
    """Only a failed job whose recording is still there can be retried."""

    code = "job_not_retryable"


def not_heard_of_again() -> JobFailure:
    """Why a job fails when the last worker of its record fell silent."""
    return JobFailure(
        "engine_crashed", "The workers that took this job up were not heard of again.", "server_error"
    )


@dataclass(frozen=True, slots=True)
class StoreRules:
    """How much a store takes, and for how long it keeps what.

    lease_seconds: a claim that is not heard of for so long is taken away, and counts as a worker's death.
    max_worker_deaths: with so many on its record a job fails.
    keep_audio: keep the recordings of completed jobs as long as their results.
    keep_failed_audio_seconds: so long a failed job can be retried.
    """

    max_unfinished: int = 10_000
    lease_seconds: float = 30.0
    max_worker_deaths: int = 3
    keep_results_seconds: float = 30 * DAY_SECONDS
    keep_failed_audio_seconds: float = 7 * DAY_SECONDS
    keep_audio: bool = False


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that is kept; `is_new` is false when its idempotency key had been seen before."""

    job: Job
    is_new: bool


class JobStore(Protocol):
    """Keeps jobs. Every method may raise JobStoreUnavailable, and those that write JobStoreDiskFull."""

    async def open(self) -> Swept:
        """Begin to work, on the running event loop.

        Jobs that another start of the server was working on are queued again, and charged no attempt; recordings that
        no job knows are removed. raises: DataFolderInUse
        """

    async def close(self) -> None:
        """Give everything back that is held; again is no error."""

    # ---- submitting ------------------------------------------------------------------------------------------

    async def put_audio(self, source: Path, *, sha256: str) -> StoredAudio:
        """Take a recording over: the file at `source` is gone afterwards, and still there when this raises."""

    async def discard_audio(self, audio: StoredAudio) -> None:
        """Remove a recording that no job was submitted for."""

    async def submit(self, submission: Submission) -> Submitted:
        """Keep a new job, or return the one that has its idempotency key, owner, recording and options.

        The recording belongs to the job, or is removed: also when this raises.
        raises: JobStoreFull, IdempotencyConflict
        """

    # ---- working ---------------------------------------------------------------------------------------------

    async def claim(self, worker: str, *, wait_seconds: float = 0.0, limit: int = 1) -> tuple[Claim, ...]:
        """Take up to `limit` jobs; waits for the first, and returns nothing when the wait is over.

        Owners who have jobs queued take turns, and of each the oldest job comes first; who was never served comes
        before those who were.
        """

    async def claimed_audio(self, claim: Claim) -> Path:
        """The recording as a local file, there as long as the claim is held."""

    async def heartbeat(
        self,
        claim: Claim,
        *,
        audio_seconds_done: float | None = None,
        audio_seconds_total: float | None = None,
        new_text: str = "",
    ) -> bool:
        """Renew the lease, and report what is new; False when the claim is lost.

        new_text: what follows the text reported before.
        """

    async def wait_until_lost(self, claim: Claim) -> None:
        """Return when the claim was taken away, or has ended."""

    async def complete(self, claim: Claim, transcript: Transcript, *, is_demo: bool) -> bool:
        """The job's end, when it went well; False, and nothing changed, when the claim is lost."""

    async def fail(self, claim: Claim, failure: JobFailure, *, retryable: bool) -> JobStatus | None:
        """The job's end when it did not, or a worker's death, which is `retryable`.

        A death goes on the job's record, and the job back to its place in the queue unless the record is full.
        returns: what the job is now, `queued` or `failed`; None, and nothing changed, when the claim is lost.
        """

    async def release(self, claim: Claim) -> bool:
        """Give the job back to its place in the queue and charge no attempt; False when the claim is lost."""

    async def drain(self) -> int:
        """Hand out nothing more and give back all that is claimed, charged no attempt; returns how many."""

    # ---- asking ----------------------------------------------------------------------------------------------

    async def get(self, job_id: str, owner: str) -> Job | None:
        """The job with all that is known of it; None when this owner has none of this id."""

    async def list(
        self, owner: str, *, status: JobStatus | None = None, cursor: str | None = None, limit: int = 20
    ) -> JobPage:
        """An owner's jobs, newest first, at most MAX_PAGE.

        A walk by cursors shows every job once that was there from its beginning to its end. raises: CursorInvalid
        """

    def events(self, job_id: str, owner: str, *, after_id: int = 0) -> AsyncIterator[JobEvent]:
        """The job's log behind `after_id`, then what comes, until the job is over or gone; nothing if unknown."""

    async def audio(self, job_id: str, owner: str) -> Path | None:
        """The recording as a local file, for playback; None when there is none any more."""

    async def stats(self) -> StoreStats:
        """How much there is, of all owners together."""

    async def check(self) -> None:
        """Return when the store can be written to now."""

    async def unfinished(self) -> tuple[tuple[str, str], ...]:
        """Ids and owners of all jobs that are queued or processing, of all owners."""

    # ---- telling ---------------------------------------------------------------------------------------------

    async def take_callbacks(self, *, wait_seconds: float = 0.0, limit: int = 1) -> tuple[Delivery, ...]:
        """Ends of jobs that somebody is to be told of now; waits for the first, and returns nothing when that is over.

        What was taken is due again after a while (LEASE_SECONDS) unless `note_callback` says how it went: telling
        happens at least once. An end is due as soon as it is on disk, and with it.
        """

    async def note_callback(
        self, delivery: Delivery, *, error: str | None, retry_seconds: float | None = None
    ) -> None:
        """How an attempt went: it arrived (no error), is made again after so long, or never again (None)."""

    # ---- ending ----------------------------------------------------------------------------------------------

    async def cancel(self, job_id: str, owner: str) -> Job | None:
        """End an unfinished job, whoever works on it; a finished one stays as it is. None when there is none."""

    async def erase(self, job_id: str, owner: str) -> bool:
        """Remove a job with its recording, its text and its log, finished or not; False when there is none."""

    async def retry(self, job_id: str, owner: str) -> Job | None:
        """Queue a failed job again, with a clean record; None when there is none. raises: JobNotRetryable, JobStoreFull

        It keeps its place in lists, and among its owner's jobs is taken as early as its age says.
        """

    async def sweep(self) -> Swept:
        """Remove what was kept long enough, and take claims away whose lease is over; to be called twice a minute.

        Ages are counted by a clock that stands still or runs, and never jumps: a wall clock that is set forward or back
        while the server runs changes nothing.
        """
