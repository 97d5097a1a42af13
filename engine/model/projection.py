"""Linear maps and embeddings, plain or quantized, fused or apart.

The networks ask `Weights` for what they need by name; only this module knows how a matrix is stored. What multiplies it
is the device's choice (`Placement`), made in a device profile (`scribewire.engine.resident.profile`) and not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import mlx.core as mx

from scribewire.engine.model.attention import PLAIN_ATTENTION, AttentionForm
from scribewire.engine.model.config import TextConfig
from scribewire.engine.model.step_attention import StepAttention


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

    def unpacked(self, dtype: mx.Dtype) -> mx.array:
        """The same on the CPU, where codes of 8 bits are read as bytes in a quarter of the time."""
        if self.bits != 8 or self.biases is None:
            return self.dequantized(dtype)
        wide = self.scaled_in(mx.float32)
        assert wide.biases is not None
        codes = self.packed.view(mx.uint8).reshape(*self.scales.shape, self.group_size)
        values = codes.astype(mx.float32) * wide.scales[..., None] + wide.biases[..., None]
        return values.flatten(-2).astype(dtype)

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
    """x @ matrix + bias."""

    def __init__(self, matrix: mx.array, bias: mx.array | None) -> None:
        """matrix: (out, in), kept as (in, out)."""
        self.matrix = matrix.T
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


@dataclass(frozen=True, slots=True)
class Placement:
    """What the networks are told of their device: how tensors are kept and what computes with them.

    dtype: of the computation. dequantizes: matrices are dequantized when they are loaded.
    compiles: whether stretches of single steps, and what is done element by element, are compiled.
    attention: the form of attention.
    dense, quantized: make the product with a plain matrix, (out, in), and with a quantized one, from it and its bias.
    convolution: makes the encoder's convolution from kernel and bias (see `StridedConvolution`), where MLX's is slow.
    step_attention: makes the one kernel of a step's attention for a shape of heads, where there is one.
    turns_apart: whether a step of several rows rotates queries and keys by themselves: a part of an array that holds
    both would be copied by rotation and again by attention.
    plans_by_shape: whether kernels are planned for every new shape, which takes longer than running them: then shapes
    are made few, at the price of padding.
    slot_counts: see `KVCache`.
    """

    dtype: mx.Dtype
    dequantizes: bool = False
    compiles: bool = False
    attention: AttentionForm = PLAIN_ATTENTION
    dense: Callable[[mx.array, mx.array | None], Projection] = DenseProjection
    quantized: Callable[[QuantizedTensor, mx.array | None], Projection] = QuantizedProjection
    convolution: Callable[[mx.array, mx.array], Callable[[mx.array], mx.array]] | None = None
    step_attention: Callable[[TextConfig], StepAttention | None] | None = None
    turns_apart: bool = False
    plans_by_shape: bool = False
    slot_counts: tuple[int, ...] = ()

    def fused(self, function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        """A function of arrays that goes element by element, as one kernel for arrays of any size where that helps."""
        return mx.compile(function, shapeless=True) if self.compiles else function


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
        self._table: mx.array | QuantizedTensor | DenseProjection = table

    def __call__(self, ids: mx.array) -> mx.array:
        """ids (...) -> (..., hidden)."""
        table = self._table
        if isinstance(table, QuantizedTensor):
            return table.rows(ids).dequantized(self._placement.dtype)
        return (table.matrix.T if isinstance(table, DenseProjection) else table)[ids]

    def as_head(self) -> Projection:
        """hidden -> vocabulary logits with the same weights, of which only the head's form is kept.

        On the host that is (hidden, vocabulary): the few ids of a prompt and the one of a step are read by columns.
        """
        assert not isinstance(self._table, DenseProjection), "a head has been made"
        head = _projection(self._table, None, self._placement)
        if isinstance(head, DenseProjection):
            self._table = head
        return head


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
        return value.unpacked(dtype) if self.placement.dequantizes else value.scaled_in(dtype)


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
        return placement.quantized(matrix, bias)
    return placement.dense(matrix, bias)
