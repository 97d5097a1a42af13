"""Batched prefill and decode: sequences join at any step, all advance one token per step, and leave at their end.

Rows are right-aligned in the cache, so a step writes one column for all of them. Each step is started
before the last one's tokens are read, so that the device computes while Python looks for end tokens; the
price is one step computed in vain at a row's end. A row's text does not depend on its neighbors.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from scribewire.engine.batching.sequence import Sampler, Sequence, SpecialTokens
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.cache import KVCache


@dataclass(slots=True)
class StepTokens:
    """The tokens that one step chose, not yet read back.

    tokens: (rows,) int32. logprobs, none_probs: (rows,) float32, None unless some sequence wants them.
    """

    tokens: mx.array
    logprobs: mx.array | None
    none_probs: mx.array | None

    def arrays(self) -> list[mx.array]:
        """Arrays to evaluate."""
        return [array for array in (self.tokens, self.logprobs, self.none_probs) if array is not None]

    def values(self) -> tuple[list[float | None], list[float | None]]:
        """Wait for logprobs and none_probs, as numbers."""
        count = self.tokens.size
        return _values(self.logprobs, count), _values(self.none_probs, count)


class LoneRounds(Protocol):
    """Steps of a lone sequence that yield several tokens (scribewire.engine.batching.speculation)."""

    @property
    def sequence(self) -> Sequence:
        """The sequence."""
        ...

    @property
    def is_over(self) -> bool:
        """True when plain steps should go on from here."""
        ...

    def round(self) -> int:
        """Let the sequence accept one token or more; returns how many, an end token included."""
        ...

    def stop(self) -> int:
        """Leave the cache to plain steps; returns the token that they feed first."""
        ...


class Speculation(Protocol):
    """Decides when rounds are worth it, and starts them."""

    def suits(self, sequence: Sequence) -> bool:
        """True when rounds are worth starting with this sequence, which is alone."""
        ...

    def start(self, sequence: Sequence, cache: KVCache) -> LoneRounds:
        """Start rounds; the cache holds this row alone, and of it all but the newest token."""
        ...


class Prefill:
    """Prompts being fed, all together, in slices of bounded width, so that a running batch can step in between."""

    def __init__(self, model: SpeechModel, sequences: Several[Sequence], *, slice_tokens: int = 0) -> None:
        """slice_tokens: rows x width fed at most per slice; 0 feeds everything at once."""
        self.sequences = list(sequences)
        self._model = model
        prompts = [model.embed_prompt(sequence.prompt_ids, sequence.audio) for sequence in sequences]
        self.cache = model.decoder.new_cache()
        width = self.cache.start_rows([prompt.shape[0] for prompt in prompts])
        trailing = self.cache.trailing
        rows = [
            mx.pad(prompt, [(width - prompt.shape[0] - trailing, trailing), (0, 0)]) for prompt in prompts
        ]
        self._embeddings = mx.stack(rows)
        self._width = width
        self._slice_width = self.cache.in_width_steps(slice_tokens // len(rows)) if slice_tokens else width
        self._fed = 0
        self._hidden: mx.array | None = None
        # Row -> column whose hidden state predicts what follows `SpecialTokens.none_prefix`, and then that state.
        self._asked = {
            row: width - trailing - one.prompt_after_prefix - 1
            for row, one in enumerate(sequences)
            if one.wants_logprobs and one.prompt_after_prefix is not None
        }
        self._answers: dict[int, mx.array] = {}

    @property
    def is_fed(self) -> bool:
        """True when every prompt is in the cache."""
        return self._fed == self._width

    def feed(self) -> None:
        """Start the next slice on the device."""
        stop = min(self._fed + self._slice_width, self._width)
        # Room for all of it and a first stretch of answers, or every slice would move the buffers.
        self.cache.reserve(self._width - self._fed)
        hidden = self._model.decoder(self._embeddings[:, self._fed : stop], self.cache)
        for row, column in self._asked.items():
            if self._fed <= column < stop:
                self._answers[row] = hidden[row, column - self._fed]
        self._fed = stop
        self._hidden = hidden[:, -1 - self.cache.trailing] if self.is_fed else hidden[:, -1]
        if self.is_fed:
            self.cache.rewind(self.cache.trailing)
        else:
            mx.async_eval(self._hidden, *self._answers.values(), *self.cache.state())

    def none_probs(self, special_tokens: SpecialTokens) -> list[tuple[Sequence, mx.array]]:
        """P(no speech) as scalars, of the sequences that want it and whose prompt contains the prefix."""
        if special_tokens.none_token is None or not self._answers:
            return []
        rows = list(self._answers)
        logits = self._model.decoder.head(mx.stack([self._answers[row] for row in rows])).astype(mx.float32)
        probs = mx.exp(logits[:, special_tokens.none_token] - mx.logsumexp(logits, axis=-1))
        return [(self.sequences[row], probs[place]) for place, row in enumerate(rows)]

    def logits(self) -> mx.array:
        """(rows, vocab) logits of the token after each prompt; all must have been fed."""
        if not self.is_fed or self._hidden is None:
            raise ValueError("the prompts are not fed yet")
        return self._model.decoder.head(self._hidden)


class RunningBatch:
    """The sequences being decoded. Every row is a sequence that has not ended, or a free slot."""

    def __init__(self, model: SpeechModel, special_tokens: SpecialTokens) -> None:
        self._model = model
        self._special_tokens = special_tokens
        self._sampler = Sampler(special_tokens)
        self._slots: list[Sequence | None] = []
        self._cache = model.decoder.new_cache()
        self._pending: StepTokens | None = None
        # While a lone row goes in rounds, nothing is pending.
        self._rounds: LoneRounds | None = None
        # Of prompts that have joined: not yet read back.
        self._none_probs: list[tuple[Sequence, mx.array]] = []
        self.tokens_of_last_step = 0

    @property
    def sequences(self) -> list[Sequence]:
        """Sequences that have not ended, in no particular order."""
        return [sequence for sequence in self._slots if sequence is not None]

    @property
    def row_count(self) -> int:
        """Number of sequences."""
        return self._cache.row_count

    @property
    def slot_count(self) -> int:
        """Rows that a step computes."""
        return self._cache.slot_count

    def join(self, sequences: Several[Sequence]) -> None:
        """Prefill sequences at once and let them join."""
        prefill = Prefill(self._model, sequences)
        prefill.feed()
        self.adopt(prefill)

    def adopt(self, prefill: Prefill) -> None:
        """Let sequences whose prompts have been fed join; their first token is being chosen."""
        self._end_rounds()
        choice = self._choose(list(prefill.sequences), prefill.logits())
        none_probs = prefill.none_probs(self._special_tokens)
        self._none_probs += none_probs
        mx.async_eval(choice.arrays(), [prob for _, prob in none_probs])
        slots = self._cache.adopt(prefill.cache)
        self._slots += [None] * (self._cache.slot_count - len(self._slots))
        for slot, sequence in zip(slots, prefill.sequences, strict=True):
            self._slots[slot] = sequence
        size = self._cache.slot_count
        if self._pending is None:
            self._pending = choice
        else:
            tokens = _merged(self._pending.tokens, choice.tokens, slots, size)
            assert tokens is not None
            self._pending = StepTokens(
                tokens,
                _merged(self._pending.logprobs, choice.logprobs, slots, size),
                _merged(self._pending.none_probs, choice.none_probs, slots, size),
            )

    def step(self, ahead: Speculation | None = None) -> list[Sequence]:
        """Decode one token of every sequence; returns those that have ended by it, which have left.

        ahead: given when no other sequence is about to join: a lone row that suits it goes on in rounds.
        """
        pending = self._pending
        self.tokens_of_last_step = self.row_count
        if self._rounds is not None:
            self.tokens_of_last_step = self._rounds.round()
            ended = [self._rounds.sequence] if self._rounds.sequence.finish_reason else []
        elif pending is None:
            return []
        elif ahead is not None and self.row_count == 1 and ahead.suits(self.sequences[0]):
            self._pending = None
            ended = self._read(pending)
            if not ended:
                self._rounds = ahead.start(self.sequences[0], self._cache)
        else:
            self._pending = self._start(pending.tokens)
            ended = self._read(pending)
        self._leave([slot for slot, one in enumerate(self._slots) if one is not None and one.finish_reason])
        if self._rounds is not None and self._rounds.is_over:
            self._end_rounds()
        return ended

    def remove(self, sequences: Several[Sequence]) -> None:
        """Drop sequences at once; those that are not here are ignored."""
        leaving = {id(sequence) for sequence in sequences}
        self._leave([slot for slot, one in enumerate(self._slots) if id(one) in leaving])

    def _start(self, tokens: mx.array) -> StepTokens:
        """Start a step that feeds these tokens, (slots,)."""
        hidden = self._model.decoder(self._model.decoder.embed(tokens)[:, None], self._cache)
        following = self._choose(self._slots, self._model.decoder.head(hidden[:, -1]))
        mx.async_eval(following.arrays())
        return following

    def _end_rounds(self) -> None:
        if self._rounds is not None:
            self._pending = self._start(mx.array([self._rounds.stop()], dtype=mx.int32))
            self._rounds = None

    def _read(self, choice: StepTokens) -> list[Sequence]:
        for asking, prob in self._none_probs:
            asking.no_speech_prob = float(np.array(prob))
        self._none_probs = []
        tokens = np.array(choice.tokens)
        logprobs, none_probs = choice.values()
        ended = []
        for slot, sequence in enumerate(self._slots):
            if sequence is not None:
                sequence.accept(int(tokens[slot]), logprobs[slot], none_probs[slot], self._special_tokens)
                if sequence.finish_reason is not None:
                    ended.append(sequence)
        return ended

    def _leave(self, slots: list[int]) -> None:
        if not slots:
            return
        self._rounds = None
        for slot in slots:
            sequence = self._slots[slot]
            assert sequence is not None
            self._sampler.forget(sequence)
            self._slots[slot] = None
        moved = self._cache.free_slots(slots)
        if moved is None:
            return
        if not moved:
            self._slots, self._pending = [], None
            return
        # Fillers behind the rows repeat a free slot's number.
        self._slots = [self._slots[slot] for slot in moved]
        assert self._pending is not None
        index = mx.array(moved, dtype=mx.int32)
        tokens, logprobs, none_probs = self._pending.tokens, self._pending.logprobs, self._pending.none_probs
        self._pending = StepTokens(
            tokens[index],
            None if logprobs is None else logprobs[index],
            None if none_probs is None else none_probs[index],
        )

    def _choose(self, slots: list[Sequence | None] | list[Sequence], logits: mx.array) -> StepTokens:
        wants_logprobs = any(sequence is not None and sequence.wants_logprobs for sequence in slots)
        return described(
            self._sampler.choose(slots, logits), logits, self._special_tokens, with_logprobs=wants_logprobs
        )


def described(
    tokens: mx.array, logits: mx.array, special_tokens: SpecialTokens, *, with_logprobs: bool
) -> StepTokens:
    """Tokens (rows,) chosen from logits (rows, vocab), with their log-probabilities where wanted."""
    if not with_logprobs:
        return StepTokens(tokens, None, None)
    logits = logits.astype(mx.float32)
    normalizer = mx.logsumexp(logits, axis=-1)
    logprobs = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0] - normalizer
    none = special_tokens.none_token
    return StepTokens(tokens, logprobs, None if none is None else mx.exp(logits[:, none] - normalizer))


def generate(
    model: SpeechModel, sequences: Several[Sequence], special_tokens: SpecialTokens
) -> Iterator[list[Sequence]]:
    """Decode these sequences to their ends, in place, in a batch of their own.

    Yields after every step the sequences that ended in it (often none).
    """
    if not sequences:
        return
    batch = RunningBatch(model, special_tokens)
    batch.join(sequences)
    while batch.row_count:
        yield batch.step()


def prefill(model: SpeechModel, sequences: Several[Sequence]) -> tuple[KVCache, mx.array]:
    """Feed all prompts at once: the filled cache and the next-token logits (rows, vocab) of each row."""
    prompts = Prefill(model, sequences)
    prompts.feed()
    return prompts.cache, prompts.logits()


def _merged(old: mx.array | None, new: mx.array | None, slots: list[int], size: int) -> mx.array | None:
    """`old` with room for `size` slots and `new` in the given ones; what one side lacks counts as 0 and is not read."""
    if old is None and new is None:
        return None
    if old is None:
        assert new is not None
        old = mx.zeros(size, dtype=new.dtype)
    if old.shape[0] < size:
        old = mx.pad(old, (0, size - old.shape[0]))
    if new is not None:
        old[mx.array(slots, dtype=mx.int32)] = new
    return old


def _values(array: mx.array | None, count: int) -> list[float | None]:
    if array is None:
        return [None] * count
    return [float(value) for value in np.array(array)]
