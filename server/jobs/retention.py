"""A clock for the ages of what is kept for days: it only runs forward, even when the wall clock is set.

While the server runs it follows the monotonic clock. The time between two runs is known from the wall clock alone, of
which the latest time ever seen counts, so that a clock that was set back and right again makes nothing older. A wall
clock that is further ahead of that than BELIEVED_SECONDS may be wrong: the rest of the leap is doubted until the server
has run for GRACE_SECONDS under it, and forgotten if the wall clock turns out to be right after all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

BELIEVED_SECONDS = 86_400.0
"""A start makes nothing older than this at once."""

GRACE_SECONDS = 86_400.0
"""Running time under a leap of the wall clock, until it is believed."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What is kept for the next run.

    seconds: on the retention clock. wall: the latest time that was believed. doubted_for: running time since a leap
    that is not believed yet; None without one.
    """

    seconds: float
    wall: float
    doubted_for: float | None = None


class RetentionClock:
    """Seconds since the store was first used."""

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        saved: ClockReading | None = None,
    ) -> None:
        """saved: the last result of `reading`, in this run or an earlier one."""
        self._wall = wall
        self._monotonic = monotonic
        self._read_at = monotonic()
        self._saved = saved or ClockReading(0.0, wall())
        gap, doubted_for = wall() - self._saved.wall, self._saved.doubted_for
        step = 0.0
        if gap <= 0.0:
            doubted_for = None
        elif doubted_for is None:  # and not again at every start under the same leap
            step = min(gap, BELIEVED_SECONDS)
            doubted_for = 0.0 if gap > BELIEVED_SECONDS else None
        self._saved = ClockReading(self._saved.seconds + step, self._saved.wall + step, doubted_for)

    def now(self) -> float:
        """Seconds on this clock."""
        return self._saved.seconds + self._monotonic() - self._read_at

    @property
    def doubted_seconds(self) -> float:
        """How far the wall clock is ahead of what is believed; 0 unless that keeps something from being removed."""
        if self._saved.doubted_for is None:
            return 0.0
        return max(0.0, self._wall() - self._saved.wall - (self._monotonic() - self._read_at))

    @property
    def grace_seconds_left(self) -> float:
        """Running time until the leap is believed."""
        return GRACE_SECONDS - (self._saved.doubted_for or 0.0)

    def reading(self) -> ClockReading:
        """The clock's state, to be saved from time to time for the next run; believes a leap whose grace is over."""
        monotonic, wall = self._monotonic(), self._wall()
        elapsed = monotonic - self._read_at
        seconds, believed = self._saved.seconds + elapsed, self._saved.wall + elapsed
        doubted_for, gap = self._saved.doubted_for, wall - believed
        if doubted_for is not None:
            doubted_for += elapsed
            if gap <= 0.0:
                doubted_for = None  # the wall clock was set right
            elif doubted_for >= GRACE_SECONDS:
                seconds, believed, doubted_for = seconds + gap, wall, None
        elif 0.0 < gap <= BELIEVED_SECONDS:
            believed = wall
        self._read_at = monotonic
        self._saved = ClockReading(seconds, believed, doubted_for)
        return self._saved
