"""Projections whose products of a few rows go to our own kernels, and all others to MLX."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import mlx.core as mx

from scribewire.engine.model.cuda.few_rows import (
    GROUP,
    FewRowsProduct,
    QuantizedMatrix,
    suits_quantized,
    suits_rows,
)
from scribewire.engine.model.projection import (
    DenseProjection,
    Projection,
    QuantizedProjection,
    QuantizedTensor,
)


def dense_by(product: FewRowsProduct[mx.array]) -> Callable[[mx.array, mx.array | None], Projection]:
    """`Placement.dense` with this product for a few rows, where there is no bias."""

    def make(matrix: mx.array, bias: mx.array | None) -> Projection:
        return FewRowsProjection(matrix, product) if bias is None else DenseProjection(matrix, bias)

    return make


def quantized_by(
    product: FewRowsProduct[QuantizedMatrix],
) -> Callable[[QuantizedTensor, mx.array | None], Projection]:
    """`Placement.quantized` with this product for a few rows, for the matrices that it accepts."""

    def make(matrix: QuantizedTensor, bias: mx.array | None) -> Projection:
        kind = (matrix.scales, matrix.biases, matrix.bits, matrix.group_size, matrix.mode)
        if bias is None and suits_quantized(*kind):
            return FewRowsQuantizedProjection(matrix, product)
        return QuantizedProjection(matrix, bias)

    return make


class FewRowsProjection(DenseProjection):
    """A product with a plain matrix, a few rows multiplied by a kernel of their own."""

    def __init__(self, matrix: mx.array, product: FewRowsProduct[mx.array]) -> None:
        """matrix: (out, in)."""
        super().__init__(matrix, None)
        # Bound here, not kept as a second array: both are the same memory, which is counted by arrays.
        self._product = partial(product, matrix)

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the map to the last axis."""
        return self._product(x, None) if suits_rows(x) else super().__call__(x)

    def added_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the map of x."""
        return self._product(x, residual) if suits_rows(x) else super().added_to(residual, x)


class FewRowsQuantizedProjection(QuantizedProjection):
    """The same with a quantized matrix."""

    def __init__(self, matrix: QuantizedTensor, product: FewRowsProduct[QuantizedMatrix]) -> None:
        super().__init__(matrix, None)
        assert matrix.biases is not None
        whole = QuantizedMatrix(matrix.packed, matrix.scales, matrix.biases, matrix.bits)
        self._product = partial(product, whole)

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the map to the last axis."""
        return self._product(x, None) if self._suits(x) else super().__call__(x)

    def added_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the map of x."""
        return self._product(x, residual) if self._suits(x) else super().added_to(residual, x)

    def _suits(self, x: mx.array) -> bool:
        return suits_rows(x, GROUP) and x.dtype == self.matrix.scales.dtype
