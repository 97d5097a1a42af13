"""Attention over a running batch in the form that MLX computes fastest on each device.

Rows of a batch start at different columns, so some keys must be hidden from some rows. Metal's fused kernels take that
as booleans; those for a few queries would copy one mask for all heads in each layer, so it is spread over heads once a
pass (`spreads_mask`). On CUDA a single query with any mask leaves the fused kernels altogether; two queries or more
with a mask of numbers do not. Query heads that share keys can be taken as queries of one head, which is the same
product, so a step of a grouped-query model has two there (`groups_queries`).

That kernel is planned once for each shape, for 60 to 100 ms, so numbers of columns and widths of prompts come in steps
and what is not in use is masked (`column_step`, `width_step`). And MLX 0.32 takes keys of a single query to begin with
their buffer, so keys that begin later go by the mask as well (`masks_what_begins_later`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

HIDDEN = -30_000.0
"""Added to the score of a hidden key: large enough that nothing is left of it in any type, and finite, because a
stretch of nothing but infinities becomes NaN in kernels that go by stretches."""

_FEW_QUERIES = 8
"""Up to so many queries a row, Metal's kernel is the one that wants a mask for each head. Source: MLX 0.32.2."""

Attention = Callable[[mx.array, mx.array, mx.array, mx.array | str | None, float], mx.array]


@dataclass(frozen=True, slots=True)
class AttentionForm:
    """The form that suits a device. The plain form follows the formula. own: does it all in place of MLX's kernels."""

    adds_mask: bool = False
    spreads_mask: bool = False
    groups_queries: bool = False
    column_step: int = 1
    width_step: int = 1
    masks_what_begins_later: bool = False
    own: Attention | None = None

    def window(self, first: int, stop: int) -> tuple[int, int]:
        """The columns to attend to, for those that are in use; there must be buffers for them."""
        step = self.column_step
        return first // step * step, -(-stop // step) * step

    def mask(self, visible: npt.NDArray[np.bool_], dtype: mx.Dtype) -> mx.array:
        """visible: any shape, true where a key is seen -> the same shape, as this form has it."""
        if not self.adds_mask:
            return mx.array(visible)
        # Made on the host: choosing by a broadcast condition is a kernel of 0.2 ms on an H100.
        return mx.array(np.where(visible, 0.0, HIDDEN).astype(np.float32), dtype=dtype)

    def spread(self, mask: mx.array | str | None, heads: int) -> mx.array | str | None:
        """A pass's mask, (rows, 1, width, columns), as all layers are given it: for each head, where that saves copies.

        A single row's is not copied, nor what the kernels for many queries are given.
        """
        if not self.spreads_mask or not isinstance(mask, mx.array):
            return mask
        rows, _, width, columns = mask.shape
        if rows == 1 or width > _FEW_QUERIES:
            return mask
        return mx.contiguous(mx.broadcast_to(mask, (rows, heads, width, columns)))

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None
    ) -> mx.array:
        """queries: (rows, heads, width, head_dim), keys and values: (rows, kv_heads, columns, head_dim)
        -> (rows * width, heads * head_dim)."""
        rows, heads, width, head_dim = queries.shape
        scale = head_dim**-0.5
        if self.own is not None:
            return self.own(queries, keys, values, mask, scale)
        groups = self.groups_queries and width == 1 and isinstance(mask, mx.array) and heads > keys.shape[1]
        if groups:
            queries = queries.reshape(rows, keys.shape[1], -1, head_dim)
        mixed = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
        if width > 1:
            mixed = mixed.swapaxes(1, 2)
        return mixed.reshape(rows * width, heads * head_dim)


PLAIN_ATTENTION = AttentionForm()
