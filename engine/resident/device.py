"""MLX's device and compute type: thin, because only this differs per machine."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext

import mlx.core as mx
from threadpoolctl import ThreadpoolController

from scribewire.engine.protocol.errors import OptionInvalid

_CUDA_SETTINGS = {"MLX_CUDA_SDPA_CACHE_SIZE": "512"}
"""Variables that MLX reads from the environment when first needed; one that is already set is kept. MLX keeps sixteen
plans of its attention kernels, which take 60 to 100 ms each to make, and a running batch has more shapes than that."""

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def choose_device(wanted: str) -> mx.Device:
    """`auto` is the GPU where MLX has one.

    raises: OptionInvalid for a GPU that is not there or an unknown word.
    """
    if wanted not in ("auto", "cpu", "gpu"):
        raise OptionInvalid(f"device must be auto, cpu or gpu, not {wanted!r}", parameter="device")
    has_gpu = mx.is_available(mx.gpu)
    if wanted == "gpu" and not has_gpu:
        raise OptionInvalid("MLX sees no GPU on this machine; use --device cpu", parameter="device")
    if not has_gpu or wanted == "cpu":
        return mx.Device(mx.cpu)
    if mx.cuda.is_available():
        for name, value in _CUDA_SETTINGS.items():
            os.environ.setdefault(name, value)
    return mx.Device(mx.gpu)


def choose_dtype(wanted: str, device: mx.Device) -> mx.Dtype:
    """`auto` is float32 on the CPU, where 16-bit products are emulated, and the published bfloat16 on a GPU.

    raises: OptionInvalid for an unknown word.
    """
    if wanted == "auto":
        return mx.float32 if device.type == mx.DeviceType.cpu else mx.bfloat16
    if wanted not in _DTYPES:
        raise OptionInvalid(f"dtype must be auto, {', '.join(_DTYPES)}, not {wanted!r}", parameter="dtype")
    return _DTYPES[wanted]


def device_name(device: mx.Device) -> str:
    """`cpu` or `gpu`."""
    return "cpu" if device.type == mx.DeviceType.cpu else "gpu"


def dtype_name(dtype: mx.Dtype) -> str:
    """`float32`, `float16` or `bfloat16`."""
    return next(name for name, known in _DTYPES.items() if known == dtype)


class HostProducts:
    """numpy's share of the work on a Linux CPU, held to one thread while the engine computes.

    OpenBLAS spins its threads together for every product; for the small ones here that gains nothing on idle cores and
    costs many times the product on busy ones.
    """

    def __init__(self, device: mx.Device) -> None:
        is_used = device.type == mx.DeviceType.cpu and sys.platform == "linux"
        self._controller = ThreadpoolController() if is_used else None

    def on_one_thread(self) -> AbstractContextManager[object]:
        """Context in which this process's products use one thread; the old number returns with its end."""
        if self._controller is None:
            return nullcontext()
        limited: AbstractContextManager[object] = self._controller.limit(limits=1, user_api="blas")
        return limited
