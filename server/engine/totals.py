"""The engine's figures from its heartbeats: its current state, and counters that outlive its workers."""

from __future__ import annotations

from dataclasses import dataclass

from scribewire.engine.protocol.messages import Heartbeat


@dataclass(slots=True)
class EngineTotals:
    """Work done by all workers since the server started."""

    chunks: int = 0
    tokens: int = 0
    words: int = 0
    steps: int = 0
    row_slots: int = 0


class EngineStatistics:
    """Figures from the heartbeats of one engine's workers."""

    def __init__(self) -> None:
        self.now: Heartbeat | None = None
        """The running worker's newest heartbeat."""
        self.totals = EngineTotals()

    def receive(self, beat: Heartbeat) -> None:
        """Add the increments since the worker's last heartbeat."""
        last = self.now
        totals = self.totals
        totals.chunks += beat.chunks_done - (last.chunks_done if last else 0)
        totals.tokens += beat.tokens_done - (last.tokens_done if last else 0)
        totals.words += beat.words_done - (last.words_done if last else 0)
        totals.steps += beat.steps_done - (last.steps_done if last else 0)
        totals.row_slots += beat.row_slots_done - (last.row_slots_done if last else 0)
        self.now = beat

    def forget_worker(self) -> None:
        """Forget a worker that ended; the next one counts from zero."""
        self.now = None
