"""One verifying pass: tokens that were guessed are fed at once, and the model's own choice is read behind each.

It decides nothing: who guessed accepts what is right, takes back the rest of the cache, and knows how far the logits of
a wide pass may lie from those of single steps on this device (`drift`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from scribewire.engine.batching.sequence import SpecialTokens
from scribewire.engine.batching.step import StepTokens, described
from scribewire.engine.model.asr import SpeechModel
from scribewire.engine.model.cache import KVCache

_PROBED_LENGTHS = (64, 300, 1100)
"""Kernels for attention change with the number of keys."""
_PROBED_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Verified:
    """The model's greedy choices behind n fed tokens. margins: (n,) float32, best logit above the second best."""

    choice: StepTokens
    margins: mx.array

    def tokens(self) -> list[int]:
        """Wait for the choices."""
        return [int(token) for token in np.array(self.choice.tokens)]

    def right(self, guesses: list[int]) -> int:
        """Guesses before the first that the model would not have chosen; they were all fed but the first token."""
        chosen = self.tokens()
        wrong = (place for place, guess in enumerate(guesses) if guess != chosen[place])
        return next(wrong, len(guesses))

    def sure(self, doubt: float) -> int:
        """Choices before the first whose margin is below `doubt`, or is no number."""
        unsure = np.flatnonzero(~(np.array(self.margins) >= doubt))
        return int(unsure[0]) if unsure.size else self.margins.size


def verify(
    model: SpeechModel,
    cache: KVCache,
    tokens: mx.array,
    special_tokens: SpecialTokens,
    *,
    with_logprobs: bool,
) -> Verified:
    """Feed tokens, (n,) int32, behind what a cache of one row holds; started, not waited for. One is a plain step."""
    hidden = model.decoder(model.decoder.embed(tokens)[None], cache)
    logits = model.decoder.head(hidden[0])
    chosen = mx.argmax(logits, axis=-1).astype(mx.int32)
    best_two = mx.topk(logits.astype(mx.float32), 2, axis=-1)
    margins = mx.abs(best_two[:, 1] - best_two[:, 0])
    choice = described(chosen, logits, special_tokens, with_logprobs=with_logprobs)
    mx.async_eval(margins, choice.arrays())
    return Verified(choice, margins)


def drift(model: SpeechModel, width: int, *, lengths: tuple[int, ...] = _PROBED_LENGTHS) -> float:
    """Largest difference, in logits, keys or values, between passes of `width` tokens and steps of one.

    0 only when all bits are equal, behind each of several lengths of context; infinite for what is not a number.
    """
    decoder = model.decoder
    total = lengths[-1] + _PROBED_TOKENS
    ids = mx.random.randint(0, model.config.text.vocab_size, (total,), key=mx.random.key(1)).astype(mx.int32)
    cache = decoder.new_cache()
    cache.start_rows([lengths[0]])
    worst = 0.0
    for length in lengths:
        decoder(decoder.embed(ids[cache.end : length])[None], cache)
        mx.eval(cache.state())
        count = _PROBED_TOKENS // width * width
        found = []
        for fed_at_once in (1, width):
            logits = []
            for place in range(length, length + count, fed_at_once):
                hidden = decoder(decoder.embed(ids[place : place + fed_at_once])[None], cache)
                logits.append(decoder.head(hidden[0]))
                mx.async_eval(logits[-1])
            held = [mx.contiguous(buffer[:, :, length : length + count]) for buffer in cache.state()]
            found.append([mx.concatenate(logits), *held])
            mx.eval(found[-1])
            cache.rewind(count)
        for narrow, wide in zip(*found, strict=True):
            difference = mx.max(mx.abs(narrow.astype(mx.float32) - wide.astype(mx.float32))).item()
            assert isinstance(difference, float)
            # A comparison with NaN is never true.
            worst = max(worst, difference if difference >= 0.0 else math.inf)
    return worst
