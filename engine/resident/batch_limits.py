"""Limits of the running batch and of one pass, by the kind of device and the memory that is left."""

from __future__ import annotations

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.resident.memory import DeviceKind, MemoryLimits, kv_token_budget

_ROWS: dict[DeviceKind, int] = {"cpu": 8, "metal": 32, "cuda": 64}
_PREFILL_TOKENS: dict[DeviceKind, int] = {"cpu": 512, "metal": 2048, "cuda": 8192}
_ROWS_TOGETHER: dict[DeviceKind, int] = {"cpu": 1, "metal": 1, "cuda": 8}
"""Rows of long recordings that are prefilled together where the batch is full. A CUDA GPU is bound by launches, so a
prefill of one costs nearly what a prefill of eight does."""
_STEPS_PER_ROW: dict[DeviceKind, float] = {"cpu": 0.125, "metal": 0.125, "cuda": 2.0}
_MOST_STEPS: dict[DeviceKind, int] = {"cpu": 8, "metal": 8, "cuda": 16}
"""For the same reason the running batch takes more steps between two prefills there: more arrive for the next one."""
_ALIGN_TOKENS: dict[DeviceKind, int] = {"cpu": 512, "metal": 2048, "cuda": 8192}
"""Of one alignment, which the running batch waits for. A CUDA GPU takes eight thousand in the time of some steps and is
bound by launches below; elsewhere arithmetic is the bound, and more would only be a longer wait."""


def batch_limits(
    kind: DeviceKind, memory: MemoryLimits, *, max_rows: int, held_bytes: int, bytes_per_token: int
) -> BatchLimits:
    """max_rows: 0 chooses by the device. held_bytes: weights of all models. bytes_per_token: of keys and values.

    raises: OptionInvalid when the weights and one sequence do not fit into the memory
    """
    return BatchLimits(
        max_rows=max_rows or _ROWS[kind],
        token_budget=kv_token_budget(memory, held_bytes, bytes_per_token),
        prefill_tokens=_PREFILL_TOKENS[kind],
        align_tokens=_ALIGN_TOKENS[kind],
        rows_together=_ROWS_TOGETHER[kind],
        steps_per_row=_STEPS_PER_ROW[kind],
        most_steps=_MOST_STEPS[kind],
        # Attention there is planned for every new shape, which takes longer than a prefill of some rows less.
        has_few_sizes=kind == "cuda",
    )
