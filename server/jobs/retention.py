"""A clock for the ages of what is kept for days: it only runs forward, even when the wall clock is set.

While the server runs it follows the monotonic clock. The time between two runs is known from the wall clock alone; it
counts as nothing when the wall clock went backwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class RetentionClock:
    """Seconds since the store was first used."""

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        saved: tuple[float, float] | None = None,
    ) -> None:
        """saved: the last result of `reading`, in this run or an earlier one."""
        self._wall = wall
        self._monotonic = monotonic
        self._start = 0.0
        if saved is not None:
            seconds, wall_then = saved
            self._start = seconds + max(0.0, wall() - wall_then)
        self._started = monotonic()

    def now(self) -> float:
        """Seconds on this clock."""
        return self._start + self._monotonic() - self._started

    def reading(self) -> tuple[float, float]:
        """This clock and the wall clock, to be saved from time to time for the next run."""
        return self.now(), self._wall()
