"""The interface of job stores: guarantees, rules and errors that hold for every implementation.

An accepted job is on disk, with its recording, before the caller gets an answer, and reaches exactly one of completed,
failed and cancelled. A worker holds a claim on its job; a claim that was revoked (cancelled, lease expired, server
restarted) can neither report nor end the job any more. No owner sees the job of another.

Nothing here depends on tables, files or connections, so that a broker on another machine can be a store as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.jobs.delivery import Busy, Delivery
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
from scribewire.server.settings.fields import Settings

CURSOR_PATTERN = "^[0-9a-f]{1,15}$"
"""Format of cursors. Any text of it is accepted: it names a position in a list, with or without a job there."""

MAX_PAGE = 100
LEASE_OVER = "lease_over"
"""The code of a worker's death that was inferred from an expired lease."""

DAY_SECONDS = 86_400.0


class JobStoreError(Exception):
    """Base of a store's refusals and failures; the message is one line."""

    code = "job_store_error"


class JobStoreFull(JobStoreError):
    """The store has as many unfinished jobs as it accepts."""

    code = "too_many_jobs"


class JobStoreDiskFull(JobStoreError):
    """No room on the disk; nothing of the failed operation is left behind."""

    code = "disk_full"


class JobStoreUnavailable(JobStoreError):
    """The store cannot be reached, read or written now, or is closed."""

    code = "job_store_unavailable"


class RecordingLost(JobStoreError):
    """The recording of a job is not where it was kept."""

    code = "recording_lost"


class DataFolderGone(JobStoreUnavailable):
    """The folder with the database was removed, replaced or unmounted while the server ran."""

    code = "data_folder_gone"

    def __init__(self) -> None:
        super().__init__(
            "The folder with the jobs was removed, replaced or unmounted while the server ran: put it back, or restart "
            "the server."
        )


class DataFolderInUse(JobStoreError):
    """Another server uses this data folder."""

    code = "data_folder_in_use"


class IdempotencyConflict(JobStoreError):
    """The idempotency key belongs to a submission with another recording or other options."""

    code = "idempotency_conflict"


class CursorInvalid(JobStoreError):
    """Not a cursor of this store."""

    code = "cursor_invalid"


class JobNotRetryable(JobStoreError):
    """Only a failed job whose recording is still there can be retried."""

    code = "job_not_retryable"


def not_heard_of_again() -> JobFailure:
    """Failure of a job whose last allowed worker let its lease expire."""
    return JobFailure(
        "engine_crashed", "The workers that took this job up were not heard of again.", "server_error"
    )


@dataclass(frozen=True, slots=True)
class StoreRules:
    """Limits and retention of a store.

    lease_seconds: a claim without a heartbeat for this time is revoked, and counts as a worker's death.
    max_worker_deaths: a job fails at this number of deaths.
    keep_audio: keep the recordings of completed jobs as long as their results.
    keep_failed_audio_seconds: time in which a failed job can be retried.
    """

    max_unfinished: int = 10_000
    lease_seconds: float = 30.0
    max_worker_deaths: int = 3
    keep_results_seconds: float = 30 * DAY_SECONDS
    keep_failed_audio_seconds: float = 7 * DAY_SECONDS
    keep_audio: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> StoreRules:
        """The rules that the settings choose."""
        return cls(
            max_unfinished=settings.max_jobs,
            keep_results_seconds=settings.keep_results_days * DAY_SECONDS,
            keep_failed_audio_seconds=settings.keep_failed_audio_days * DAY_SECONDS,
            keep_audio=settings.keep_audio,
        )


@dataclass(frozen=True, slots=True)
class Submitted:
    """A stored job; `is_new` is False when its idempotency key was used before."""

    job: Job
    is_new: bool


class JobStore(Protocol):
    """Keeps jobs. Every method may raise JobStoreUnavailable, and those that write JobStoreDiskFull.

    What is kept of a job may be damaged: the job then fails with `job_unreadable`, whoever asked for what, and no other
    job is affected. on_unreadable: called with each such job, on the event loop.
    """

    on_unreadable: Callable[[Job], None]

    async def open(self) -> Swept:
        """Open the store, on the running event loop.

        Jobs that an earlier start of the server was working on are queued again, and charged no attempt. Recordings
        that no job was accepted for are removed, and accepted ones of unknown jobs set aside, for the time of failed
        jobs' recordings. raises: DataFolderInUse
        """

    async def close(self) -> None:
        """Release everything; closing again is no error."""

    # ---- submitting ------------------------------------------------------------------------------------------

    async def put_audio(self, source: Path, *, sha256: str) -> StoredAudio:
        """Move a recording in: the file at `source` no longer exists afterwards, but is kept when this raises."""

    async def discard_audio(self, audio: StoredAudio) -> None:
        """Remove a recording that no job was submitted for."""

    async def submit(self, submission: Submission) -> Submitted:
        """Store a new job, or return the one with the same idempotency key, owner, recording and options.

        The recording then belongs to the job; if not, also when this raises, it is removed.
        raises: JobStoreFull, IdempotencyConflict
        """

    # ---- working ---------------------------------------------------------------------------------------------

    async def claim(
        self, worker: str, *, wait_seconds: float = 0.0, limit: int = 1, takes_long: bool = True
    ) -> tuple[Claim, ...]:
        """Claim up to `limit` jobs; waits for the first, and returns none when the wait is over.

        Owners with queued jobs are served in rotation, each with its oldest job first; owners that were never served
        come first. A claimed job stays `queued` until its worker reports that it has begun.
        takes_long: False to pass over recordings that were found to be longer than LONG_SECONDS.
        """

    async def claimed_audio(self, claim: Claim) -> Path:
        """The recording as a local file, which exists as long as the claim is held. raises: RecordingLost"""

    async def heartbeat(
        self,
        claim: Claim,
        *,
        audio_seconds_done: float | None = None,
        audio_seconds_total: float | None = None,
        new_text: str = "",
        has_begun: bool = False,
    ) -> bool:
        """Renew the lease and report progress; False when the claim is lost.

        has_begun: the job is decoded from now on: it is `processing`, if it was not.
        new_text: continues the text reported before.
        """

    async def wait_until_lost(self, claim: Claim) -> None:
        """Return when the claim was revoked or has ended."""

    async def complete(self, claim: Claim, transcript: Transcript, *, is_demo: bool) -> bool:
        """End the job with its transcript; False, and nothing changed, when the claim is lost."""

    async def fail(self, claim: Claim, failure: JobFailure, *, retryable: bool) -> JobStatus | None:
        """End the job with a failure, or record a worker's death, which is `retryable`.

        A death is added to the job, which returns to its place in the queue unless it has reached the limit of deaths.
        returns: the job's status now, `queued` or `failed`; None, and nothing changed, when the claim is lost.
        """

    async def release(self, claim: Claim) -> bool:
        """Return the job to its place in the queue and charge no attempt; False when the claim is lost."""

    async def drain(self) -> int:
        """Allow no more claims and release all jobs that are claimed, charged no attempt; returns their count."""

    # ---- reading ---------------------------------------------------------------------------------------------

    async def get(self, job_id: str, owner: str) -> Job | None:
        """The job with all its data; None when this owner has none with this id."""

    async def list(
        self, owner: str, *, status: JobStatus | None = None, cursor: str | None = None, limit: int = 20
    ) -> JobPage:
        """An owner's jobs, newest first, at most MAX_PAGE.

        Following the cursors shows every job once that existed the whole time. raises: CursorInvalid
        """

    def events(self, job_id: str, owner: str, *, after_id: int = 0) -> AsyncIterator[JobEvent]:
        """The job's events after `after_id`, then live, until it is finished or erased; none for an unknown job."""

    async def audio(self, job_id: str, owner: str) -> Path | None:
        """The recording as a local file, for playback; None when it is not kept any more."""

    async def stats(self) -> StoreStats:
        """Counts over all owners."""

    async def check(self) -> None:
        """Try what a submission needs, undo it, and return when it could be stored now."""

    async def unfinished(self) -> tuple[tuple[str, str], ...]:
        """Ids and owners of all jobs that are queued or processing, of all owners."""

    # ---- webhooks --------------------------------------------------------------------------------------------

    async def take_callbacks(
        self, *, wait_seconds: float = 0.0, limit: int = 1, busy: Callable[[], Busy] = Busy
    ) -> tuple[Delivery, ...]:
        """Take the deliveries that are due now; waits for the first, and returns none when the wait is over.

        Owners take turns, each with its oldest due. busy: gives those to pass over, asked again after every change.
        A taken delivery is due again after LEASE_SECONDS unless `note_callback` records its outcome: delivery happens
        at least once. It is due as soon as the job's end is on disk, in the same transaction.
        """

    async def note_callback(
        self, delivery: Delivery, *, error: str | None, retry_seconds: float | None = None
    ) -> None:
        """Record an attempt: delivered (no error), to be repeated after retry_seconds, or never again (None)."""

    # ---- ending ----------------------------------------------------------------------------------------------

    async def cancel(self, job_id: str, owner: str) -> Job | None:
        """End an unfinished job, claimed or not; a finished one stays as it is. None when there is none."""

    async def erase(self, job_id: str, owner: str) -> bool:
        """Remove a job with its recording, its text and its log, finished or not; False when there is none."""

    async def retry(self, job_id: str, owner: str) -> Job | None:
        """Queue a failed job again, without its deaths; None when there is none. raises: JobNotRetryable, JobStoreFull

        It keeps its place in lists, and its place by age in its owner's queue.
        """

    async def sweep(self) -> Swept:
        """Remove what is past its retention, and revoke claims whose lease expired; to be called twice a minute.

        Ages are counted by a clock that never jumps: setting the wall clock while the server runs changes nothing, and
        what a start makes older by more than a day waits until the server has run for another.
        """
