"""Everything that differs by device, made once when a model is loaded, and handed down.

Nothing else asks which device it is. Types, kernels, rows, prefills, memory and warm-up of each of the three kinds
stand together here, so tuning Metal is `_metal` and its tables. Networks see the `Placement`, the scheduler the numbers
in `BatchLimits`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import mlx.core as mx
from threadpoolctl import ThreadpoolController

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.scheduler import LARGEST_OF_ANY_SIZE
from scribewire.engine.model.attention import PLAIN_ATTENTION, AttentionForm
from scribewire.engine.model.cuda.few_rows import (
    FewRowsKernel,
    FewRowsQuantizedKernel,
    trusted,
    trusted_quantized,
)
from scribewire.engine.model.cuda.projection import dense_by, quantized_by
from scribewire.engine.model.cuda.step_attention import step_attention
from scribewire.engine.model.host.attention import HOST_ATTENTION
from scribewire.engine.model.host.projection import HostConvolution, HostProjection
from scribewire.engine.model.projection import DenseProjection, Placement, QuantizedProjection
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import OptionInvalid
from scribewire.engine.resident.memory import (
    GIB,
    MIB,
    DeviceKind,
    MemoryLimits,
    MemoryShare,
    kv_token_budget,
)

DEVICE_VARIABLE = "SCRIBEWIRE_DEVICE"
"""The server's setting of that name holds for commands and tests too: a virtual Mac shows a GPU that cannot compute."""

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@dataclass(frozen=True, slots=True)
class WarmUpShapes:
    """Prompts and steps that are computed once before the first request.

    clip_seconds: lengths of clips, group_sizes: how many of them are prefilled together.
    arriving: rows that join a batch, group by group. left_behind: rows that remain when others leave it.
    """

    clip_seconds: tuple[float, ...]
    group_sizes: tuple[int, ...]
    arriving: tuple[int, ...]
    left_behind: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A device as the engine uses it.

    limits: of the running batch, but for the tokens, which depend on the model. memory: what the engine takes of it.
    queues_work: what is computed is handed over and not waited for. blas: numpy's, where numpy multiplies.
    warm_up: None where new shapes cost nothing.
    """

    kind: DeviceKind
    device: mx.Device
    placement: Placement
    limits: BatchLimits
    memory: MemoryShare
    queues_work: bool = True
    blas: ThreadpoolController | None = None
    warm_up: WarmUpShapes | None = None

    @property
    def device_name(self) -> str:
        """`cpu` or `gpu`."""
        return "cpu" if self.device.type == mx.DeviceType.cpu else "gpu"

    @property
    def dtype(self) -> mx.Dtype:
        """Type of the computation."""
        return self.placement.dtype

    @property
    def dtype_name(self) -> str:
        """`float32`, `float16` or `bfloat16`."""
        return next(name for name, known in _DTYPES.items() if known == self.dtype)

    def batch_limits(
        self, memory: MemoryLimits, *, max_rows: int, held_bytes: int, bytes_per_token: int
    ) -> BatchLimits:
        """max_rows: 0 leaves the device's. held_bytes: weights of all models. bytes_per_token: of keys and values.

        raises: OptionInvalid when the weights and one sequence do not fit into the memory
        """
        return replace(
            self.limits,
            max_rows=max_rows or self.limits.max_rows,
            token_budget=kv_token_budget(memory, held_bytes, bytes_per_token),
        )

    def on_one_thread(self) -> AbstractContextManager[object]:
        """Context in which numpy's products use one thread; the old number returns with its end.

        OpenBLAS spins its threads together for every product; for the small ones here that gains nothing on idle cores
        and costs many times the product on busy ones.
        """
        if self.blas is None:
            return nullcontext()
        limited: AbstractContextManager[object] = self.blas.limit(limits=1, user_api="blas")
        return limited


def choose_profile(config: EngineConfig) -> DeviceProfile:
    """The profile of the device and type that a configuration asks for; belongs to the thread that computes.

    raises: OptionInvalid for a GPU that is not there and for unknown words.
    """
    device = choose_device(config.device)
    if device.type == mx.DeviceType.cpu:
        kind: DeviceKind = "cpu"
    else:
        kind = "cuda" if mx.cuda.is_available() else "metal"
    return profile_of(kind, device, choose_dtype(config.dtype, kind))


def choose_device(wanted: str) -> mx.Device:
    """`auto` is what SCRIBEWIRE_DEVICE names, or else the GPU where MLX has one.

    raises: OptionInvalid for a GPU that is not there or an unknown word.
    """
    if wanted == "auto":
        wanted = os.environ.get(DEVICE_VARIABLE) or "auto"
    if wanted not in ("auto", "cpu", "gpu"):
        raise OptionInvalid(f"device must be auto, cpu or gpu, not {wanted!r}", parameter="device")
    has_gpu = mx.is_available(mx.gpu)
    if wanted == "gpu" and not has_gpu:
        raise OptionInvalid("MLX sees no GPU on this machine; use --device cpu", parameter="device")
    return mx.Device(mx.gpu if has_gpu and wanted != "cpu" else mx.cpu)


def choose_dtype(wanted: str, kind: DeviceKind) -> mx.Dtype:
    """`auto` is float32 on the CPU, where 16-bit products are emulated, and the published bfloat16 on a GPU.

    raises: OptionInvalid for an unknown word.
    """
    if wanted == "auto":
        return mx.float32 if kind == "cpu" else mx.bfloat16
    if wanted not in _DTYPES:
        raise OptionInvalid(f"dtype must be auto, {', '.join(_DTYPES)}, not {wanted!r}", parameter="dtype")
    return _DTYPES[wanted]


def profile_of(kind: DeviceKind, device: mx.Device, dtype: mx.Dtype) -> DeviceProfile:
    """The profile of this kind of device, on any device: a CPU computes in Metal's form, too."""
    return _PROFILES[kind](device, dtype)


# ---- CPU -----------------------------------------------------------------------------------------------------

CPU_MEMORY = MemoryShare(percent=50, cache_bytes=128 * MIB)
"""The front, the decoders and the page cache live in the other half; allocating is cheap, so the cache is small."""


def _cpu(device: mx.Device, dtype: mx.Dtype) -> DeviceProfile:
    # macOS multiplies by Accelerate; numpy cannot multiply bfloat16 and is slow at float16.
    on_host = sys.platform == "linux" and dtype == mx.float32
    placement = Placement(dtype, dequantizes=True)
    if on_host:
        placement = replace(
            placement, attention=HOST_ATTENTION, dense=HostProjection, convolution=HostConvolution
        )
    return DeviceProfile(
        kind="cpu",
        device=device,
        placement=placement,
        limits=BatchLimits(max_rows=8, token_budget=0, prefill_tokens=512, align_tokens=512),
        memory=CPU_MEMORY,
        queues_work=False,
        blas=ThreadpoolController() if on_host else None,
    )


# ---- Metal ---------------------------------------------------------------------------------------------------


METAL_ATTENTION = AttentionForm(spreads_mask=True)

METAL_MEMORY = MemoryShare(percent=75, small_percent=60, cache_bytes=2 * GIB, is_wired=True)
"""Of the recommended working set, itself about 2/3 to 3/4 of a Mac's memory: half of the memory or less, since its user
works with it too. 8 GiB gives 3.2, 16 gives 8."""

_METAL_SLOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_METAL_SLOTS_BY_GENERATION = {
    # M1 and M2 multiply affine 4 and 8 bits row by row up to 5, 9 or 13 rows, by the size of the matrix, and read it
    # again for each; beyond that 32 rows are one tile. So 16 rows cost no more than 12.
    13: (1, 2, 3, 4, 6, 8, 16, 24, 32),
    14: (1, 2, 3, 4, 6, 8, 16, 24, 32),
}
"""Numbers of rows that a step computes, by the GPU's generation (M3 is 15), the last one the most. Read from MLX 0.32's
sources and measured on no Mac: `scribewire bench --only step --rows 8 12 16` says which number is no slower than a
smaller one, which is then not worth a place."""


def metal_slots(architecture: str) -> tuple[int, ...]:
    """The row of the table for MLX's name of a GPU, such as `applegpu_g13s`."""
    named = re.match(r"applegpu_g(\d+)", architecture)
    return _METAL_SLOTS_BY_GENERATION.get(int(named[1]), _METAL_SLOTS) if named else _METAL_SLOTS


def _metal(device: mx.Device, dtype: mx.Dtype) -> DeviceProfile:
    slots = metal_slots(str(mx.device_info(device).get("architecture", "")))
    return DeviceProfile(
        kind="metal",
        device=device,
        placement=Placement(
            dtype, compiles=True, attention=METAL_ATTENTION, turns_apart=True, slot_counts=slots
        ),
        limits=BatchLimits(max_rows=slots[-1], token_budget=0, prefill_tokens=2048, align_tokens=2048),
        memory=METAL_MEMORY,
    )


# ---- CUDA ----------------------------------------------------------------------------------------------------

_CUDA_SETTINGS = {"MLX_CUDA_SDPA_CACHE_SIZE": "512"}
"""Variables that MLX reads from the environment when first needed; one that is already set is kept. MLX keeps sixteen
plans of its attention kernels, which take 60 to 100 ms each to make, and a running batch has more shapes than that."""

PLANNED_ATTENTION = AttentionForm(
    adds_mask=True, groups_queries=True, column_step=64, width_step=64, masks_what_begins_later=True
)

_CUDA_LIMITS = BatchLimits(
    max_rows=64,
    token_budget=0,
    prefill_tokens=8192,
    # It takes eight thousand tokens of an alignment, which the running batch waits for, in the time of some steps.
    align_tokens=8192,
    # Bound by launches, so that a prefill of one costs nearly what a prefill of eight does; for the same reason the
    # running batch takes more steps between two prefills: more arrive for the next one.
    rows_together=8,
    steps_per_row=2.0,
    most_steps=16,
    # Attention is planned for every new shape, which takes longer than a prefill of some rows less.
    group_sizes=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
)

CUDA_MEMORY = MemoryShare(percent=85, percent_of_free=95, cache_bytes=4 * GIB)
"""Beyond it, managed memory moves to the host over the bus, which is slower than waiting."""

CUDA_WARM_UP = WarmUpShapes(
    # One for each width of a prompt up to a whole chunk's: widths come in steps of 64 tokens, 13 of them a second.
    clip_seconds=(1.0, 4.0, 9.0, 14.0, 19.0, 24.0, 28.0),
    group_sizes=tuple(range(1, LARGEST_OF_ANY_SIZE + 1)),
    arriving=(8, 1, 7, 16, 32),
    left_behind=(40, 17, 8, 5, 4, 2, 1),
)


def _cuda(device: mx.Device, dtype: mx.Dtype) -> DeviceProfile:
    for name, value in _CUDA_SETTINGS.items():
        os.environ.setdefault(name, value)
    with mx.stream(device):
        few_rows = trusted(FewRowsKernel(), dtype)
        few_rows_quantized = trusted_quantized(FewRowsQuantizedKernel(), dtype)
    placement = Placement(
        dtype,
        compiles=True,
        attention=PLANNED_ATTENTION if dtype in (mx.float16, mx.bfloat16) else PLAIN_ATTENTION,
        dense=DenseProjection if few_rows is None else dense_by(few_rows),
        quantized=QuantizedProjection if few_rows_quantized is None else quantized_by(few_rows_quantized),
        step_attention=step_attention,
        plans_by_shape=True,
    )
    return DeviceProfile("cuda", device, placement, _CUDA_LIMITS, CUDA_MEMORY, warm_up=CUDA_WARM_UP)


_PROFILES: dict[DeviceKind, Callable[[mx.Device, mx.Dtype], DeviceProfile]] = {
    "cpu": _cpu,
    "metal": _metal,
    "cuda": _cuda,
}
