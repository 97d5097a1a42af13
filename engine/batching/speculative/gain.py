"""The gain in time of speculative decoding: plain numbers, no arrays.

With acceptance a (the chance that a guess is right, given that those before it were), a round of k guesses yields
E(a, k) = 1 + a + ... + a^k tokens: the guesses up to the first wrong one, and the target's own choice behind them
(Leviathan et al. 2023, equation 1). It pays when its time is less than E plain steps; the draft's own encoding and
prefill come on top, once an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scribewire.engine.batching.forcing import NATURAL_TOKENS_PER_SECOND

GUESS_COUNTS = range(1, 7)
"""Guesses a round that are considered. On a Linux CPU, products of eight rows and more are made by another library."""

PRIOR_ACCEPTANCE = 0.8
"""Acceptance that a draft of the same family is trusted to reach until it was measured."""

LEAST_GAIN = 1.1
CALIBRATION_SECONDS = 10.0

DOUBT_PER_DRIFT = 8.0
"""Margins below so many times the largest drift that the probe saw are in doubt: two logits may drift apart, and
there are more answers than the probe saw."""


def tokens_per_round(acceptance: float, guesses: int) -> float:
    """E(a, k): tokens that a round of so many guesses yields on average."""
    return sum(acceptance**power for power in range(guesses + 1))


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians of this machine, model and draft, for a clip of GAUGED_SECONDS.

    step_seconds: a plain step, started before the last one's token is read. draft_step_seconds: of one guess, for the
    log. round_seconds: k -> k guesses, the wide step that checks them, and reading both. prepare_seconds: the draft's
    encoding and prefill.
    """

    step_seconds: float
    draft_step_seconds: float
    round_seconds: Mapping[int, float]
    prepare_seconds: float

    def gain(self, acceptance: float, guesses: int) -> float:
        """Plain time over speculative time of decoding a clip of GAUGED_SECONDS at a natural rate."""
        tokens = NATURAL_TOKENS_PER_SECOND * CALIBRATION_SECONDS
        per_token = self.round_seconds[guesses] / tokens_per_round(acceptance, guesses)
        return tokens * self.step_seconds / (self.prepare_seconds + tokens * per_token)

    def break_even(self, guesses: int, *, tokens: float = math.inf) -> float:
        """The acceptance at which an answer of so many tokens takes as long as with plain steps, its draft's
        preparation included; infinitely many leave that out. Above 1 where none suffices.
        """
        plain = self.step_seconds - self.prepare_seconds / tokens
        if plain <= 0 or self.round_seconds[guesses] > plain * tokens_per_round(1.0, guesses):
            return math.inf
        if self.round_seconds[guesses] <= plain:
            return 0.0
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            if self.round_seconds[guesses] > plain * tokens_per_round(middle, guesses):
                low = middle
            else:
                high = middle
        return high

    def prepare_seconds_for(self, seconds: float) -> float:
        """Of a clip of this length; a shorter one is not trusted to take less, because much of it is launching."""
        return self.prepare_seconds * max(1.0, seconds / CALIBRATION_SECONDS)


@dataclass(frozen=True, slots=True)
class SpeculationPlan:
    """A plan of rounds. width: guesses a round. doubt: margins between the best two logits below this are in doubt;
    0 where wide steps were seen to give the very bits of narrow ones."""

    width: int
    doubt: float
    measured: Measured

    @property
    def gain(self) -> float:
        """At the prior acceptance."""
        return self.measured.gain(PRIOR_ACCEPTANCE, self.width)

    @property
    def break_even(self) -> float:
        """The acceptance below which rounds are slower than plain steps, the draft being prepared already."""
        return self.measured.break_even(self.width)

    def seconds_won_per_token(self, acceptance: float) -> float:
        """Against a plain step, preparation left out; negative below break-even."""
        measured = self.measured
        return measured.step_seconds - measured.round_seconds[self.width] / tokens_per_round(
            acceptance, self.width
        )


def choose_plan(measured: Measured, drift: Callable[[int], float]) -> SpeculationPlan | None:
    """The width that gains most, of those that gain enough; None where none does.

    drift: k -> the largest difference seen between a step of k + 1 tokens and k + 1 steps of one, 0 for equal bits;
    measured only for widths that come into question. A width without drift is preferred to a faster one with it.
    """
    gains = {guesses: measured.gain(PRIOR_ACCEPTANCE, guesses) for guesses in measured.round_seconds}
    drifting = None
    for guesses in sorted(gains, key=lambda one: -gains[one]):
        if gains[guesses] < LEAST_GAIN:
            break
        found = drift(guesses)
        if found == 0.0:
            return SpeculationPlan(guesses, 0.0, measured)
        if drifting is None and math.isfinite(found):
            drifting = SpeculationPlan(guesses, DOUBT_PER_DRIFT * found, measured)
    return drifting
