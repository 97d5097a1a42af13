"""What is to be told of the ends of jobs in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from server.jobs.callback import LEASE_SECONDS, Delivery
from server.jobs.job import CallbackState, CallbackStatus


@dataclass(slots=True)
class MemoryCallback:
    """One end of one job, and how telling of it goes."""

    delivery: Delivery
    due_on_clock: float
    state: CallbackState

    def take(self, now: float) -> Delivery:
        """Hand it out; unless it is heard of, it is due again when its lease is over."""
        self.due_on_clock = now + LEASE_SECONDS
        self.state = replace(self.state, attempts=self.state.attempts + 1)
        self.delivery = replace(self.delivery, attempt=self.state.attempts)
        return self.delivery

    def note(self, *, error: str | None, due_on_clock: float | None, at: float) -> None:
        """How the attempt went; due_on_clock: when to try again, None for never."""
        status: CallbackStatus = (
            "delivered" if error is None else "given_up" if due_on_clock is None else "due"
        )
        self.state = replace(self.state, status=status, last_error=error, last_attempt_at=at)
        if due_on_clock is not None:
            self.due_on_clock = due_on_clock

    @property
    def is_due(self) -> bool:
        """Whether it is still to be told, now or later."""
        return self.state.status == "due"


def due(callbacks: Iterable[MemoryCallback | None]) -> list[MemoryCallback]:
    """Those still to be told, the longest due first."""
    waiting = [one for one in callbacks if one is not None and one.is_due]
    return sorted(waiting, key=lambda one: one.due_on_clock)
