"""This machine's measured limits, memory bandwidth and matrix products, and the needs of a decode step.

Shares of these limits show how much of the machine a step uses; the limits are what MLX reaches here on plain
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

from scribewire.engine.checkpoint.load import Checkpoint
from scribewire.engine.model.projection import Placement, QuantizedTensor

_REPEATS = 7


def measured_bandwidth(array_bytes: int, *, on_host_too: bool) -> dict[str, Any]:
    """Bytes per second of a large copy (read and written) and of a large sum (read), and the best of all.

    on_host_too: also numpy's, where the engine multiplies by numpy.
    """
    array = mx.zeros((array_bytes // 4,), dtype=mx.float32)
    mx.eval(array)
    rates = {
        "copy_bytes_per_second": 2 * array.nbytes / _median_seconds(lambda: mx.eval(array + 1.0)),
        "sum_bytes_per_second": array.nbytes / _median_seconds(lambda: mx.eval(mx.sum(array))),
    }
    if on_host_too:
        source = np.array(array)
        target = np.empty_like(source)
        on_host = _median_seconds(lambda: np.copyto(target, source))
        rates["numpy_copy_bytes_per_second"] = 2 * source.nbytes / on_host
    return {"array_bytes": array.nbytes} | _with_best(rates, "bytes_per_second")


def measured_products(size: int, dtype: mx.Dtype, *, on_host_too: bool) -> dict[str, Any]:
    """Floating-point operations per second of a square matrix product in the compute type; on_host_too as above."""
    left, right = (mx.random.normal((size, size), key=mx.random.key(seed)).astype(dtype) for seed in (0, 1))
    mx.eval(left, right)
    operations = 2.0 * size**3
    rates = {"mlx_operations_per_second": operations / _median_seconds(lambda: mx.eval(left @ right))}
    if on_host_too:
        a, b = np.array(left), np.array(right)
        rates["numpy_operations_per_second"] = operations / _median_seconds(lambda: a @ b)
    return {"size": size} | _with_best(rates, "operations_per_second")


@dataclass(frozen=True, slots=True)
class StepNeeds:
    """Least work of one decode step.

    weight_bytes: decoder layers and output head as they lie in memory, read once per step for any number of rows.
    product_operations_per_row: of all matrix products of one row, attention left out.
    kv_bytes_per_token: keys and values of one token of one row.
    """

    weight_bytes: int
    product_operations_per_row: int
    kv_bytes_per_token: int
    attention_operations_per_token: int

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, placement: Placement) -> StepNeeds:
        """Count the checkpoint's tensors as this device keeps them."""
        text = checkpoint.config.text
        head = "lm_head.weight" if "lm_head.weight" in checkpoint.tensors else "model.embed_tokens.weight"
        weight_bytes = operations = 0
        for name, tensor in checkpoint.tensors.items():
            if name.startswith("model.layers.") or name in (head, "model.norm.weight"):
                weight_bytes += _resident_bytes(tensor, placement)
                is_vector = isinstance(tensor, mx.array) and tensor.ndim != 2
                operations += 0 if is_vector else 2 * _value_count(tensor)
        kv_values = 2 * text.layer_count * text.kv_head_count * text.head_dim
        attention = 4 * text.layer_count * text.head_count * text.head_dim
        return cls(weight_bytes, operations, kv_values * placement.dtype.size, attention)

    def read_bytes(self, tokens_held: int) -> int:
        """Bytes read by one step: all weights once, every row's keys and values. tokens_held: of all rows together."""
        return self.weight_bytes + self.kv_bytes_per_token * tokens_held

    def operations(self, rows: int, tokens_held: int) -> int:
        """Operations of one step, attention over what is held included."""
        return self.product_operations_per_row * rows + self.attention_operations_per_token * tokens_held


def _value_count(tensor: mx.array | QuantizedTensor) -> int:
    """Numbers in a tensor as it was before packing."""
    return tensor.packed.size * 32 // tensor.bits if isinstance(tensor, QuantizedTensor) else tensor.size


def _resident_bytes(tensor: mx.array | QuantizedTensor, placement: Placement) -> int:
    if isinstance(tensor, mx.array) or placement.dequantizes:
        return _value_count(tensor) * placement.dtype.size
    float_values = tensor.scales.size + (0 if tensor.biases is None else tensor.biases.size)
    return tensor.packed.nbytes + float_values * tensor.scales.dtype.size


def _with_best(rates: dict[str, float], name: str) -> dict[str, int]:
    rounded = {one: round(rate) for one, rate in rates.items()}
    return rounded | {name: max(rounded.values())}


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    spent = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)
