"""Tells a slow engine worker from one that is stuck, by what it says and by what it was given.

A worker is stuck when it has work that it could do and none of it moves, or when it says nothing at all. Heartbeats
carry counters of chunks and tokens; so does a worker that hangs in a driver's call keep beating, while its counters
stand still. How long is too long follows from the worker's own history, because a chunk may take minutes on a slow
machine. Audio that something else is still writing is no work that could be done: its writer has limits of its own.
A model that is being loaded, because it was unloaded while nobody needed it or is needed for the first time, moves
no counter for as long as that takes, and has a limit of its own as well.
It only judges; the supervisor acts. Times are seconds of a monotonic clock, given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from scribewire.engine.protocol.messages import (
    AudioEnded,
    Cancel,
    Completed,
    Failed,
    FromWorker,
    Heartbeat,
    Progress,
    SegmentDone,
    Started,
    TextDelta,
    ToWorker,
    Transcribe,
)

_SIGNS_OF_PROGRESS = (Started, Progress, SegmentDone, TextDelta, Completed)


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How long a worker may stand still.

    stall_seconds: at least so long, and at least stall_chunks times as long as one chunk has taken it on average.
    terminate_seconds: from the decision to end a stuck worker to its SIGKILL, the dump of its stacks and SIGTERM
    before that. tick_seconds: how often to look. load_seconds: how long a worker may stand still that says it loads.
    """

    stall_seconds: float = 60.0
    stall_chunks: float = 10.0
    # With the 60 s before it and what noticing takes, a worker that hears nothing is gone within 65 s.
    terminate_seconds: float = 4.5
    tick_seconds: float = 1.0
    load_seconds: float = 1800.0


class WorkerWatch:
    """What one worker was given and said; all methods on one thread."""

    def __init__(self, limits: WatchLimits, now: float) -> None:
        """now: when the worker became ready."""
        self._limits = limits
        self._heard_at = now
        self._moved_at = now
        """When something last moved, or when there was first something that could."""
        self._counters: tuple[int, int] | None = None
        self._is_loading = False
        self._chunks_done = 0
        self._busy_seconds = 0.0
        """Spent with work in hand, up to the last progress: what is spent standing still teaches nothing."""
        self._in_flight: dict[str, bool] = {}
        """Requests by id, each with whether it could be worked on to its end."""

    @property
    def has_work(self) -> bool:
        """Whether anything in the worker's hands could be worked on."""
        return any(self._in_flight.values())

    @property
    def chunk_seconds(self) -> float | None:
        """How long a chunk has taken this worker on average; None before its first."""
        return self._busy_seconds / self._chunks_done if self._chunks_done else None

    @property
    def patience_seconds(self) -> float:
        """How long the worker may say nothing, and with work in hand stand still."""
        return max(self._limits.stall_seconds, self._limits.stall_chunks * (self.chunk_seconds or 0.0))

    def sent(self, message: ToWorker, now: float) -> None:
        """The worker was told this."""
        had_work = self.has_work
        if isinstance(message, Transcribe):
            self._in_flight[message.request_id] = not message.audio.is_growing
        elif isinstance(message, AudioEnded | Cancel) and message.request_id in self._in_flight:
            self._in_flight[message.request_id] = True
        if self.has_work and not had_work:
            self._moved_at = now

    def received(self, message: FromWorker, now: float) -> None:
        """The worker said this."""
        self._heard_at = now
        if isinstance(message, Heartbeat):
            counters = (message.chunks_done, message.tokens_done + message.words_done)
            if message.is_loading != self._is_loading:
                # What a load takes says nothing about chunks, and before it ended nothing could move.
                self._is_loading, self._moved_at = message.is_loading, now
            if counters != self._counters:
                # The first ones are a beginning to count from; a warm-up has chunks too.
                if self._counters is not None:
                    self._chunks_done += message.chunks_done - self._counters[0]
                self._counters = counters
                self._note_progress(now)
        elif isinstance(message, _SIGNS_OF_PROGRESS):
            self._note_progress(now)
        if isinstance(message, Completed | Failed):
            self._in_flight.pop(message.request_id, None)

    def pardon(self, seconds: float) -> None:
        """Do not count so much of the past: the watcher itself stood still, and may not have heard what was said."""
        self._heard_at += seconds
        self._moved_at += seconds

    def deadline(self) -> float:
        """When the worker will be stuck, if nothing happens until then."""
        silent = self._heard_at + self.patience_seconds
        return min(silent, self._moved_at + self._still_patience_seconds) if self.has_work else silent

    def verdict(self, now: float) -> str | None:
        """Why the worker is stuck, in words that go on after "the engine"; None when it is not."""
        if now < self.deadline():
            return None
        silent_seconds, still_seconds = now - self._heard_at, now - self._moved_at
        if silent_seconds >= self.patience_seconds:
            return f"has said nothing for {silent_seconds:.1f} s"
        if self._is_loading:
            return f"has been loading a model for {still_seconds:.1f} s"
        return f"has made no progress for {still_seconds:.1f} s with work in hand"

    @property
    def _still_patience_seconds(self) -> float:
        return max(self.patience_seconds, self._limits.load_seconds if self._is_loading else 0.0)

    def _note_progress(self, now: float) -> None:
        if self.has_work:
            self._busy_seconds += now - self._moved_at
        self._moved_at = now
