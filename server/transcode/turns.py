"""Turns of recordings that share a few children: which one is next, and which one gives up its child. Only decides.

Nothing tells how long a recording takes before it is decoded, so each is tried: its first turn is short, and one child
is always kept for first turns. A recording that goes on after its first turn is a long one; long ones share the other
children. A turn that is over goes on until another recording claims the child; the next turn of the recording that
gave way is several times as long, because it starts again from its beginning (what it has written is kept).
Times are seconds of a monotonic clock, given by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

FIRST_TURN_SECONDS = 0.1
"""Enough for a minute of sound in most formats, and so short that many can have their first turn in a second."""

SLOW_FIRST_TURN_SECONDS = 0.5
"""The same for one of which the beginning cannot be read yet: the machine may be busy, and the recording short."""

SHORT_SECONDS = 2.0
"""A recording that has had no longer turn may end another's before its time, where that one has had far more."""

TURN_GROWTH = 4.0
"""However often a recording gives way, what is done again takes at most 4/3 of its own time."""


@dataclass(slots=True, eq=False)
class Contender:
    """A recording that waits for a child or has one.

    had_seconds: length of its longest turn, 0 before its first. began_at: start of the present one, None while it
    waits.
    has_begun: its beginning can be read.
    """

    owner: str
    is_interactive: bool
    had_seconds: float = 0.0
    began_at: float | None = None
    has_begun: bool = False

    def elapsed_seconds(self, now: float) -> float:
        """Length of the present turn so far."""
        return 0.0 if self.began_at is None else now - self.began_at

    def is_long(self, now: float) -> bool:
        """True for one that has had its first turn."""
        first = FIRST_TURN_SECONDS if self.has_begun else SLOW_FIRST_TURN_SECONDS
        return self.had_seconds > 0.0 or self.elapsed_seconds(now) >= first

    def has_had_its_turn(self, now: float) -> bool:
        """True when the present turn may be ended."""
        return self.elapsed_seconds(now) >= max(FIRST_TURN_SECONDS, TURN_GROWTH * self.had_seconds)


One = TypeVar("One", bound=Contender)


def long_places(children: int) -> int:
    """Children that long recordings may hold: all but one, if there are several."""
    return max(1, children - 1)


def next_in_turn(waiting: Sequence[One], running: Sequence[One], children: int, now: float) -> One | None:
    """The recording that a free child gets: first turns first, what a client waits for before jobs, owners in turn."""
    has_place = sum(one.is_long(now) for one in running) < long_places(children)

    def rank(one: One) -> tuple[bool, bool, int, float]:
        in_hand = sum(other.owner == one.owner for other in running)
        return one.had_seconds > 0.0, not one.is_interactive, in_hand, one.had_seconds

    # Among equals the one that came first.
    return min((one for one in waiting if has_place or one.had_seconds == 0.0), key=rank, default=None)


def gives_way(waiting: Sequence[One], running: Sequence[One], children: int, now: float) -> One | None:
    """The recording whose turn is to be ended now, for one that waits or to keep a child for first turns."""
    long = sorted(
        (one for one in running if one.is_long(now)), key=lambda one: one.elapsed_seconds(now), reverse=True
    )
    places = long_places(children)
    over = [one for one in long if one.has_had_its_turn(now)]
    if len(long) < places:
        return None
    if len(long) == places:
        # A first turn claims a long one's child only where none is kept for it.
        claims = [one.had_seconds for one in waiting if one.had_seconds > 0.0 or places == children]
        claim = min(claims, default=math.inf)
        over = [one for one in over if one.elapsed_seconds(now) >= claim]
        if not over and claim < SHORT_SECONDS:
            # The one that has run longest is left alone, so that in the end every recording ends.
            far_more = max(TURN_GROWTH * claim, FIRST_TURN_SECONDS)
            over = [one for one in long[1:] if one.elapsed_seconds(now) >= far_more][-1:]
    return over[0] if over else None
