"""What this machine can do at best, measured: memory bandwidth and matrix products; and what a decode step needs.

Shares of these limits say how much of the machine a step uses; the limits are what MLX reaches here on plain
operations, not what a data sheet promises.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from engine.checkpoint.load import Checkpoint
from engine.model.config import TextConfig
from engine.model.projection import Placement, QuantizedTensor

_REPEATS = 7


def measured_bandwidth(array_bytes: int, *, on_host_too: bool) -> dict[str, Any]:
    """Bytes per second of a large copy (read and written) and of a large sum (read), and the best of all.

    on_host_too: also numpy's, where the engine multiplies by numpy.
    """
    array = mx.zeros((array_bytes // 4,), dtype=mx.float32)
    mx.eval(array)
    copied = 2 * array.nbytes / _median_seconds(lambda: mx.eval(array + 1.0))
    summed = array.nbytes / _median_seconds(lambda: mx.eval(mx.sum(array)))
    found: dict[str, Any] = {
        "array_bytes": array.nbytes,
        "copy_bytes_per_second": round(copied),
        "sum_bytes_per_second": round(summed),
    }
    rates = [copied, summed]
    if on_host_too:
        source = np.array(array)
        target = np.empty_like(source)
        on_host = 2 * source.nbytes / _median_seconds(lambda: np.copyto(target, source))
        found["numpy_copy_bytes_per_second"] = round(on_host)
        rates.append(on_host)
    return found | {"bytes_per_second": round(max(rates))}


def measured_products(size: int, dtype: mx.Dtype, *, on_host_too: bool) -> dict[str, Any]:
    """Floating-point operations per second of a square matrix product in the compute type.

    on_host_too: also numpy's, where the engine multiplies by numpy; the better of both counts.
    """
    left, right = (mx.random.normal((size, size), key=mx.random.key(seed)).astype(dtype) for seed in (0, 1))
    mx.eval(left, right)
    operations = 2.0 * size**3
    found: dict[str, Any] = {"size": size}
    found["mlx_operations_per_second"] = round(operations / _median_seconds(lambda: mx.eval(left @ right)))
    rates = [found["mlx_operations_per_second"]]
    if on_host_too:
        a, b = np.array(left), np.array(right)
        found["numpy_operations_per_second"] = round(operations / _median_seconds(lambda: a @ b))
        rates.append(found["numpy_operations_per_second"])
    return found | {"operations_per_second": max(rates)}


@dataclass(frozen=True, slots=True)
class StepNeeds:
    """What one decode step must read and compute at least.

    weight_bytes: decoder layers and output head as they lie in memory, read once per step whatever the rows.
    product_operations_per_row: of all matrix products of one row, attention left out.
    kv_bytes_per_token: keys and values of one token of one row.
    """

    weight_bytes: int
    product_operations_per_row: int
    kv_bytes_per_token: int
    attention_operations_per_token: int

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, placement: Placement) -> StepNeeds:
        """Counted from the checkpoint's tensors as this device keeps them."""
        text = checkpoint.config.text
        head = "lm_head.weight" if "lm_head.weight" in checkpoint.tensors else "model.embed_tokens.weight"
        weight_bytes = operations = 0
        for name, tensor in checkpoint.tensors.items():
            if not name.startswith("model.layers.") and name not in (head, "model.norm.weight"):
                continue
            rows, columns = _plain_shape(tensor)
            weight_bytes += _resident_bytes(tensor, placement)
            operations += 2 * rows * columns if columns else 0
        return cls(
            weight_bytes=weight_bytes,
            product_operations_per_row=operations,
            kv_bytes_per_token=_kv_values_per_token(text) * placement.dtype.size,
            attention_operations_per_token=4 * text.layer_count * text.head_count * text.head_dim,
        )

    def read_bytes(self, tokens_held: int) -> int:
        """Of one step: all weights once, and every row's keys and values. tokens_held: of all rows together."""
        return self.weight_bytes + self.kv_bytes_per_token * tokens_held

    def operations(self, rows: int, tokens_held: int) -> int:
        """Of one step, attention over what is held included."""
        return self.product_operations_per_row * rows + self.attention_operations_per_token * tokens_held


def _kv_values_per_token(text: TextConfig) -> int:
    return 2 * text.layer_count * text.kv_head_count * text.head_dim


def _plain_shape(tensor: mx.array | QuantizedTensor) -> tuple[int, int]:
    """(rows, columns) of a matrix as it was before packing; columns are 0 for a vector."""
    if isinstance(tensor, QuantizedTensor):
        return tensor.packed.shape[0], tensor.packed.shape[1] * 32 // tensor.bits
    return (tensor.shape[0], tensor.shape[1]) if tensor.ndim == 2 else (tensor.shape[0], 0)


def _resident_bytes(tensor: mx.array | QuantizedTensor, placement: Placement) -> int:
    rows, columns = _plain_shape(tensor)
    if isinstance(tensor, mx.array) or placement.dequantizes:
        return rows * max(columns, 1) * placement.dtype.size
    float_values = tensor.scales.size + (0 if tensor.biases is None else tensor.biases.size)
    return tensor.packed.nbytes + float_values * tensor.scales.dtype.size


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    spent = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)
