"""A decode step's attention as one CUDA kernel: norms, rotation, writing keys and values, and attending.

Where the host is slower at handing kernels over than the device at running them, a step's time is its number of
launches. This is one launch where there were six, and it needs neither a mask nor a plan for each shape. It writes into
the cache's buffers in place, which MLX does not see; `KVCache.buffers_to_write` says what that demands of others.
"""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import numpy as np

from scribewire.engine.model.config import TextConfig
from scribewire.engine.model.cuda.kernel import cuda_kernel

SOURCE = Path(__file__).with_suffix(".cu")
INPUTS = ("heads", "scales", "keys", "values", "layout", "frequencies")
WARPS = 16
"""Of a block. One number for any number of rows, because each would be a kernel to compile at its first use."""


def suits_heads(config: TextConfig) -> bool:
    """True when heads have a size that the kernel can share out among the lanes of a warp."""
    return config.head_dim in (64, 128) and config.head_count % config.kv_head_count == 0


def header(config: TextConfig) -> str:
    """The kernel's macros. Scores are scaled for powers of two, which devices compute faster than those of e."""
    scale = math.log2(math.e) / math.sqrt(config.head_dim)
    return f"#define EPSILON {config.rms_norm_eps!r}f\n#define SCORE_SCALE {scale!r}f\n"


def frequencies(config: TextConfig) -> np.ndarray:
    """(head_dim / 2,) float32: radians a position by which each pair of a head is turned (RoFormer, Su et al. 2021)."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    return np.asarray(config.rope_theta**-exponents, dtype=np.float32)


def step_attention(config: TextConfig) -> StepAttentionKernel | None:
    """The kernel for these heads, None for heads that it does not know."""
    return StepAttentionKernel(config) if suits_heads(config) else None


class StepAttentionKernel:
    """The kernel for one shape of heads (`scribewire.engine.model.step_attention.StepAttention`)."""

    def __init__(self, config: TextConfig) -> None:
        """raises: ValueError for a shape that the kernel does not know."""
        if not suits_heads(config):
            raise ValueError(f"no kernel for {config.head_count} heads of {config.head_dim}")
        self._config = config
        self._frequencies = mx.array(frequencies(config))
        self._kernel = cuda_kernel(SOURCE, INPUTS, "mixed", macros=header(config), writes_inputs=True)

    def __call__(
        self, heads: mx.array, scales: mx.array, keys: mx.array, values: mx.array, layout: mx.array
    ) -> mx.array:
        """What is mixed, in the type of the keys."""
        config = self._config
        rows = heads.shape[0]
        # Scales of quantized matrices decide the type of their products, which need not be the cache's.
        heads = heads.astype(keys.dtype)
        found = self._kernel(
            inputs=[heads, scales, keys, values, layout, self._frequencies],
            template=[
                ("T", heads.dtype),
                ("HEADS", config.head_count),
                ("KV_HEADS", config.kv_head_count),
                ("HEAD_DIM", config.head_dim),
                ("WARPS", WARPS),
            ],
            grid=(config.kv_head_count * WARPS * 32, rows, 1),
            threadgroup=(WARPS * 32, 1, 1),
            output_shapes=[(rows, config.head_count * config.head_dim)],
            output_dtypes=[keys.dtype],
        )
        return found[0]
