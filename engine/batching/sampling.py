"""Chooses every row's next token: the most likely one, or a draw, with what the row's options forbid or discourage.

Greedy rows without further options cost one argmax for all; any other row is chosen from its own logits, with its
own random stream, so that no row's choice depends on its neighbors. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Several
from dataclasses import dataclass

import mlx.core as mx

from scribewire.engine.batching.sequence import Sequence, SpecialTokens


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
