"""Places decoded sound at the times that a player shows: silence where a file's stamps leave a gap.

Time begins where the container begins, with whichever of its tracks is first. A start later than that, and a gap in the
stamps, become silence. A stamp alone is not believed: sound is held back until a second of what follows agrees. Where
stamps go back (joined recordings, a clock that was set), or leap further than the file can be long, samples are counted
on, so that bad stamps are never worse than none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from scribewire.engine.audio.pcm import Samples

MAX_UNDECLARED_GAP_SECONDS = 300.0
"""The longest gap that is kept in a container that does not declare its end."""

_GAP_SECONDS = 0.1
_BACK_SECONDS = 1.0
_AGREEMENT_SECONDS = 1.0
_AGREEMENT_FRAMES = 64
_MAX_NAMED = 5


class Frame(NamedTuple):
    """Decoded sound at its own rate. samples: (n,) float32, mono. stamp_seconds: as the container has it, or None."""

    rate_hz: int
    samples: Samples
    stamp_seconds: float | None


class Timeline:
    """Times of one track. position_seconds: end of what was placed so far, silence included."""

    def __init__(self, *, start_seconds: float | None, end_seconds: float | None) -> None:
        """start_seconds: stamp at which the container begins, None for the first frame's.

        end_seconds: the container's declared length, None where it declares none.
        """
        self.position_seconds = 0.0
        self._offset_seconds = None if start_seconds is None else -start_seconds
        self._end_seconds = end_seconds
        self._gaps: list[tuple[float, float]] = []
        self._leaps: list[tuple[float, float]] = []

    def place(self, frames: Iterator[Frame]) -> Iterator[tuple[int, Samples]]:
        """(rate in Hz, samples) of every frame in order, and of the silence before it, at most a second at a time."""
        held: deque[Frame] = deque()
        while (frame := held.popleft() if held else next(frames, None)) is not None:
            rate_hz = frame.rate_hz
            for count in _seconds_of(round(self._gap_before(frame, held, frames) * rate_hz), rate_hz):
                self.position_seconds += count / rate_hz
                yield rate_hz, np.zeros(count, np.float32)
            self.position_seconds += len(frame.samples) / rate_hz
            yield rate_hz, frame.samples

    def warnings(self, offset_seconds: float) -> list[str]:
        """What to say of gaps and leaps. offset_seconds: what stands in the file before this track's beginning."""
        gaps = [gap for gap in self._gaps if gap[0] > 0]  # a late start is no loss
        lines = []
        if gaps:
            longest = sorted(sorted(gaps, key=lambda gap: gap[0] - gap[1])[:_MAX_NAMED])
            places = ", ".join(f"{a + offset_seconds:.1f} to {b + offset_seconds:.1f} s" for a, b in longest)
            missing = sum(end - start for start, end in gaps)
            rest = f" ({missing:.1f} s in {len(gaps)} places in all)" if len(gaps) > len(longest) else ""
            lines.append(f"sound is missing from {places}{rest}: silence stands in its place")
        for at, length in self._leaps[:_MAX_NAMED]:
            lines.append(
                f"the time stamps leap by {length:.0f} s at {at + offset_seconds:.1f} s: no silence was put in, "
                "so later times may be too early"
            )
        return lines

    def _gap_before(self, frame: Frame, held: deque[Frame], frames: Iterator[Frame]) -> float:
        """Seconds of silence to put before a frame. Fills `held` with the frames that had to be looked at."""
        if frame.stamp_seconds is None:
            return 0.0
        if self._offset_seconds is None:
            self._offset_seconds = -frame.stamp_seconds
        ahead = frame.stamp_seconds + self._offset_seconds - self.position_seconds
        if -_BACK_SECONDS < ahead < _GAP_SECONDS:
            return 0.0
        stamps = _look_ahead(frame, held, frames)
        if ahead < 0:
            if max(stamps) + self._offset_seconds < self.position_seconds - _BACK_SECONDS:
                self._offset_seconds -= ahead
            return 0.0
        ahead = min(stamps) + self._offset_seconds - self.position_seconds
        if ahead < _GAP_SECONDS:
            return 0.0
        room = MAX_UNDECLARED_GAP_SECONDS
        if self._end_seconds is not None:
            room = self._end_seconds + _GAP_SECONDS - self.position_seconds
        if ahead > room:
            self._offset_seconds -= ahead
            self._leaps.append((self.position_seconds, ahead))
            return 0.0
        self._gaps.append((self.position_seconds, self.position_seconds + ahead))
        return ahead


def _look_ahead(frame: Frame, held: deque[Frame], frames: Iterator[Frame]) -> list[float]:
    """Stamp of a frame by its own word, and by those in the second that follows, measured by samples or by stamps."""
    assert frame.stamp_seconds is not None
    stamps, seconds = [frame.stamp_seconds], len(frame.samples) / frame.rate_hz
    for number in range(_AGREEMENT_FRAMES):
        if max(seconds, stamps[-1] - stamps[0]) >= _AGREEMENT_SECONDS:
            break
        if number == len(held):
            if (following := next(frames, None)) is None:
                break
            held.append(following)
        if (stamp := held[number].stamp_seconds) is not None:
            stamps.append(stamp - seconds)
        seconds += len(held[number].samples) / held[number].rate_hz
    return stamps


def _seconds_of(count: int, rate_hz: int) -> Iterator[int]:
    while count > 0:
        yield min(count, rate_hz)
        count -= rate_hz
