"""The place for a kernel of a device's own that does a decode step's whole attention.

Whoever fills it (`Placement.step_attention`) is held to the plain formula on the device itself when a model is loaded:
a kernel that is wrong would be wrong in silence, and what compiles it belongs to the driver.
"""

from __future__ import annotations

import logging
from typing import Protocol

import mlx.core as mx

from scribewire.engine.model.config import TextConfig

_log = logging.getLogger(__name__)
_ROWS, _CAPACITY, _COLUMN = 2, 256, 9
_STARTS = (0, 5)


class StepAttention(Protocol):
    """Norms, rotation, writing keys and values, and attending, for one token of each row."""

    def __call__(
        self, heads: mx.array, scales: mx.array, keys: mx.array, values: mx.array, layout: mx.array
    ) -> mx.array:
        """heads: (rows, all heads * head_dim), a product as it is; scales: (all heads, head_dim), what queries and
        keys are multiplied by behind their norm; keys, values: (rows, kv_heads, capacity, head_dim), written in place;
        layout: (2 + rows,) int32, the column to write, the capacity and where each row starts.
        Returns (rows, heads * head_dim).
        """
        ...


def trusted(kernel: StepAttention | None, config: TextConfig, dtype: mx.Dtype) -> StepAttention | None:
    """The kernel if it runs on this device and gives what the formula gives; otherwise None, and a warning."""
    if kernel is None:
        return None
    heads, scales, keys, values = _trial(config, dtype)
    wanted = _by_formula(config, heads, scales, keys, values)
    # Before the kernel writes into keys and values, which MLX does not see.
    mx.eval(wanted, heads, scales, keys, values)
    try:
        layout = mx.array([_COLUMN, _CAPACITY, *_STARTS], dtype=mx.int32)
        mixed = kernel(heads, scales, keys, values, layout)
        mx.eval(mixed)
        found = [mixed, *(one[:, :, _COLUMN] for one in (keys, values))]
        apart = max(_apart(one, other) for one, other in zip(found, wanted, strict=True))
    except (RuntimeError, ValueError) as error:
        _log.warning("steps attend by MLX: the kernel for that does not run here: %s", error)
        return None
    # Rounding takes a hundredth of values around one, and a wrong result is apart by one and more.
    if not apart < 0.25:
        _log.warning("steps attend by MLX: the kernel for that is off by %s here", apart)
        return None
    return kernel


def _trial(config: TextConfig, dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """heads, scales, keys and values of two rows."""
    count, kv_count, size = (
        config.head_count + 2 * config.kv_head_count,
        config.kv_head_count,
        config.head_dim,
    )
    keys = mx.random.split(mx.random.key(0), 4)
    shapes = ((_ROWS, count * size), (count, size), *[(_ROWS, kv_count, _CAPACITY, size)] * 2)
    heads, scales, held_keys, held_values = (
        mx.random.normal(shape, key=key).astype(dtype) for shape, key in zip(shapes, keys, strict=True)
    )
    return heads, scales, held_keys, held_values


def _by_formula(
    config: TextConfig, heads: mx.array, scales: mx.array, keys: mx.array, values: mx.array
) -> list[mx.array]:
    """What is mixed, and the new column of keys and of values, in 32 bits, by products and sums alone."""
    query_end = config.head_count
    key_end = query_end + config.kv_head_count
    given = heads.astype(mx.float32).reshape(_ROWS, -1, config.head_dim)
    normed = given * mx.rsqrt(mx.mean(given * given, axis=-1, keepdims=True) + config.rms_norm_eps)
    turned = _turned(config, normed * scales.astype(mx.float32), [_COLUMN - start for start in _STARTS])
    new = [turned[:, query_end:key_end], given[:, key_end:]]
    held = [
        mx.concatenate([old[:, :, :_COLUMN].astype(mx.float32), one[:, :, None]], axis=2)
        for old, one in zip((keys, values), new, strict=True)
    ]
    queries = turned[:, :query_end].reshape(_ROWS, config.kv_head_count, -1, config.head_dim)
    scores = (queries[:, :, :, None] * held[0][:, :, None]).sum(axis=-1) * config.head_dim**-0.5
    is_seen = mx.arange(_COLUMN + 1)[None, None, None] >= mx.array(_STARTS)[:, None, None, None]
    shares = mx.softmax(mx.where(is_seen, scores, -mx.inf), axis=-1)
    mixed = (shares[..., None] * held[1][:, :, None]).sum(axis=3)
    return [mixed.reshape(_ROWS, -1), *new]


def _turned(config: TextConfig, x: mx.array, positions: list[int]) -> mx.array:
    """x: (rows, heads, head_dim), rotated in halves (RoFormer, Su et al. 2021)."""
    half = config.head_dim // 2
    frequencies = mx.power(config.rope_theta, -mx.arange(half) / half)
    angles = mx.array(positions)[:, None, None] * frequencies
    left, right = x[..., :half], x[..., half:]
    cosines, sines = mx.cos(angles), mx.sin(angles)
    return mx.concatenate([left * cosines - right * sines, left * sines + right * cosines], axis=-1)


def _apart(found: mx.array, wanted: mx.array) -> float:
    difference = mx.abs(found.astype(mx.float32) - wanted).max().item()
    assert isinstance(difference, float)
    # A comparison with NaN is never true.
    return difference if difference >= 0.0 else float("inf")
