"""What a job is: frozen values; a store replaces them when their state changes.

Times are Unix seconds of the wall clock and are there to be shown: nothing is decided by them. Progress is seconds of
audio.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.transcript import Transcript

JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]
FINISHED: tuple[JobStatus, ...] = ("completed", "failed", "cancelled")

EventKind = Literal["queued", "progress", "partial", "done", "failed", "cancelled"]
LAST_EVENTS: tuple[EventKind, ...] = ("done", "failed", "cancelled")
"""One of these is the last event of a job that is over; only a job that is retried goes on after it."""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a job failed, in the fields of OpenAI's error object."""

    code: str
    message: str
    type: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerDeath:
    """One worker that died, or was never heard of again, with this job in its hands."""

    attempt: int
    worker: str
    at: float
    code: str


@dataclass(frozen=True, slots=True)
class StoredAudio:
    """A recording in the hands of a store.

    sha256: hex digest of its bytes, as uploaded.
    """

    audio_id: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Submission:
    """What is asked of a store: one recording and what to do with it.

    owner: the id of the key that asks. result_format: how the result is given when nobody says otherwise.
    idempotency_key: the caller's name for this submission, unique for its owner.
    callback_url: whom to tell when the job is over; the store keeps it, and says when that is due.
    """

    owner: str
    audio: StoredAudio
    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    result_format: str = "json"
    idempotency_key: str | None = None
    callback_url: str | None = None


CallbackStatus = Literal["due", "delivered", "given_up"]


@dataclass(frozen=True, slots=True)
class CallbackState:
    """How it goes to tell of a job's end.

    last_error: why the last attempt did not arrive, None when it did or none was made.
    """

    status: CallbackStatus = "due"
    attempts: int = 0
    last_error: str | None = None
    last_attempt_at: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One recording submitted for later.

    attempts: workers that took it up; one that was drained, or belonged to a server that was stopped, is not counted.
    deaths: the workers that died of it or with it, since it was submitted or last retried.
    queue_position: 1 for the job that is taken next; None unless it is queued, and in lists.
    partial_text, transcript: left out in lists.
    has_audio: whether the recording is still there.
    callback: how it goes to tell of the end, None before there is one to tell, and in lists.
    """

    job_id: str
    owner: str
    created_at: float
    status: JobStatus = "queued"
    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    result_format: str = "json"
    callback_url: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    audio_seconds_done: float = 0.0
    audio_seconds_total: float | None = None
    attempts: int = 0
    deaths: tuple[WorkerDeath, ...] = ()
    queue_position: int | None = None
    has_audio: bool = True
    partial_text: str = ""
    transcript: Transcript | None = None
    is_demo: bool = False
    failure: JobFailure | None = None
    callback: CallbackState | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing about it will change any more, unless it is retried."""
        return self.status in FINISHED


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in the hands of one worker, until it is given back, ended, or taken away.

    claim_number: grows with every claim of the job; what an earlier claim has to say is not heard any more.
    """

    job: Job
    worker: str
    claim_number: int

    @property
    def must_run_alone(self) -> bool:
        """Whether two workers died with it, so that a third must have nothing else at hand."""
        return len(self.job.deaths) >= 2


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One entry of a job's log; ids count from 1, without gaps, per job.

    text: of `partial`: text that follows that of the `partial` events before it, since the last `queued`.
    failure: of `failed`. attempt: how many workers had taken the job up by then.
    """

    event_id: int
    kind: EventKind
    at: float
    attempt: int = 0
    audio_seconds_done: float = 0.0
    audio_seconds_total: float | None = None
    text: str = ""
    failure: JobFailure | None = None

    @property
    def is_last(self) -> bool:
        """Whether the job was over with it."""
        return self.kind in LAST_EVENTS


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of an owner's jobs, newest first; `cursor` asks for those that follow, None when there are none."""

    jobs: tuple[Job, ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How many jobs of each status there are, and the recordings kept for them.

    callbacks_due: ends of jobs that somebody is still to be told of.
    """

    jobs: dict[JobStatus, int]
    audio_count: int
    audio_bytes: int
    callbacks_due: int = 0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did away with, or gave back to the queue."""

    results: int = 0
    recordings: int = 0
    requeued: int = 0
    orphans: int = 0
