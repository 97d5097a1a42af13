"""Linear maps and embeddings, plain or quantized, fused or apart, multiplied where the device is fastest.

The networks ask `Weights` for what they need by name; only this module knows how a matrix is stored. On a GPU
matrices stay as published, quantized or not. On a Linux CPU they are dequantized and stored (in, out), and products
are made by numpy: MLX's wheel for that platform calls a reference BLAS, numpy's carries OpenBLAS, which is an order
of magnitude faster.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import mlx.core as mx
import numpy as np

from scribewire.engine.model.attention import HOST_ATTENTION, PLAIN_ATTENTION, AttentionForm
from scribewire.engine.model.config import TextConfig
from scribewire.engine.model.cuda.few_rows import (
    GROUP,
    FewRowsKernel,
    FewRowsProduct,
    FewRowsQuantizedKernel,
    QuantizedMatrix,
    suits_quantized,
    suits_rows,
    trusted,
    trusted_quantized,
)
from scribewire.engine.model.cuda.step_attention import StepAttention


@dataclass(frozen=True, slots=True)
class Placement:
    """Storage of tensors: compute type, quantized or not, products made by MLX or by numpy on the host.

    compiles: whether stretches of single steps, and what is done element by element, are compiled.
    attention: the form of attention.
    few_rows, few_rows_quantized: multiply a few rows with a plain and with a quantized matrix, where there are kernels
    of their own for that.
    step_attention: makes the one kernel of a step's attention for a shape of heads, where there is one.
    plans_by_shape: whether kernels are planned for every new shape, which takes longer than running them: then shapes
    are made few, at the price of padding.
    """

    dtype: mx.Dtype
    dequantizes: bool
    multiplies_on_host: bool
    compiles: bool = False
    attention: AttentionForm = PLAIN_ATTENTION
    few_rows: FewRowsProduct[mx.array] | None = None
    few_rows_quantized: FewRowsProduct[QuantizedMatrix] | None = None
    step_attention: Callable[[TextConfig], Callable[..., mx.array]] | None = None
    plans_by_shape: bool = False

    @classmethod
    def for_device(cls, device: mx.Device, dtype: mx.Dtype) -> Placement:
        """The placement that measures fastest on this kind of device (see the module's head)."""
        on_cpu = device.type == mx.DeviceType.cpu
        on_cuda = not on_cpu and mx.cuda.is_available()
        # macOS multiplies by Accelerate; numpy cannot multiply bfloat16 and is slow at float16.
        on_host = on_cpu and sys.platform == "linux" and dtype == mx.float32
        with mx.stream(device):
            few_rows = trusted(FewRowsKernel(), dtype) if on_cuda else None
            few_rows_quantized = trusted_quantized(FewRowsQuantizedKernel(), dtype) if on_cuda else None
        return cls(
            dtype=dtype,
            dequantizes=on_cpu,
            multiplies_on_host=on_host,
            compiles=not on_cpu,
            attention=HOST_ATTENTION if on_host else AttentionForm.for_device(device, dtype),
            few_rows=few_rows,
            few_rows_quantized=few_rows_quantized,
            step_attention=StepAttention if on_cuda else None,
            plans_by_shape=on_cuda,
        )

    def fused(self, function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        """A function of arrays that goes element by element, as one kernel for arrays of any size where that helps."""
        return mx.compile(function, shapeless=True) if self.compiles else function


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """A matrix in one of MLX's quantized forms.

    packed: (out, in * bits / 32) uint32. scales: (out, in / group_size). biases: like scales, None for the
    floating-point modes.
    """

    packed: mx.array
    scales: mx.array
    biases: mx.array | None
    bits: int
    group_size: int
    mode: str

    def scaled_in(self, dtype: mx.Dtype) -> QuantizedTensor:
        """The same matrix with affine scales and biases in that type; the 8-bit scales of other modes stay."""
        if self.biases is None:
            return self
        return replace(self, scales=self.scales.astype(dtype), biases=self.biases.astype(dtype))

    def rows(self, ids: mx.array) -> QuantizedTensor:
        """Some rows, (*ids.shape, in) once dequantized."""
        biases = None if self.biases is None else self.biases[ids]
        return replace(self, packed=self.packed[ids], scales=self.scales[ids], biases=biases)

    def dequantized(self, dtype: mx.Dtype) -> mx.array:
        """The dequantized matrix, (out, in), worked out in float32 and rounded once.

        In the 16 bits of its scales a value is off by as much as a step of 8 bits is wide: bias and scale times code
        nearly cancel. Values of the floating-point modes have so few bits that any type holds them.
        """
        wide = self.scaled_in(mx.float32)
        return mx.dequantize(
            wide.packed, wide.scales, wide.biases, group_size=wide.group_size, bits=wide.bits, mode=wide.mode
        ).astype(dtype)

    def is_like(self, other: QuantizedTensor) -> bool:
        """True when rows of both can be in one quantized matrix."""
        return (self.bits, self.group_size, self.mode, self.biases is None) == (
            other.bits,
            other.group_size,
            other.mode,
            other.biases is None,
        )


class Projection(Protocol):
    """x (..., in) -> (..., out)."""

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the map to the last axis."""
        ...

    def added_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the map of x, in one kernel where the device has one."""
        ...


class DenseProjection:
    """x @ matrix + bias, with matrix (in, out)."""

    def __init__(self, matrix: mx.array, bias: mx.array | None) -> None:
        self.matrix = matrix
        self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the map to the last axis."""
        if self.bias is None:
            return x @ self.matrix
        return mx.addmm(self.bias, x, self.matrix)

    def added_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the map of x. A single row is multiplied by a kernel that knows no adding."""
        if self.bias is not None or x.size == x.shape[-1]:
            return residual + self(x)
        return mx.addmm(residual, x, self.matrix)


class FewRowsProjection(DenseProjection):
    """The same, a few rows multiplied by a kernel of their own."""

    def __init__(self, matrix: mx.array, product: FewRowsProduct[mx.array]) -> None:
        """matrix: (out, in)."""
        super().__init__(matrix.T, None)
        # Bound here, not kept as a second array: both are the same memory, which is counted by arrays.
        self._product = partial(product, matrix)

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the map to the last axis."""
        return self._product(x, None) if suits_rows(x) else super().__call__(x)

    def added_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the map of x."""
        return self._product(x, residual) if suits_rows(x) else super().added_to(residual, x)


class HostProjection(DenseProjection):
    """The same, multiplied by numpy; float32 on the CPU only.

    Handing over to numpy evaluates the input, which ends MLX's laziness there. Even for one row that is worth it.
    """

    def __init__(self, matrix: mx.array, bias: mx.array | None) -> None:
        super().__init__(mx.contiguous(matrix), bias)

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the map to the last axis."""
        # Neither operand is copied: both are views of MLX's memory.
        rows = np.asarray(x).reshape(-1, x.shape[-1])
        product = mx.array(rows @ np.asarray(self.matrix)).reshape(*x.shape[:-1], -1)
        return product if self.bias is None else product + self.bias

    def added_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the map of x."""
        return residual + self(x)


class QuantizedProjection:
    """The same with a quantized matrix."""

    def __init__(self, matrix: QuantizedTensor, bias: mx.array | None) -> None:
        self.matrix = matrix
        self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the map to the last axis."""
        matrix = self.matrix
        y = mx.quantized_matmul(
            x,
            matrix.packed,
            matrix.scales,
            matrix.biases,
            transpose=True,
            group_size=matrix.group_size,
            bits=matrix.bits,
            mode=matrix.mode,
        )
        return y if self.bias is None else y + self.bias

    def added_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the map of x."""
        return residual + self(x)


class FewRowsQuantizedProjection(QuantizedProjection):
    """The same, a few rows multiplied by a kernel of their own."""

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


class ConcatenatedProjection:
    """Several maps of one input whose matrices cannot be fused; outputs side by side."""

    def __init__(self, parts: list[Projection]) -> None:
        self.parts = parts

    def __call__(self, x: mx.array) -> mx.array:
        """Apply every map and join the outputs on the last axis."""
        return mx.concatenate([part(x) for part in self.parts], axis=-1)

    def added_to(self, residual: mx.array, x: mx.array) -> mx.array:
        """residual + the map of x."""
        return residual + self(x)


class Embedding:
    """Rows by token id, and the same matrix as output head where embeddings are tied."""

    def __init__(self, table: mx.array | QuantizedTensor, placement: Placement) -> None:
        """table: in the compute type, or packed with its scales in it."""
        self._placement = placement
        self.table = table

    def __call__(self, ids: mx.array) -> mx.array:
        """ids (...) -> (..., hidden)."""
        if isinstance(self.table, QuantizedTensor):
            return self.table.rows(ids).dequantized(self._placement.dtype)
        return self.table[ids]

    def as_head(self) -> Projection:
        """hidden -> vocabulary logits with the same weights."""
        return _projection(self.table, None, self._placement)


class Weights:
    """A checkpoint's tensors under canonical names, handed out as the networks need them.

    The loader has already checked that every name exists with the right shape.
    """

    def __init__(
        self, tensors: Mapping[str, mx.array | QuantizedTensor], placement: Placement, prefix: str = ""
    ) -> None:
        self._tensors = tensors
        self._prefix = prefix
        self.placement = placement

    def scope(self, name: str) -> Weights:
        """The tensors below `name.`."""
        return Weights(self._tensors, self.placement, f"{self._prefix}{name}.")

    def has(self, name: str) -> bool:
        """True when the checkpoint holds this tensor."""
        return f"{self._prefix}{name}" in self._tensors

    def tensor(self, name: str) -> mx.array:
        """A float tensor in the compute type."""
        value = self._tensors[f"{self._prefix}{name}"]
        assert isinstance(value, mx.array)  # the loader takes quantized matrices only where matrices are
        return value.astype(self.placement.dtype)

    def projection(self, *names: str) -> Projection:
        """One linear map, or several of the same input fused into one, outputs in the given order."""
        matrices = [self._matrix(name) for name in names]
        biases = [self.tensor(f"{name}.bias") for name in names if self.has(f"{name}.bias")]
        bias = mx.concatenate(biases) if biases else None
        fused = _fused(matrices)
        if fused is not None:
            return _projection(fused, bias, self.placement)
        parts: list[Projection] = [self.projection(name) for name in names]
        return ConcatenatedProjection(parts)

    def embedding(self, name: str) -> Embedding:
        """An embedding table."""
        return Embedding(self._matrix(name), self.placement)

    def _matrix(self, name: str) -> mx.array | QuantizedTensor:
        """A module's matrix in the compute type; a quantized one stays packed unless the placement says otherwise."""
        value = self._tensors[f"{self._prefix}{name}.weight"]
        dtype = self.placement.dtype
        if isinstance(value, mx.array):
            return value.astype(dtype)
        return value.dequantized(dtype) if self.placement.dequantizes else value.scaled_in(dtype)


def _fused(matrices: list[mx.array | QuantizedTensor]) -> mx.array | QuantizedTensor | None:
    """All matrices as one (sum of out, in), or None where their storage differs."""
    if len(matrices) == 1:
        return matrices[0]
    dense = [m for m in matrices if isinstance(m, mx.array)]
    if len(dense) == len(matrices):
        return mx.concatenate(dense, axis=0)
    packed = [m for m in matrices if isinstance(m, QuantizedTensor)]
    first = packed[0]
    if len(packed) != len(matrices) or not all(first.is_like(m) for m in packed):
        return None
    return QuantizedTensor(
        packed=mx.concatenate([m.packed for m in packed], axis=0),
        scales=mx.concatenate([m.scales for m in packed], axis=0),
        biases=None
        if first.biases is None
        else mx.concatenate([m.biases for m in packed if m.biases is not None], axis=0),
        bits=first.bits,
        group_size=first.group_size,
        mode=first.mode,
    )


def _projection(
    matrix: mx.array | QuantizedTensor, bias: mx.array | None, placement: Placement
) -> Projection:
    if isinstance(matrix, QuantizedTensor):
        product = placement.few_rows_quantized
        kind = (matrix.scales, matrix.biases, matrix.bits, matrix.group_size, matrix.mode)
        if product is not None and bias is None and suits_quantized(*kind):
            return FewRowsQuantizedProjection(matrix, product)
        return QuantizedProjection(matrix, bias)
    if placement.few_rows is not None and bias is None:
        return FewRowsProjection(matrix, placement.few_rows)
    transposed = matrix.T
    if placement.multiplies_on_host:
        return HostProjection(transposed, bias)
    return DenseProjection(transposed, bias)
