"""One job as a store in memory holds it: the value that is shown, who holds it, and its log. Rings no bells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from server.jobs.job import Claim, EventKind, Job, JobEvent, JobFailure, StoredAudio
from server.jobs.memory_callbacks import MemoryCallback
from server.jobs.turns import OwnersQueue


@dataclass(slots=True)
class JobRecord:
    """Changed by its store only; `at` is always the wall clock's time."""

    seq: int
    job: Job
    audio: StoredAudio
    fingerprint: str
    idempotency_key: str | None
    events: list[JobEvent] = field(default_factory=list)
    worker: str | None = None
    claim_number: int = 0
    lease_until: float = 0.0
    ended_on_clock: float = 0.0
    callback: MemoryCallback | None = None

    def log(self, kind: EventKind, at: float, *, text: str = "", failure: JobFailure | None = None) -> None:
        """Add an event that tells how things stand now."""
        self.events.append(
            JobEvent(
                event_id=len(self.events) + 1,
                kind=kind,
                at=at,
                attempt=self.job.attempts,
                audio_seconds_done=self.job.audio_seconds_done,
                audio_seconds_total=self.job.audio_seconds_total,
                text=text,
                failure=failure,
            )
        )

    def begin(self, worker: str, at: float, lease_until: float) -> Claim:
        """Hand the job to a worker."""
        self.job = replace(self.job, status="processing", started_at=at, attempts=self.job.attempts + 1)
        self.worker = worker
        self.claim_number += 1
        self.lease_until = lease_until
        self.log("progress", at)
        return Claim(self.job, worker, self.claim_number)

    def is_held_by(self, claim: Claim) -> bool:
        """Whether this claim is the one that counts."""
        mine = (self.worker, self.claim_number)
        return self.job.status == "processing" and mine == (claim.worker, claim.claim_number)

    def report(
        self, at: float, seconds_done: float | None, seconds_total: float | None, new_text: str
    ) -> None:
        """Note what a worker said."""
        if seconds_done is not None:
            self.job = replace(self.job, audio_seconds_done=seconds_done)
        if seconds_total is not None:
            self.job = replace(self.job, audio_seconds_total=seconds_total)
        if seconds_done is not None or seconds_total is not None:
            self.log("progress", at)
        if new_text:
            self.job = replace(self.job, partial_text=self.job.partial_text + new_text)
            self.log("partial", at, text=new_text)

    def back_to_queue(self, at: float, *, uncharged: int, **changes: Any) -> None:
        """Take the job from its worker; `uncharged` attempts are not counted."""
        self.worker = None
        self.job = replace(
            self.job,
            status="queued",
            started_at=None,
            audio_seconds_done=0.0,
            partial_text="",
            attempts=self.job.attempts - uncharged,
            **changes,
        )
        self.log("queued", at)

    def bare(self) -> Job:
        """The job as lists show it."""
        return replace(self.job, queue_position=None, partial_text="", transcript=None)


def queued_by_owner(records: Iterable[JobRecord]) -> dict[str, list[JobRecord]]:
    """Queued jobs of each owner, in the order given."""
    found: dict[str, list[JobRecord]] = {}
    for record in records:
        if record.job.status == "queued":
            found.setdefault(record.job.owner, []).append(record)
    return found


def as_queues(queued: dict[str, list[JobRecord]]) -> list[OwnersQueue]:
    """The same as whose turn it is goes by; owners with none are left out."""
    return [OwnersQueue(owner, len(records), records[0].seq) for owner, records in queued.items() if records]
