"""Batched prefill and decode: all sequences together, one token of each per step.

Rows are right-aligned in the cache, so a step writes one column for all of them. Each step is started
before the last one's tokens are read, so that the device computes while Python looks for end marks; the
price is one step computed in vain at the end. A row that has ended leaves the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from engine.batching.sequence import Marks, Sequence
from engine.model.asr import SpeechModel
from engine.model.cache import KVCache


@dataclass(slots=True)
class _Choice:
    """The tokens that one step chose, not yet read back.

    tokens: (rows,) int32. logprobs, none_probs: (rows,) float32, None unless some sequence wants them.
    """

    tokens: mx.array
    logprobs: mx.array | None
    none_probs: mx.array | None

    def arrays(self) -> list[mx.array]:
        return [array for array in (self.tokens, self.logprobs, self.none_probs) if array is not None]

    def keep_rows(self, rows: list[int]) -> None:
        index = mx.array(rows, dtype=mx.int32)
        self.tokens = self.tokens[index]
        self.logprobs = None if self.logprobs is None else self.logprobs[index]
        self.none_probs = None if self.none_probs is None else self.none_probs[index]


def generate(model: SpeechModel, sequences: Several[Sequence], marks: Marks) -> Iterator[list[Sequence]]:
    """Decode all sequences to their ends, in place.

    Yields after every step the sequences that ended in it (often none), so that the caller can look after
    cancellation and progress between steps; closing the iterator stops the work.
    """
    if not sequences:
        return
    batch = _RunningBatch(model, list(sequences), marks)
    yield from batch.run()


def prefill(model: SpeechModel, sequences: Several[Sequence]) -> tuple[KVCache, mx.array]:
    """Feed all prompts at once: the filled cache and the next-token logits (rows, vocab) of each row."""
    prompts = [model.embed_prompt(sequence.prompt_ids, sequence.audio) for sequence in sequences]
    cache = model.decoder.new_cache()
    width = cache.start_rows([prompt.shape[0] for prompt in prompts])
    rows = [mx.pad(prompt, [(width - prompt.shape[0], 0), (0, 0)]) for prompt in prompts]
    hidden = model.decoder(mx.stack(rows), cache)
    return cache, model.decoder.head(hidden[:, -1])


class _RunningBatch:
    """The rows being decoded; every row is a sequence that has not ended."""

    def __init__(self, model: SpeechModel, sequences: list[Sequence], marks: Marks) -> None:
        self._model = model
        self._sequences = sequences
        self._marks = marks
        self._keys = {id(s): mx.random.key(s.seed) for s in sequences if s.temperature > 0.0}

    def run(self) -> Iterator[list[Sequence]]:
        cache, logits = prefill(self._model, self._sequences)
        pending = self._choose(logits)
        mx.async_eval(pending.arrays())
        while self._sequences:
            embeddings = self._model.decoder.embed(pending.tokens)[:, None]
            hidden = self._model.decoder(embeddings, cache)
            following = self._choose(self._model.decoder.head(hidden[:, -1]))
            mx.async_eval(following.arrays())
            ended = self._read(pending)
            if ended:
                self._drop_ended(cache, following)
            pending = following
            yield ended

    def _read(self, choice: _Choice) -> list[Sequence]:
        tokens = np.array(choice.tokens)
        logprobs = _values(choice.logprobs, tokens.size)
        none_probs = _values(choice.none_probs, tokens.size)
        for sequence, token, logprob, none in zip(self._sequences, tokens, logprobs, none_probs, strict=True):
            sequence.accept(int(token), logprob, none, self._marks)
        return [sequence for sequence in self._sequences if sequence.ending is not None]

    def _drop_ended(self, cache: KVCache, following: _Choice) -> None:
        rows = [row for row, sequence in enumerate(self._sequences) if sequence.ending is None]
        self._sequences = [self._sequences[row] for row in rows]
        if rows:
            cache.keep_rows(rows)
            following.keep_rows(rows)

    def _choose(self, logits: mx.array) -> _Choice:
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        sampled = [row for row, sequence in enumerate(self._sequences) if sequence.temperature > 0.0]
        if sampled:
            columns = [tokens[row] for row in range(len(self._sequences))]
            for row in sampled:
                columns[row] = self._sample(self._sequences[row], logits[row])
            tokens = mx.stack(columns)
        if not any(sequence.wants_logprobs for sequence in self._sequences):
            return _Choice(tokens, None, None)
        logits = logits.astype(mx.float32)
        normalizer = mx.logsumexp(logits, axis=-1)
        logprobs = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0] - normalizer
        none_token = self._marks.none_token
        none_probs = None if none_token is None else mx.exp(logits[:, none_token] - normalizer)
        return _Choice(tokens, logprobs, none_probs)

    def _sample(self, sequence: Sequence, logits: mx.array) -> mx.array:
        """One token from this row's own random stream, which advances by one split a step."""
        self._keys[id(sequence)], step_key = mx.random.split(self._keys[id(sequence)])
        scaled = logits.astype(mx.float32) / sequence.temperature
        return mx.random.categorical(scaled, key=step_key).astype(mx.int32)


def _values(array: mx.array | None, count: int) -> list[float | None]:
    if array is None:
        return [None] * count
    return [float(value) for value in np.array(array)]
