"""Products of two to eight rows as one CUDA kernel, with a plain matrix and with a quantized one.

MLX has kernels of its own for one row. More go to cuBLAS, whose launches are captured graphs that cost the host ten
microseconds each, and with a quantized matrix to kernels made for many rows. A step of a small batch has a hundred and
more such products and waits for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import mlx.core as mx

from scribewire.engine.model.cuda.kernel import cuda_kernel

SOURCE = Path(__file__).with_suffix(".cu")
QUANTIZED_SOURCE = SOURCE.with_name("few_rows_quantized.cu")
TENSOR_CORES = SOURCE.with_name("tensor_cores.cuh")
INPUTS = ("matrix", "x", "residual", "sizes")
QUANTIZED_INPUTS = ("codes", "scales", "biases", "x", "residual", "sizes")
LEAST_ROWS, MOST_ROWS = 2, 8
COLUMNS = 16
"""Of the result, computed by one block."""
SPAN = 32
"""Rows are read in pieces of so many numbers."""
GROUP = 64
"""Codes of a quantized matrix that share a scale: what four lanes read, and what all published checkpoints have."""
BITS = (4, 8)
WARPS = 8
_log = logging.getLogger(__name__)
_TYPES = (mx.float16, mx.bfloat16)


class QuantizedMatrix(NamedTuple):
    """MLX's affine quantization: codes (out, in * bits / 32) uint32, scales and biases (out, in / 64)."""

    codes: mx.array
    scales: mx.array
    biases: mx.array
    bits: int


Matrix = TypeVar("Matrix", mx.array, QuantizedMatrix, contravariant=True)


class FewRowsProduct(Protocol[Matrix]):
    """matrix: (out, in), x: (rows, in), residual: (rows, out) or None -> (rows, out), the product plus the residual."""

    def __call__(self, matrix: Matrix, x: mx.array, residual: mx.array | None) -> mx.array:
        """Multiply."""
        ...


def suits_rows(x: mx.array, span: int = SPAN) -> bool:
    """True when the kernel accepts it. span: what the sum's length must be a multiple of."""
    return (
        x.ndim == 2 and LEAST_ROWS <= x.shape[0] <= MOST_ROWS and x.shape[1] % span == 0 and x.dtype in _TYPES
    )


def suits_quantized(scales: mx.array, biases: mx.array | None, bits: int, group_size: int, mode: str) -> bool:
    """True when the kernel accepts this kind of quantized matrix."""
    return (
        mode == "affine"
        and biases is not None
        and bits in BITS
        and group_size == GROUP
        and scales.dtype in _TYPES
    )


class FewRowsKernel:
    """The product with a plain matrix on a CUDA device."""

    def __init__(self) -> None:
        self._kernel = _Kernel(SOURCE, INPUTS)

    def __call__(self, matrix: mx.array, x: mx.array, residual: mx.array | None) -> mx.array:
        """See `FewRowsProduct`; all in one type."""
        return self._kernel([matrix], matrix.shape[0], x, residual)


class FewRowsQuantizedKernel:
    """The product with a quantized matrix on a CUDA device."""

    def __init__(self) -> None:
        self._kernel = _Kernel(QUANTIZED_SOURCE, QUANTIZED_INPUTS)

    def __call__(self, matrix: QuantizedMatrix, x: mx.array, residual: mx.array | None) -> mx.array:
        """See `FewRowsProduct`; all but the codes in one type."""
        arrays = [matrix.codes, matrix.scales, matrix.biases]
        return self._kernel(arrays, matrix.codes.shape[0], x, residual, ("BITS", matrix.bits))


class _Kernel:
    """One of the two, compiled when it first runs."""

    def __init__(self, source: Path, inputs: tuple[str, ...]) -> None:
        self._source = source
        self._inputs = inputs
        self._compiled: Callable[..., list[mx.array]] | None = None

    def __call__(
        self,
        matrix: list[mx.array],
        columns: int,
        x: mx.array,
        residual: mx.array | None,
        *constants: tuple[str, int],
    ) -> mx.array:
        if self._compiled is None:
            macros = TENSOR_CORES.read_text(encoding="utf-8")
            self._compiled = cuda_kernel(self._source, self._inputs, "y", macros=macros)
        rows = x.shape[0]
        found = self._compiled(
            inputs=[
                *matrix,
                x,
                x if residual is None else residual,
                sizes(rows, x.shape[1], columns, residual is not None),
            ],
            template=[("T", x.dtype), ("WARPS", WARPS), *constants],
            grid=(-(-columns // COLUMNS) * WARPS * 32, 1, 1),
            threadgroup=(WARPS * 32, 1, 1),
            output_shapes=[(rows, columns)],
            output_dtypes=[x.dtype],
        )
        return found[0]


def trusted(product: FewRowsProduct[mx.array], dtype: mx.Dtype) -> FewRowsProduct[mx.array] | None:
    """The product if it can be built and multiplies right on this device, in this type; otherwise None, and a warning.

    A kernel that is wrong would be wrong in silence, and what compiles it belongs to the driver.
    """
    if dtype not in _TYPES:
        return None
    matrix, x, residual = _trial(5 * SPAN, dtype)
    return product if _is_right(lambda: product(matrix, x, residual), matrix, x, residual) else None


def trusted_quantized(
    product: FewRowsProduct[QuantizedMatrix], dtype: mx.Dtype
) -> FewRowsProduct[QuantizedMatrix] | None:
    """The same of a product with quantized matrices, for all numbers of bits."""
    if dtype not in _TYPES:
        return None
    matrix, x, residual = _trial(5 * GROUP, dtype)
    for bits in BITS:
        codes, scales, biases = mx.quantize(matrix, group_size=GROUP, bits=bits)
        stood_for = mx.dequantize(
            codes, scales.astype(mx.float32), biases.astype(mx.float32), group_size=GROUP, bits=bits
        )
        multiply = partial(product, QuantizedMatrix(codes, scales, biases, bits), x, residual)
        if not _is_right(multiply, stood_for, x, residual):
            return None
    return product


def _trial(length: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array, mx.array]:
    """A matrix that does not fill its last block, three rows and a residual."""
    keys = mx.random.split(mx.random.key(0), 3)
    shapes = ((COLUMNS + 5, length), (3, length), (3, COLUMNS + 5))
    matrix, x, residual = (
        mx.random.normal(shape, key=key).astype(dtype) for shape, key in zip(shapes, keys, strict=True)
    )
    return matrix, x, residual


def _is_right(multiply: Callable[[], mx.array], matrix: mx.array, x: mx.array, residual: mx.array) -> bool:
    wanted = x.astype(mx.float32) @ matrix.astype(mx.float32).T + residual.astype(mx.float32)
    try:
        apart = mx.abs(multiply().astype(mx.float32) - wanted).max().item()
    except RuntimeError as error:
        _log.warning("few rows are multiplied by MLX: the kernel for them does not run here: %s", error)
        return False
    # A right result is apart by what rounding takes, at most a tenth of one here, and a wrong one by some tens.
    if not isinstance(apart, float) or not apart < 1.0:
        _log.warning("few rows are multiplied by MLX: the kernel for them is off by %s here", apart)
        return False
    return True


@lru_cache(maxsize=256)
def sizes(rows: int, sum_length: int, columns: int, has_residual: bool) -> mx.array:
    """(4,) int32: rows, length of the sums, columns, and 1 with a residual."""
    return mx.array([rows, sum_length, columns, int(has_residual)], dtype=mx.int32)
