"""Jobs as frozen values, which a store replaces when their state changes.

Times are Unix seconds of the wall clock and for display only: nothing is decided by them. Progress is seconds of audio.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Literal

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.engine.protocol.transcript import Transcript

JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]
FINISHED: tuple[JobStatus, ...] = ("completed", "failed", "cancelled")

MAX_FILENAME_CHARACTERS = 255

EventKind = Literal["queued", "progress", "partial", "done", "failed", "cancelled"]
LONG_SECONDS = 60.0
"""A longer recording is a long one, for the places that jobs run in."""

LAST_EVENTS: tuple[EventKind, ...] = ("done", "failed", "cancelled")
"""One of these is the last event of a finished job; only a retried job has events after it."""


def base_name(path: str) -> str | None:
    """A file's name without its folders, on one line and of bounded length; None where nothing is left."""
    name = "".join(" " if one.isspace() else one for one in re.split(r"[/\\]", path)[-1])
    visible = " ".join("".join(filter(str.isprintable, name)).split())[:MAX_FILENAME_CHARACTERS].strip()
    return None if visible in ("", ".", "..") else visible


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Cause of a job's failure, in the fields of OpenAI's error object."""

    code: str
    message: str
    type: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerDeath:
    """One worker that died, or let its lease run out, while it held this job."""

    attempt: int
    worker: str
    at: float
    code: str


@dataclass(frozen=True, slots=True)
class StoredAudio:
    """A recording kept by a store.

    sha256: hex digest of its bytes, as uploaded.
    """

    audio_id: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParameters:
    """What is asked of a job besides its recording; a store keeps further fields beside the options, as one JSON text.

    result_format: default format of the result.
    callback_url: receiver of the webhook at the job's end, for which the store keeps the deliveries that are due.
    filename: base name of the uploaded file, for display; the same recording under another name is the same submission.
    """

    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    result_format: str = "json"
    callback_url: str | None = None
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class Submission(JobParameters):
    """One recording to be kept as a job.

    owner: the id of the key that submits.
    idempotency_key: the client's name for this submission, unique for its owner.
    """

    owner: str
    audio: StoredAudio
    idempotency_key: str | None = None

    @classmethod
    def of(
        cls, parameters: JobParameters, owner: str, audio: StoredAudio, idempotency_key: str | None = None
    ) -> Submission:
        """A recording's submission with these parameters."""
        values = {one.name: getattr(parameters, one.name) for one in fields(JobParameters)}
        return cls(owner, audio, idempotency_key, **values)


CallbackStatus = Literal["due", "delivered", "given_up"]


@dataclass(frozen=True, slots=True)
class CallbackState:
    """Progress of a job's webhook.

    last_error: why the last attempt failed, None when it succeeded or none was made.
    """

    status: CallbackStatus = "due"
    attempts: int = 0
    last_error: str | None = None
    last_attempt_at: float | None = None


@dataclass(frozen=True, slots=True)
class Job(JobParameters):
    """One recording submitted for asynchronous transcription.

    status: `queued` until its decoding has begun, also while a worker that claimed it has it transcoded.
    attempts: workers that started it; one that was drained, or belonged to a server that was stopped, is not counted.
    deaths: the workers that died while they held it, since it was submitted or last retried.
    queue_position: 1 and the number of jobs that will be begun before it; None unless it is queued.
    partial_text, transcript: left out in lists.
    has_audio: True while the recording is kept.
    callback: progress of its webhook, None before the job has ended, and in lists.
    """

    job_id: str
    owner: str
    created_at: float
    status: JobStatus = "queued"
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
    def fraction(self) -> float:
        """Share of the recording that is done, from 0 to 1."""
        total = self.audio_seconds_total
        done = self.audio_seconds_done / total if total else float(self.is_finished)
        return round(min(1.0, done), 4)

    @property
    def speed(self) -> float | None:
        """Seconds of audio transcribed in one second; None unless it is completed."""
        if self.status != "completed" or None in (
            self.started_at,
            self.finished_at,
            self.audio_seconds_total,
        ):
            return None
        seconds = (self.finished_at or 0.0) - (self.started_at or 0.0)
        return round((self.audio_seconds_total or 0.0) / seconds, 3) if seconds > 0 else None

    @property
    def is_finished(self) -> bool:
        """True when it will not change any more, unless it is retried."""
        return self.status in FINISHED


@dataclass(frozen=True, slots=True)
class Claim:
    """One worker's lease of a job, until it is released, ended, or revoked.

    claim_number: grows with every claim of the job; reports under an earlier claim are ignored.
    """

    job: Job
    worker: str
    claim_number: int

    @property
    def must_run_alone(self) -> bool:
        """True when two workers died with it, so that a third must hold nothing else."""
        return len(self.job.deaths) >= 2


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One entry of a job's log; ids count from 1, without gaps, per job.

    text: of `partial`: continues the text of the `partial` events before it, since the last `queued`.
    queue_position: of a `queued` that is the newest event of its job, the position when it is read.
    failure: of `failed`. attempt: workers that had started the job by then.
    """

    event_id: int
    kind: EventKind
    at: float
    attempt: int = 0
    audio_seconds_done: float = 0.0
    audio_seconds_total: float | None = None
    text: str = ""
    failure: JobFailure | None = None
    queue_position: int | None = field(default=None, compare=False)

    @property
    def is_last(self) -> bool:
        """True when it ended the job."""
        return self.kind in LAST_EVENTS


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of an owner's jobs, newest first; `cursor` names the next page, None when there is none."""

    jobs: tuple[Job, ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts of jobs by status, and of the recordings kept for them.

    callbacks_due: webhooks that are still to be delivered.
    """

    jobs: dict[JobStatus, int]
    audio_count: int
    audio_bytes: int
    callbacks_due: int = 0


@dataclass(frozen=True, slots=True)
class Swept:
    """Counts of what one sweep removed, or returned to the queue.

    leftovers: files of recordings that were never accepted, removed by a start. orphans: accepted recordings of
    unknown jobs, set aside. waiting: what is kept past its time, until a leap of the wall clock is believed.
    """

    results: int = 0
    recordings: int = 0
    requeued: int = 0
    leftovers: int = 0
    orphans: int = 0
    waiting: int = 0
