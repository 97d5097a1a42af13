"""Backoff and circuit breaker for restarts of the engine's worker.

Each death in a row makes the pause longer, with jitter. Too many deaths within a window open the breaker: nothing is
started until its pause is over; then one worker is tried. If that one dies before it has been ready for a while, the
breaker opens again; otherwise the old deaths are forgotten.
It starts nothing itself and never sleeps; times are of a monotonic clock, so setting the wall clock changes nothing.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Backoff and breaker settings.

    backoff_seconds: pause after the first, second, ... death in a row; the last one holds for all further ones.
    jitter: share by which a pause may be longer or shorter. breaker_deaths: within breaker_window_seconds, they open
    the breaker for breaker_pause_seconds. steady_seconds: a worker that was ready for this time counts as healthy.
    """

    backoff_seconds: tuple[float, ...] = BACKOFF_SECONDS
    jitter: float = 0.2
    breaker_deaths: int = 5
    breaker_window_seconds: float = 600.0
    breaker_pause_seconds: float = 60.0
    steady_seconds: float = 60.0


class Restarts:
    """The deaths of one engine's workers, and the pauses that follow from them."""

    def __init__(
        self,
        policy: RestartPolicy,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._monotonic = monotonic
        self._uniform = uniform
        self._in_a_row = 0
        self._died_at: deque[float] = deque()
        self._rests_until: float | None = None
        """End of the breaker's last pause, None when the breaker is closed."""

    @property
    def recent_deaths(self) -> int:
        """Number of deaths within the breaker's window, none from before it closed."""
        self._forget_old(self._monotonic())
        return len(self._died_at)

    @property
    def resting_seconds(self) -> float:
        """Seconds until the breaker lets a worker be started; 0 when it does now."""
        return 0.0 if self._rests_until is None else max(0.0, self._rests_until - self._monotonic())

    @property
    def is_trial(self) -> bool:
        """True when the worker that starts or runs now is the one tried after the breaker's pause."""
        return self._rests_until is not None and not self.resting_seconds

    def note_death(self, ready_seconds: float) -> None:
        """Note that a worker died, or could not be started; ready_seconds: how long it had been ready."""
        now = self._monotonic()
        was_trial = self.is_trial
        if ready_seconds >= self._policy.steady_seconds:
            self._in_a_row = 0
            if was_trial:
                self._rests_until, was_trial = None, False
                self._died_at.clear()
        self._in_a_row += 1
        self._died_at.append(now)
        self._forget_old(now)
        if was_trial or len(self._died_at) >= self._policy.breaker_deaths:
            self._rests_until = now + self._policy.breaker_pause_seconds

    def pause_seconds(self) -> float:
        """Seconds to wait from now before the next worker is started."""
        if not self._in_a_row:
            return 0.0
        if resting_seconds := self.resting_seconds:
            return resting_seconds
        if self.is_trial:
            return 0.0
        steps = self._policy.backoff_seconds
        seconds = steps[min(self._in_a_row, len(steps)) - 1]
        return seconds * self._uniform(1.0 - self._policy.jitter, 1.0 + self._policy.jitter)

    def _forget_old(self, now: float) -> None:
        while self._died_at and now - self._died_at[0] > self._policy.breaker_window_seconds:
            self._died_at.popleft()
