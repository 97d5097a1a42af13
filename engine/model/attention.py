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

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from scribewire.engine.model.host.attention import HIDDEN, host_attention


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


PLAIN_ATTENTION = AttentionForm()
HOST_ATTENTION = AttentionForm(on_host=True)
PLANNED_ATTENTION = AttentionForm(
    adds_mask=True, groups_queries=True, column_step=64, width_step=64, masks_what_begins_later=True
)
