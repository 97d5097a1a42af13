"""Number of tokens that a benchmark forces on a chunk: a natural rate, varied by a seed.

Random weights never end by themselves, and two programs on the same weights would be compared by how much they say.
So the benchmark forces the same count for the same chunk on all. Standard library only and no import of ours: the
peers' processes run this very file. Never used unless `EngineConfig.forced_tokens_per_second` is set.
"""

from __future__ import annotations

NATURAL_TOKENS_PER_SECOND = 3.5
"""Tokens of transcript per second of continuous English speech, head and end token included."""

SPREAD = 0.3
"""The rate of a chunk lies within this share above or below the given one, evenly spread."""

_SAMPLES_PER_SECOND = 16_000
_MASK = (1 << 64) - 1


def forced_token_count(
    seconds: float, seed: int, tokens_per_second: float = NATURAL_TOKENS_PER_SECOND
) -> int:
    """Tokens to generate for a chunk, at least one.

    seconds: length of the chunk. seed: the sample at which the chunk starts in its recording; the length is mixed in,
    so that recordings of slightly different lengths, which all start at 0, end at different steps.
    """
    mixed = _mixed(_mixed(seed & _MASK) ^ round(seconds * _SAMPLES_PER_SECOND))
    share = mixed / _MASK
    return max(1, round(tokens_per_second * seconds * (1.0 - SPREAD + 2.0 * SPREAD * share)))


def _mixed(value: int) -> int:
    """A 64-bit number whose every bit depends on every bit of the input. Source: the SplitMix64 generator's output."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
