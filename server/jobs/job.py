"""What a job is: a frozen value; a store replaces it when its state changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.protocol.transcript import Transcript

JobStatus = Literal["queued", "processing", "completed", "failed"]


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a job failed, in the fields of OpenAI's error object."""

    code: str
    message: str
    type: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One recording submitted for later; times are Unix seconds, progress is seconds of audio."""

    job_id: str
    owner: str
    created_at: float
    status: JobStatus = "queued"
    started_at: float | None = None
    finished_at: float | None = None
    audio_seconds_done: float = 0.0
    audio_seconds_total: float | None = None
    transcript: Transcript | None = None
    is_demo: bool = False
    failure: JobFailure | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing about it will change any more."""
        return self.status in ("completed", "failed")
