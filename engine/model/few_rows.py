"""Products of two to eight rows as one CUDA kernel.

MLX has a kernel of its own for one row; more go to cuBLAS, whose launches are captured graphs that cost the host ten
microseconds each. A step of a small batch has a hundred and more of them and waits for the host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import mlx.core as mx

from engine.model.cuda_kernel import cuda_kernel

SOURCE = Path(__file__).with_suffix(".cu")
TENSOR_CORES = SOURCE.with_name("tensor_cores.cuh")
INPUTS = ("matrix", "x", "residual", "sizes")
LEAST_ROWS, MOST_ROWS = 2, 8
COLUMNS = 16
"""Of the result, computed by one block."""
SPAN = 32
"""Rows are read in pieces of so many numbers."""
WARPS = 8
_log = logging.getLogger(__name__)
_TYPES = (mx.float16, mx.bfloat16)


class FewRowsProduct(Protocol):
    """matrix: (out, in), x: (rows, in), residual: (rows, out) or None -> (rows, out), the product plus the residual."""

    def __call__(self, matrix: mx.array, x: mx.array, residual: mx.array | None) -> mx.array:
        """Multiply."""
        ...


def suits_rows(x: mx.array) -> bool:
    """Whether the kernel takes it."""
    return (
        x.ndim == 2 and LEAST_ROWS <= x.shape[0] <= MOST_ROWS and x.shape[1] % SPAN == 0 and x.dtype in _TYPES
    )


class FewRowsKernel:
    """The product on a CUDA device."""

    def __init__(self) -> None:
        self._kernel: Callable[..., list[mx.array]] | None = None

    def __call__(self, matrix: mx.array, x: mx.array, residual: mx.array | None) -> mx.array:
        """As `FewRowsProduct`; all in one type."""
        if self._kernel is None:
            macros = TENSOR_CORES.read_text(encoding="utf-8")
            self._kernel = cuda_kernel(SOURCE, INPUTS, "y", macros=macros)
        rows, columns = x.shape[0], matrix.shape[0]
        blocks = -(-columns // COLUMNS)
        found = self._kernel(
            inputs=[
                matrix,
                x,
                x if residual is None else residual,
                sizes(rows, x.shape[1], columns, residual is not None),
            ],
            template=[("T", x.dtype), ("WARPS", WARPS)],
            grid=(blocks * WARPS * 32, 1, 1),
            threadgroup=(WARPS * 32, 1, 1),
            output_shapes=[(rows, columns)],
            output_dtypes=[x.dtype],
        )
        return found[0]


def trusted(product: FewRowsProduct, dtype: mx.Dtype) -> FewRowsProduct | None:
    """The product if it can be built and multiplies right on this device, in this type; otherwise None, and a warning.

    A kernel that is wrong would be wrong in silence, and what compiles it belongs to the driver.
    """
    if dtype not in _TYPES:
        return None
    keys = mx.random.split(mx.random.key(0), 3)
    matrix = mx.random.normal((COLUMNS + 5, 5 * SPAN), key=keys[0]).astype(dtype)
    x = mx.random.normal((3, 5 * SPAN), key=keys[1]).astype(dtype)
    residual = mx.random.normal((3, COLUMNS + 5), key=keys[2]).astype(dtype)
    wanted = x.astype(mx.float32) @ matrix.astype(mx.float32).T + residual.astype(mx.float32)
    try:
        apart = mx.abs(product(matrix, x, residual).astype(mx.float32) - wanted).max().item()
    except RuntimeError as error:
        _log.warning("few rows are multiplied by MLX: the kernel for them does not run here: %s", error)
        return None
    # A right result is apart by what rounding takes, at most a fiftieth of one here, and a wrong one by some tens.
    if not isinstance(apart, float) or not apart < 1.0:
        _log.warning("few rows are multiplied by MLX: the kernel for them is off by %s here", apart)
        return None
    return product


@lru_cache(maxsize=256)
def sizes(rows: int, sum_length: int, columns: int, has_residual: bool) -> mx.array:
    """(4,) int32: what the kernel must know of its operands."""
    return mx.array([rows, sum_length, columns, int(has_residual)], dtype=mx.int32)
