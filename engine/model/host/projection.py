"""Products and convolutions by numpy.

On a Linux CPU MLX's wheel calls a reference BLAS; numpy's carries OpenBLAS, which is an order of magnitude faster.
"""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from scribewire.engine.model.config import halved
from scribewire.engine.model.projection import DenseProjection

_BLOCKS = (16, 8)


class HostProjection(DenseProjection):
    """A product with a plain matrix by numpy; float32 on the CPU only.

    Handing over to numpy evaluates the input, which ends MLX's laziness there. Even for one row that is worth it.
    """

    def __init__(self, matrix: mx.array, bias: mx.array | None) -> None:
        """matrix: (out, in), kept as (in, out)."""
        super().__init__(matrix, bias)
        self.matrix = _transposed(matrix)

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the map to the last axis."""
        # Neither operand is copied: both are views of MLX's memory.
        rows = np.asarray(x).reshape(-1, x.shape[-1])
        product = mx.array(rows @ np.asarray(self.matrix)).reshape(*x.shape[:-1], -1)
        return product if self.bias is None else product + self.bias

    def added_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the map of x."""
        return residual + self(x)


def _transposed(matrix: mx.array) -> mx.array:
    """A copy of (out, in) as (in, out), row behind row.

    The axis of inputs moves to the front a step at a time, so that what is read stays in the processor's cache: one
    copy takes six times as long, and more for a vocabulary.
    """
    if matrix.shape[0] % math.prod(_BLOCKS):
        return mx.contiguous(matrix.T)
    blocks = matrix.reshape(-1, *_BLOCKS, matrix.shape[1])
    for axis in (2, 1, 0):
        blocks = mx.contiguous(blocks.swapaxes(axis, axis + 1))
    return blocks.reshape(matrix.shape[1], matrix.shape[0])


class HostConvolution:
    """`StridedConvolution` as one product: patches are unfolded and multiplied."""

    def __init__(self, kernel: mx.array, bias: mx.array) -> None:
        """kernel: (out, 3, 3, in), bias: (out,)."""
        self._product = HostProjection(kernel.reshape(kernel.shape[0], -1), bias)

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, time, mel, in) -> (rows, ceil(time / 2), ceil(mel / 2), out)."""
        return self._product(_patches(x))


def _patches(x: mx.array) -> mx.array:
    """All 3 x 3 patches at stride 2 of the zero-padded input: (rows, time / 2, mel / 2, 9 * channels)."""
    rows, time, mel, channels = x.shape
    padded = mx.contiguous(mx.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]))
    width = (mel + 2) * channels
    shape = (rows, halved(time, times=1), halved(mel, times=1), 3, 3, channels)
    strides = ((time + 2) * width, 2 * width, 2 * channels, width, channels, 1)
    return mx.as_strided(padded, shape, strides).reshape(*shape[:3], 9 * channels)
