"""The engine's figures from its heartbeats: its current state, and counters that outlive its workers."""

from __future__ import annotations

from dataclasses import dataclass, fields

from scribewire.engine.protocol.messages import Heartbeat


@dataclass(slots=True)
class EngineTotals:
    """Work done by all workers since the server started; the fields are those of a heartbeat, less `_done`."""

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
        for field in fields(EngineTotals):
            name = f"{field.name}_done"
            increment = getattr(beat, name) - getattr(self.now, name, 0)
            setattr(self.totals, field.name, getattr(self.totals, field.name) + increment)
        self.now = beat

    def forget_worker(self) -> None:
        """Forget a worker that ended; the next one counts from zero."""
        self.now = None
