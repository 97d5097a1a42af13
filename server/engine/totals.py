"""The engine's own figures, as its heartbeats tell them: how it stands, and counters that outlive its workers."""

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
    """What the workers of one engine have said."""

    def __init__(self) -> None:
        self.now: Heartbeat | None = None
        """The living worker's newest heartbeat."""
        self.totals = EngineTotals()

    def receive(self, beat: Heartbeat) -> None:
        """Add what is new since the worker's heartbeat before."""
        last = self.now
        totals = self.totals
        totals.chunks += beat.chunks_done - (last.chunks_done if last else 0)
        totals.tokens += beat.tokens_done - (last.tokens_done if last else 0)
        totals.words += beat.words_done - (last.words_done if last else 0)
        totals.steps += beat.steps_done - (last.steps_done if last else 0)
        totals.row_slots += beat.row_slots_done - (last.row_slots_done if last else 0)
        self.now = beat

    def forget_worker(self) -> None:
        """The worker is gone; the next one counts from nothing."""
        self.now = None
