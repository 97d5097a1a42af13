"""Speculative decoding of a lone greedy sequence: a draft model proposes tokens, one wide step of the target checks.

A round feeds the newest accepted token and k guesses to the target at once. What the target itself would choose behind
each of them is accepted up to and including the first place where the guess was another, so every token is the target's
own greedy choice. It stands on one assumption, which is tested when the model is loaded
(scribewire.engine.batching.speculative.calibration): that a wide step gives the logits that steps of one token give.
Where the two were seen to differ, a choice between candidates that lie too near is not trusted: the answer is
decoded again, plainly, from where the rounds began.

Not for sampled rows, rows with a repetition penalty, or more than one row. It never waits for others: one that joins
ends it, and it may begin again once they have left.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from scribewire.engine.audio.mel import HOP_SAMPLES
from scribewire.engine.batching.forcing import NATURAL_TOKENS_PER_SECOND
from scribewire.engine.batching.sequence import Replay, Sequence, SpecialTokens
from scribewire.engine.batching.speculative.drafting import DRAFT_TOKENS, Drafter, ModelDrafter
from scribewire.engine.batching.speculative.gain import PRIOR_ACCEPTANCE, SpeculationPlan
from scribewire.engine.batching.step import StepTokens, described
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.cache import KVCache
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ

_WINDOW = 200
_PRIOR_GUESSES = 20
"""The start-up's acceptance counts as so many guesses seen."""

_LEAST_GUESSES = 20
"""Guesses of one sequence before its own acceptance decides."""

_FORGOTTEN_PER_REFUSAL = 10
_LEAST_STARTS = 10

DrafterMaker = Callable[[Sequence], Drafter]


class Acceptance:
    """Share of the newest guesses that were right; guesses behind a wrong one were not looked at and do not count."""

    def __init__(self, prior_guesses: int = 0) -> None:
        self._seen: deque[bool] = deque(maxlen=_WINDOW)
        self._prior_guesses = prior_guesses

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def rate(self) -> float:
        """From 0 to 1, the prior included; 1 where there is nothing to judge by."""
        guesses = len(self._seen) + self._prior_guesses
        right = sum(self._seen) + PRIOR_ACCEPTANCE * self._prior_guesses
        return right / guesses if guesses else 1.0

    def add(self, right: int, count: int) -> None:
        """Count `count` guesses, of which the first `right` were right."""
        self._seen.extend([True] * right)
        if right < count:
            self._seen.append(False)

    def forget(self, count: int) -> None:
        """Drop the oldest."""
        for _ in range(min(count, len(self._seen))):
            self._seen.popleft()


@dataclass(slots=True)
class SpeculationCounters:
    """Counters of speculation. rounds: of all sequences. tokens: accepted in them. replays: see the module's head."""

    starts: int = 0
    rounds: int = 0
    tokens: int = 0
    replays: int = 0


class Speculator:
    """Decides when drafting for a lone row is worth it, and keeps its acceptance."""

    def __init__(
        self,
        target: SpeechModel,
        marks: SpecialTokens,
        plan: SpeculationPlan,
        make_drafter: DrafterMaker,
    ) -> None:
        self.plan = plan
        self.tally = SpeculationCounters()
        self._target = target
        self._marks = marks
        self._make_drafter = make_drafter
        self._acceptance = Acceptance(_PRIOR_GUESSES)

    @classmethod
    def with_draft(
        cls, target: SpeechModel, draft: SpeechModel, marks: SpecialTokens, plan: SpeculationPlan
    ) -> Speculator:
        """A speculator whose guesses are a draft model's."""
        return cls(target, marks, plan, lambda sequence: ModelDrafter(draft, sequence))

    @property
    def acceptance(self) -> float:
        """Share of guesses that are right, as far as it is known."""
        return self._acceptance.rate

    def suits(self, sequence: Sequence) -> bool:
        """True when drafting for this lone sequence is possible, and expected to win back the draft's preparation."""
        if sequence.mel is None or not _is_greedy(sequence, self._marks) or self._replays_too_often():
            return False
        seconds = sequence.mel.shape[0] * HOP_SAMPLES / SAMPLE_RATE_HZ
        if len(sequence.prompt_ids) + NATURAL_TOKENS_PER_SECOND * seconds > DRAFT_TOKENS:
            return False
        expected = sequence.forced_count or NATURAL_TOKENS_PER_SECOND * seconds
        remaining = min(expected, sequence.token_budget) - len(sequence.tokens)
        cost = self.plan.measured.prepare_seconds_for(seconds)
        if remaining * self.plan.seconds_won_per_token(self.acceptance) > cost:
            return True
        if remaining * self.plan.seconds_won_per_token(PRIOR_ACCEPTANCE) > cost:
            # A bad stretch must not count for ever: nothing new is learned while nothing is guessed.
            self._acceptance.forget(_FORGOTTEN_PER_REFUSAL)
            sequence.mel = None
        return False

    def start(self, sequence: Sequence, cache: KVCache) -> LoneRow:
        """Begin drafting for the one row of this cache, which holds all but the sequence's newest token."""
        self.tally.starts += 1
        drafter = self._make_drafter(sequence)
        return LoneRow(
            self._target, self._marks, self.plan, drafter, sequence, cache, self._acceptance, self.tally
        )

    def _replays_too_often(self) -> bool:
        """A replay costs about a plain answer, so their share must stay below what guessing wins."""
        allowed = 1.0 - 1.0 / self.plan.gain
        return self.tally.starts >= _LEAST_STARTS and self.tally.replays > allowed * self.tally.starts


@dataclass(frozen=True, slots=True)
class Round:
    """Arrays of one round. guesses: (k,). choice: the target's k + 1 choices. margins: (k + 1,) float32 between
    the best two logits of each, None where not needed."""

    guesses: mx.array
    choice: StepTokens
    margins: mx.array | None

    def wait(self) -> None:
        """Compute it."""
        mx.eval([self.guesses, *self.choice.arrays(), *([] if self.margins is None else [self.margins])])


class LoneRow:
    """The rounds of one sequence, from `Speculator.start` until it ends, `is_over` says so, or others join.

    The newest accepted token is in neither cache.
    """

    def __init__(
        self,
        target: SpeechModel,
        marks: SpecialTokens,
        plan: SpeculationPlan,
        drafter: Drafter,
        sequence: Sequence,
        cache: KVCache,
        acceptance: Acceptance,
        tally: SpeculationCounters,
    ) -> None:
        """acceptance, tally: of all sequences; a row keeps its own acceptance beside."""
        self.sequence = sequence
        self.is_over = False
        self._target = target
        self._marks = marks
        self._plan = plan
        self._drafter = drafter
        self._cache = cache
        self._acceptances = (Acceptance(), acceptance)
        self._tally = tally
        self._last = sequence.tokens[-1]
        self._is_in_doubt = False
        # Where plain steps were left, to go back to when in doubt.
        self._plain_columns = cache.lengths[0]
        self._plain_count = len(sequence.tokens)
        self._plain_guard = copy.deepcopy(sequence.guard) if plan.doubt else None

    def launch(self, width: int) -> Round:
        """Feed the newest token and `width` guesses; nothing is waited for."""
        decoder = self._target.decoder
        last = mx.array([self._last], dtype=mx.int32)
        guesses = self._drafter.propose(last, width)
        hidden = decoder(decoder.embed(mx.concatenate([last, guesses]))[None], self._cache)
        logits = decoder.head(hidden[0])
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        choice = described(tokens, logits, self._marks, with_logprobs=self.sequence.wants_logprobs)
        return Round(guesses, choice, _margins(tokens, logits) if self._plan.doubt else None)

    def take_back(self, width: int) -> None:
        """Forget the target's part of a round, and all guesses, as if none had been right."""
        self._cache.rewind(width + 1)
        self._drafter.settle(0)

    def round(self) -> int:
        """Draft, check, and let the sequence accept what was right and one token more; returns how many it took.

        It may end by that, and it takes none where the first is in doubt.
        """
        width = self._plan.width
        launched = self.launch(width)
        launched.wait()
        guesses, chosen = np.array(launched.guesses), np.array(launched.choice.tokens)
        wrong = np.flatnonzero(guesses != chosen[:-1])
        right = int(wrong[0]) if wrong.size else width
        accepted = self._accept(launched, right)
        self._tally.rounds += 1
        self._tally.tokens += accepted
        for acceptance in self._acceptances:
            acceptance.add(right, width)
        self._cache.rewind(width - right)
        self._drafter.settle(right)
        self._last = int(chosen[right])
        self.is_over = self._is_in_doubt or self._is_losing() or self._is_full()
        return accepted

    def stop(self) -> int:
        """Leave the cache as plain steps would have it; returns the token that they must feed next.

        Where wide steps drift, plain ones may not go on behind what those wrote: they begin where the rounds began, and
        the sequence hears again what it has accepted since. Not when others join, whose company makes steps wide, too.
        """
        if not self.is_over:
            return self._last
        # Not for this one again.
        self.sequence.mel = None
        if not self._plan.doubt:
            return self._last
        self._tally.replays += 1
        self._cache.rewind(self._cache.lengths[0] - self._plain_columns)
        self.sequence.replay = Replay(self._plain_count, self._plain_count, self._plain_guard)
        return self.sequence.tokens[self._plain_count - 1]

    def _accept(self, launched: Round, right: int) -> int:
        tokens = np.array(launched.choice.tokens).tolist()
        logprobs, none_probs = launched.choice.values()
        margins = None if launched.margins is None else np.array(launched.margins)
        for place in range(right + 1):
            if margins is not None and not margins[place] >= self._plan.doubt:
                self._is_in_doubt = True
                return place
            self.sequence.accept(tokens[place], logprobs[place], none_probs[place], self._marks)
            if self.sequence.finish_reason is not None:
                return place + 1
        return right + 1

    def _is_losing(self) -> bool:
        own = self._acceptances[0]
        return len(own) >= _LEAST_GUESSES and own.rate < self._plan.break_even

    def _is_full(self) -> bool:
        return self._cache.lengths[0] + self._plan.width + 1 > DRAFT_TOKENS


def _is_greedy(sequence: Sequence, marks: SpecialTokens) -> bool:
    """True when from here on the most likely token is always the one that is chosen."""
    is_free = sequence.head_choices is None or len(sequence.tokens) > len(marks.none_prefix)
    return is_free and sequence.temperature == 0.0 and sequence.repetition_penalty == 1.0


def _margins(tokens: mx.array, logits: mx.array) -> mx.array:
    """(rows,) float32: how far each row's best logit lies above its second best."""
    logits = logits.astype(mx.float32)
    best = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    others = mx.where(mx.arange(logits.shape[-1])[None] == tokens[:, None], -mx.inf, logits)
    return best - mx.max(others, axis=-1)
