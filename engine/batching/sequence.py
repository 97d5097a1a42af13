"""One chunk on its way through the decoder: what goes in, how each next token is chosen, and why it ended.

Knows nothing of text. A row's token is the most likely one, or a draw, with what its options forbid or discourage.
Greedy rows without further options cost one argmax for all; any other row is chosen from its own logits, with its own
random stream, so that no row's choice depends on its neighbors. Nothing here waits for the device.

`LoopGuard` distinguishes a model caught in a loop from a speaker's repetition. Speakers do repeat themselves ("no no no
no", a chorus), so repetition alone proves nothing: a loop is ten times the same thing in a row and more tokens than the
audio could hold. It shortens nothing itself, and it never goes back over the whole sequence: each token costs the few
places where it last occurred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

import mlx.core as mx

from scribewire.engine.protocol.config import TranscribeOptions

LONGEST_LOOP_PERIOD = 32
LOOP_REPEATS = 10

_TOKENS_PER_SECOND = 20.0
_TOKENS_BESIDES = 16

Item = TypeVar("Item")


class FinishReason(Enum):
    """Reason for the end of a sequence."""

    END_TOKEN = "end_mark"
    BUDGET = "budget"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token ids that decoding itself must know.

    end_ids: any of them ends a sequence and is not part of its tokens.
    none_prefix, none_token: after exactly this prefix, the probability of that token is the probability
    that the model hears no speech; none_token is None where it is not needed.
    """

    end_ids: frozenset[int]
    none_prefix: tuple[int, ...] = ()
    none_token: int | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt, its audio, and the tokens generated so far.

    prompt_ids: with audio pad positions. audio: (tokens, hidden) embeddings for them, None without audio.
    token_budget: tokens generated at most. options: the recording's, for the sampler. seed: of this sequence's own
    random stream, so that its result does not depend on the batch. wants_logprobs: also keep log-probabilities.
    head_choices: right after `SpecialTokens.none_prefix` only these tokens may follow; None leaves the choice to the
    model.
    guard: watches for degenerate loops; None lets them run to the budget.
    forced_count: for benchmarks: end tokens are ignored and exactly so many tokens are generated; None otherwise.
    mel: (frames, mel_bins), kept only while a draft may need it (scribewire.engine.batching.speculation).
    logprobs: natural log-probability of every token and of the end token (one more than tokens then),
    under the model itself: before temperature, penalty and choices.
    prompt_after_prefix: tokens of the prompt behind `SpecialTokens.none_prefix`, where the language was written for the
    model; None where the model is to write it.
    no_speech_prob: see SpecialTokens; None when not requested or when the prefix never came.
    """

    prompt_ids: list[int]
    audio: mx.array | None
    token_budget: int
    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    seed: int = 0
    wants_logprobs: bool = False
    head_choices: tuple[int, ...] | None = None
    guard: LoopGuard | None = None
    forced_count: int | None = None
    prompt_after_prefix: int | None = None
    mel: mx.array | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    no_speech_prob: float | None = None
    finish_reason: FinishReason | None = None

    def accept(
        self, token: int, logprob: float | None, none_prob: float | None, special_tokens: SpecialTokens
    ) -> None:
        """Take the next token; sets `finish_reason` when this was the last one."""
        if logprob is not None and self.wants_logprobs:
            self.logprobs.append(logprob)
        if none_prob is not None and self.wants_logprobs and tuple(self.tokens) == special_tokens.none_prefix:
            self.no_speech_prob = none_prob
        if token in special_tokens.end_ids and self.forced_count is None:
            self.finish_reason = FinishReason.END_TOKEN
            return
        self.tokens.append(token)
        if self.forced_count is not None:
            self.finish_reason = FinishReason.END_TOKEN if len(self.tokens) >= self.forced_count else None
            return
        if self.guard is not None:
            self.guard.push(token)
            if self.guard.loop is not None:
                self.finish_reason = FinishReason.LOOP
                return
        if len(self.tokens) >= self.token_budget:
            self.finish_reason = FinishReason.BUDGET


def max_tokens_for_audio(seconds: float) -> int:
    """The most tokens that so much audio can hold, speech at its fastest and in the costliest script.

    Ordinary speech is about 3.5 tokens a second. Counted with Qwen's vocabulary, a syllable costs 0.5 tokens
    (Japanese) to 1.2 (English, Russian, Vietnamese), but 1.9 in Thai, 2.2 in Greek and 2.8 in Hindi, and a word of
    one syllable between commas 1.9 ("no, no") to 2.9 (Greek, Thai). Fast speech is about 7 syllables a second, as
    fast as most speakers can say anything: 2.9 x 7 = 20. English at the record of 637 words a minute is 13.
    The 16 besides are for the language head and for what is clipped at the edges of a chunk.
    """
    return _TOKENS_BESIDES + int(_TOKENS_PER_SECOND * max(0.0, seconds))


@dataclass(frozen=True, slots=True)
class Loop:
    """A degenerate loop at the end of a sequence.

    period: tokens in one round. repeats: complete rounds said, the first included. keep_count: tokens from the
    sequence's beginning to keep: all before the repetition and its first round.
    """

    period: int
    repeats: int
    keep_count: int


class LoopGuard:
    """Watches one chunk's tokens as they are generated.

    Evident is a loop when the last tokens are a period of at most 32 said at least 10 times (an unfinished round
    does not count) and the chunk has more tokens than `max_tokens_for_audio`. Of several evident periods the one
    that drops most is the loop, the smallest in doubt: two rounds of a period are never taken for one of twice its
    length, which would drop less, and a run of equal tokens inside a longer round does not hide that round.
    """

    def __init__(self, max_tokens_for_audio: int) -> None:
        self._most_tokens = max_tokens_for_audio
        self._runs: _MatchRuns[int] = _MatchRuns(LONGEST_LOOP_PERIOD)
        self.loop: Loop | None = None

    def push(self, token: int) -> Loop | None:
        """Take the next token; returns `loop`. Once that is set the sequence is over and further tokens are ignored."""
        if self.loop is None:
            self._runs.push(token)
            if self._runs.lengths and len(self._runs.items) > self._most_tokens:
                self.loop = self._evident()
        return self.loop

    @property
    def held_count(self) -> int:
        """Number of the newest tokens that a loop may yet drop; those before them stay, whatever follows.

        Let m(p) be how many of the newest tokens equal the one p before them. A loop of period p drops the m(p)
        newest, so it drops nothing that came before this run of matches began, and at every earlier moment of the
        run its tokens so far were among the max over p of m(p) that are held.
        """
        return max(self._runs.lengths.values(), default=0)

    def _evident(self) -> Loop | None:
        lengths = self._runs.lengths
        evident = [period for period in lengths if lengths[period] + period >= LOOP_REPEATS * period]
        if not evident:
            return None
        period = min(evident, key=lambda one: (-lengths[one], one))
        matches = lengths[period]
        return Loop(period, (matches + period) // period, len(self._runs.items) - matches)


def drop_repeats(tokens: list[int], loop: Loop) -> list[int]:
    """The tokens without the loop's repeats: what came before, and one round."""
    return list(tokens[: loop.keep_count])


class _MatchRuns(Generic[Item]):
    """Count, for every period up to the longest, of the newest items that equal the one a period before them.

    items: all of them. lengths: period -> that number, smallest period first, without the zeros.
    """

    def __init__(self, longest_period: int) -> None:
        self.items: list[Item] = []
        self.lengths: dict[int, int] = {}
        self._longest_period = longest_period
        self._last_place: dict[Item, int] = {}
        self._place_before: list[int] = []

    def push(self, item: Item) -> None:
        """Take the next item; costs as much as it occurs among the last `longest_period`."""
        here = len(self.items)
        far = here - self._longest_period
        place = before = self._last_place.get(item, -1)
        lengths: dict[int, int] = {}
        while place >= far and place >= 0:
            period = here - place
            lengths[period] = self.lengths.get(period, 0) + 1
            place = self._place_before[place]
        self.lengths = lengths
        self.items.append(item)
        self._place_before.append(before)
        self._last_place[item] = here


@dataclass(slots=True)
class _State:
    """A row's state from token to token, all of it on the device but the count.

    chosen: tokens chosen so far, read back or not. last: the newest one. seen: (vocab,) booleans of those said.
    """

    key: mx.array | None
    chosen: int = 0
    last: mx.array | None = None
    seen: mx.array | None = None


class Sampler:
    """Holds the state of the rows that need one."""

    def __init__(self, special_tokens: SpecialTokens) -> None:
        self._special_tokens = special_tokens
        self._states: dict[int, _State] = {}

    def choose(self, slots: Several[Sequence | None], logits: mx.array) -> mx.array:
        """(slots,) int32 tokens from (slots, vocab) logits; a free slot's token means nothing."""
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        for slot, sequence in enumerate(slots):
            if sequence is not None and _is_special(sequence):
                tokens[slot] = self._choose_one(sequence, logits[slot])
        return tokens

    def forget(self, sequence: Sequence) -> None:
        """Drop the state of a sequence that has ended."""
        self._states.pop(id(sequence), None)

    def _choose_one(self, sequence: Sequence, logits: mx.array) -> mx.array:
        state = self._states.get(id(sequence))
        if state is None:
            key = mx.random.key(sequence.seed) if sequence.options.temperature > 0.0 else None
            state = self._states[id(sequence)] = _State(key)
        logits = self._shaped(sequence, state, logits.astype(mx.float32))
        if state.key is None:
            token = mx.argmax(logits).astype(mx.int32)
        else:
            # The stream advances by one split a step.
            state.key, step_key = mx.random.split(state.key)
            warm = _likely(logits / sequence.options.temperature, sequence.options.min_p)
            token = mx.random.categorical(warm, key=step_key).astype(mx.int32)
        state.chosen += 1
        state.last = token
        if sequence.options.repetition_penalty != 1.0:
            seen = mx.zeros(logits.shape[0], dtype=mx.bool_) if state.seen is None else state.seen
            state.seen = seen | (mx.arange(logits.shape[0]) == token)
        return token

    def _shaped(self, sequence: Sequence, state: _State, logits: mx.array) -> mx.array:
        if state.seen is not None:
            # As CTRL defines it (Keskar et al. 2019): seen tokens move towards less likely, whatever their sign.
            penalty = sequence.options.repetition_penalty
            logits = mx.where(state.seen, mx.where(logits > 0, logits / penalty, logits * penalty), logits)
        prefix = self._special_tokens.none_prefix
        if sequence.head_choices is not None and state.chosen == len(prefix):
            columns = mx.arange(logits.shape[0])[:, None]
            allowed = (columns == mx.array(sequence.head_choices)).any(axis=-1)
            restricted = mx.where(allowed, logits, -mx.inf)
            # A model that did not begin with the prefix is not writing a language's name here.
            applies = mx.array(True) if state.last is None else state.last == prefix[-1]
            logits = mx.where(applies, restricted, logits)
        return logits


def _likely(logits: mx.array, min_p: float) -> mx.array:
    """The logits with -inf where the probability is below `min_p` times the largest.

    logits: (vocab,) float32, divided by the temperature already. min_p: from 0, which changes nothing, to 1.
    Source: min-p sampling (Nguyen et al. 2024), p < min_p * p_max; in logarithms, where the sum of all cancels.
    """
    return mx.where(logits < logits.max() + math.log(min_p), -mx.inf, logits) if min_p > 0.0 else logits


def _is_special(sequence: Sequence) -> bool:
    options = sequence.options
    return options.temperature > 0.0 or options.repetition_penalty != 1.0 or sequence.head_choices is not None
