"""Attention by numpy: on a Linux CPU MLX multiplies by a reference BLAS, for attention too."""

from __future__ import annotations

import itertools

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from scribewire.engine.model.attention import HIDDEN, AttentionForm

_SCORES_AT_ONCE = 30_000
"""Numbers: they stay in a core's cache, and the buffers for them are so small that freed ones are used again."""


def attend_on_host(
    queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None, scale: float
) -> mx.array:
    """`AttentionForm.attend`; float32 on the CPU only. No operand is copied."""
    seen = mask if mask is None or isinstance(mask, str) else np.asarray(mask)
    return mx.array(host_attention(np.asarray(queries), np.asarray(keys), np.asarray(values), seen, scale))


def host_attention(
    queries: npt.NDArray[np.float32],
    keys: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_] | str | None,
    scale: float,
) -> npt.NDArray[np.float32]:
    """`AttentionForm.attend` by numpy; a mask is booleans, (rows or 1, 1, width or 1, columns), or "causal"."""
    rows, heads, width, head_dim = queries.shape
    columns = keys.shape[2]
    if isinstance(mask, str):
        mask = np.tri(width, columns, columns - width, dtype=np.bool_)[None, None]
    mixed = np.empty((rows, width, heads, head_dim), dtype=np.float32)
    some_rows = max(1, _SCORES_AT_ONCE // (heads * width * columns))
    some_width = width if some_rows > 1 else min(width, max(1, _SCORES_AT_ONCE // (heads * columns)))
    for row, place in itertools.product(range(0, rows, some_rows), range(0, width, some_width)):
        at, cut = slice(row, row + some_rows), slice(place, place + some_width)
        seen = mask
        if seen is not None:
            seen = seen[at] if len(seen) > 1 else seen
            seen = seen[:, :, cut] if seen.shape[2] > 1 else seen
        part = _attended(queries[at, :, cut], keys[at], values[at], seen, scale)
        mixed[at, cut] = part.swapaxes(1, 2)
    return mixed.reshape(rows * width, heads * head_dim)


def _attended(
    queries: npt.NDArray[np.float32],
    keys: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_] | None,
    scale: float,
) -> npt.NDArray[np.float32]:
    """(rows, heads, width, head_dim), all scores in memory."""
    rows, heads, width, head_dim = queries.shape
    kv_heads, columns = keys.shape[1:3]
    # Queries that share keys are stacked: one product for each head of keys.
    grouped = (queries * np.float32(scale)).reshape(rows, kv_heads, -1, head_dim)
    scores: npt.NDArray[np.float32] = np.matmul(grouped, keys.swapaxes(-1, -2), dtype=np.float32)
    if mask is not None:
        np.copyto(scores.reshape(rows, heads, width, columns), HIDDEN, where=~mask)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    mixed: npt.NDArray[np.float32] = np.matmul(scores, values, dtype=np.float32)
    mixed /= scores.sum(axis=-1, keepdims=True)
    return mixed.reshape(rows, heads, width, head_dim)


HOST_ATTENTION = AttentionForm(own=attend_on_host)
