"""Ages of what is kept for days: a clock that only runs forward, and that no setting of the wall clock moves.

While the server runs it follows the monotonic clock. What passed between two runs is known from the wall clock alone;
it counts as what the wall clock says, and as nothing when it went backwards.
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
        """saved: what `reading` gave last, in this run or an earlier one."""
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
        """What must be saved from time to time for the next run: this clock and the wall clock."""
        return self.now(), self._wall()
