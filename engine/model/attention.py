"""Attention over a running batch in the form that MLX computes fastest on each device.

Rows of a batch start at different columns, so some keys must be hidden from some rows. Metal's fused kernel takes that
as booleans. On CUDA a single query with any mask leaves the fused kernels altogether; two queries or more with a mask
of numbers do not. Query heads that share keys can be taken as queries of one head, which is the same product, so a step
of a grouped-query model has two there (`groups_queries`).

That kernel is planned once for each shape, for 60 to 100 ms, so numbers of columns and widths of prompts come in steps
and what is not in use is masked (`column_step`, `width_step`). And MLX 0.32 takes keys of a single query to begin with
their buffer, so keys that begin later go by the mask as well (`masks_what_begins_later`).

On a Linux CPU MLX multiplies by a reference BLAS, for attention too; numpy does it there (`on_host`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

HIDDEN = -30_000.0
"""Added to the score of a hidden key: large enough that nothing is left of it in any type, and finite, because a
stretch of nothing but infinities becomes NaN in kernels that go by stretches."""

_SCORES_AT_ONCE = 30_000
"""Numbers: they stay in a core's cache, and the buffers for them are so small that freed ones are used again."""


@dataclass(frozen=True, slots=True)
class AttentionForm:
    """The form that suits a device. The plain form follows the formula."""

    adds_mask: bool = False
    groups_queries: bool = False
    column_step: int = 1
    width_step: int = 1
    masks_what_begins_later: bool = False
    on_host: bool = False

    @classmethod
    def for_device(cls, device: mx.Device, dtype: mx.Dtype) -> AttentionForm:
        """The form that measures fastest there (docs/decisions/0053-attention-forms.md)."""
        is_cuda = device.type == mx.DeviceType.gpu and mx.cuda.is_available()
        if is_cuda and dtype in (mx.float16, mx.bfloat16):
            return PLANNED_ATTENTION
        return PLAIN_ATTENTION

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

    def attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None
    ) -> mx.array:
        """queries: (rows, heads, width, head_dim), keys and values: (rows, kv_heads, columns, head_dim)
        -> (rows * width, heads * head_dim)."""
        rows, heads, width, head_dim = queries.shape
        scale = head_dim**-0.5
        if self.on_host:
            seen = mask if mask is None or isinstance(mask, str) else np.asarray(mask)
            operands = (np.asarray(queries), np.asarray(keys), np.asarray(values))
            return mx.array(host_attention(*operands, seen, scale))
        groups = self.groups_queries and width == 1 and isinstance(mask, mx.array) and heads > keys.shape[1]
        if groups:
            queries = queries.reshape(rows, keys.shape[1], -1, head_dim)
        mixed = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
        if width > 1:
            mixed = mixed.swapaxes(1, 2)
        return mixed.reshape(rows * width, heads * head_dim)


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


PLAIN_ATTENTION = AttentionForm()
HOST_ATTENTION = AttentionForm(on_host=True)
PLANNED_ATTENTION = AttentionForm(
    adds_mask=True, groups_queries=True, column_step=64, width_step=64, masks_what_begins_later=True
)
