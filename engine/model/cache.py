"""Keys and values of a running batch: rows x capacity, right-aligned, written in place.

All rows end at the same column, so one slice assignment writes the whole batch's new keys, whatever each
row's length is; MLX performs it in place because nothing else holds the buffer. A row's length is where
the end is minus where the row starts; the columns before its start hold leftovers and are masked. Capacity
grows in steps, so that buffers come in few sizes.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

CAPACITY_STEP = 256


class KVCache:
    """Buffers of every layer: (rows, kv_heads, capacity, head_dim)."""

    def __init__(self, layer_count: int, kv_head_count: int, head_dim: int, dtype: mx.Dtype) -> None:
        self._shape = (kv_head_count, head_dim)
        self._dtype = dtype
        self._keys: list[mx.array | None] = [None] * layer_count
        self._values: list[mx.array | None] = [None] * layer_count
        self._capacity = 0
        self._starts = np.zeros(0, dtype=np.int64)
        self.end = 0

    @property
    def row_count(self) -> int:
        """Rows in the batch."""
        return len(self._starts)

    @property
    def lengths(self) -> list[int]:
        """Tokens held by each row."""
        return [int(self.end - start) for start in self._starts]

    @property
    def is_ragged(self) -> bool:
        """Whether some row starts after column 0 (then masks and per-row positions are needed)."""
        return bool(self._starts.any())

    def start_rows(self, lengths: list[int]) -> int:
        """Begin an empty cache for a prefill of these true lengths; returns the padded width to feed.

        Row r's tokens must be fed right-aligned: its first `width - lengths[r]` columns are padding.
        """
        if self.end:
            raise ValueError("the cache already holds rows")
        width = max(lengths)
        self._starts = np.asarray([width - length for length in lengths], dtype=np.int64)
        return width

    def reserve(self, extra: int) -> None:
        """Make room for `extra` more columns."""
        wanted = self.end + extra
        if wanted <= self._capacity:
            return
        self._capacity = -(-wanted // CAPACITY_STEP) * CAPACITY_STEP
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                if old is not None:
                    room = self._capacity - old.shape[2]
                    buffers[layer] = mx.pad(old, [(0, 0), (0, 0), (0, room), (0, 0)])

    def append(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write (rows, kv_heads, width, head_dim) behind the end; returns all keys and values up to there.

        `reserve` must have made room; `advance` moves the end once every layer has written.
        """
        stop = self.end + keys.shape[2]
        return self._write(self._keys, layer, keys, stop), self._write(self._values, layer, values, stop)

    def advance(self, width: int) -> None:
        """All layers have written `width` columns."""
        self.end += width

    def rope_offsets(self) -> int | mx.array:
        """Position of the next column in each row; one number when all rows are aligned."""
        if not self.is_ragged:
            return self.end
        return mx.array((self.end - self._starts).astype(np.int32))

    def attention_mask(self, width: int) -> mx.array | str | None:
        """Mask for `width` queries at the end: None or "causal" where MLX needs no array, else booleans.

        Shape (rows, 1, width, end + width). A padding query sees itself, because a row of nothing but masked
        keys would become NaN and spoil the values that later layers multiply by zero.
        """
        if not self.is_ragged:
            return "causal" if width > 1 else None
        columns = np.arange(self.end + width)
        queries = columns[self.end :, None]
        visible = (columns[None, :] <= queries)[None] & (
            columns[None, None, :] >= self._starts[:, None, None]
        )
        if self.end < int(self._starts.max()):
            visible |= (columns[None, :] == queries)[None]
        return mx.array(visible)[:, None]

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all other rows; the freed columns in front of the longest remaining row are given back."""
        index = mx.array(rows, dtype=mx.int32)
        self._starts = self._starts[rows]
        shift = int(self._starts.min()) if rows else 0
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                if old is not None:
                    buffers[layer] = mx.contiguous(old[index][:, :, shift:])
        self._starts = self._starts - shift
        self.end -= shift
        self._capacity -= shift

    def state(self) -> list[mx.array]:
        """All buffers, for evaluation."""
        return [buffer for buffer in (*self._keys, *self._values) if buffer is not None]

    def _write(self, buffers: list[mx.array | None], layer: int, new: mx.array, stop: int) -> mx.array:
        buffer = buffers[layer]
        if buffer is None:
            heads, head_dim = self._shape
            buffer = mx.zeros((self.row_count, heads, self._capacity, head_dim), dtype=self._dtype)
        buffer[:, :, self.end : stop] = new
        buffers[layer] = buffer
        return buffer[:, :, :stop]
