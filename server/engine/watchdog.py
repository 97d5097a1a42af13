"""Distinguishes a slow engine worker from one that is stuck, by its messages and by the work it holds.

A worker is stuck when it has work that it could do and none of it makes progress, or when it sends nothing at all.
Heartbeats carry counters of chunks and tokens; a worker that hangs in a driver's call keeps sending heartbeats, but its
counters do not change. The time limit follows from the worker's own history, because a chunk may take minutes on a slow
machine. Audio that is still being written does not count as work that could be done: its writer has its own limits.
A model that is being loaded, at its first use or after it was unloaded while idle, changes no counter during that
time, and has its own limit too.
It only decides; the supervisor acts. Times are seconds of a monotonic clock, given by the caller.
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
    """Limits of a worker's time without progress.

    stall_seconds: the minimum; the limit is also at least stall_chunks times the average time of one chunk.
    terminate_seconds: from the decision to end a stuck worker to its SIGKILL, the dump of its stacks and SIGTERM
    before that. tick_seconds: interval of the checks. load_seconds: limit while the worker reports a load.
    """

    stall_seconds: float = 60.0
    stall_chunks: float = 10.0
    # With the 60 s before it and the checks' interval, a worker that does not respond is ended within 65 s.
    terminate_seconds: float = 4.5
    tick_seconds: float = 1.0
    load_seconds: float = 1800.0


class WorkerWatch:
    """The messages to and from one worker; all methods on one thread."""

    def __init__(self, limits: WatchLimits, now: float) -> None:
        """now: time at which the worker became ready."""
        self._limits = limits
        self._heard_at = now
        self._moved_at = now
        """Time of the last progress, or of the first work that could make progress."""
        self._counters: tuple[int, int] | None = None
        self._is_loading = False
        self._chunks_done = 0
        self._busy_seconds = 0.0
        """Time with work in flight, up to the last progress: time without progress says nothing about chunks."""
        self._in_flight: dict[str, bool] = {}
        """Requests by id, True for one whose audio is complete, so that it could be finished."""

    @property
    def has_work(self) -> bool:
        """True when anything in flight could be finished."""
        return any(self._in_flight.values())

    @property
    def chunk_seconds(self) -> float | None:
        """Average time of this worker for a chunk; None before its first."""
        return self._busy_seconds / self._chunks_done if self._chunks_done else None

    @property
    def patience_seconds(self) -> float:
        """Longest time without a message, and with work in flight without progress."""
        return max(self._limits.stall_seconds, self._limits.stall_chunks * (self.chunk_seconds or 0.0))

    def sent(self, message: ToWorker, now: float) -> None:
        """Note a message that was sent to the worker."""
        had_work = self.has_work
        if isinstance(message, Transcribe):
            self._in_flight[message.request_id] = not message.audio.is_growing
        elif isinstance(message, AudioEnded | Cancel) and message.request_id in self._in_flight:
            self._in_flight[message.request_id] = True
        if self.has_work and not had_work:
            self._moved_at = now

    def received(self, message: FromWorker, now: float) -> None:
        """Note a message that the worker sent."""
        self._heard_at = now
        if isinstance(message, Heartbeat):
            counters = (message.chunks_done, message.tokens_done + message.words_done)
            if message.is_loading != self._is_loading:
                # The time of a load says nothing about chunks, and no progress was possible before its end.
                self._is_loading, self._moved_at = message.is_loading, now
            if counters != self._counters:
                # The first counters are the base to count from; a warm-up has chunks too.
                if self._counters is not None:
                    self._chunks_done += message.chunks_done - self._counters[0]
                self._counters = counters
                self._note_progress(now)
        elif isinstance(message, _SIGNS_OF_PROGRESS):
            self._note_progress(now)
        if isinstance(message, Completed | Failed):
            self._in_flight.pop(message.request_id, None)

    def pardon(self, seconds: float) -> None:
        """Leave out `seconds` of the past, in which the front itself was stopped and may not have read messages."""
        self._heard_at += seconds
        self._moved_at += seconds

    def deadline(self) -> float:
        """Time at which the worker counts as stuck, if nothing happens until then."""
        silent = self._heard_at + self.patience_seconds
        return min(silent, self._moved_at + self._still_patience_seconds) if self.has_work else silent

    def verdict(self, now: float) -> str | None:
        """Reason why the worker is stuck, to follow the words "the engine"; None when it is not."""
        if now < self.deadline():
            return None
        silent_seconds, still_seconds = now - self._heard_at, now - self._moved_at
        if silent_seconds >= self.patience_seconds:
            return f"has said nothing for {silent_seconds:.1f} s"
        if self._is_loading:
            return f"has been loading a model for {still_seconds:.1f} s"
        return f"has made no progress for {still_seconds:.1f} s with work in flight"

    @property
    def _still_patience_seconds(self) -> float:
        return max(self.patience_seconds, self._limits.load_seconds if self._is_loading else 0.0)

    def _note_progress(self, now: float) -> None:
        if self.has_work:
            self._busy_seconds += now - self._moved_at
        self._moved_at = now
