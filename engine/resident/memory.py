"""The engine's memory limits, and the part of them that is left for keys and values.

The choice is made of plain numbers (`Machine` -> `MemoryLimits` -> a budget of tokens); only `read_machine`,
`apply_limits`, `memory_use` and `give_back_free_buffers` touch MLX and the operating system.

MLX treats its memory limit as a guideline: near it, it frees its cache and waits for work in flight, but allocates all
the same. What really keeps the engine within its limit is the scheduler, which admits no more tokens than
`kv_token_budget`. What MLX 0.32.4 offers where: all three limits with Metal; no wired limit with CUDA and on the
CPU, where setting one does nothing. The Metal side was written from MLX's documentation and source and runs in tests
only through a stand-in; the CPU side runs as it is.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import mlx.core as mx

from scribewire.engine.protocol.errors import OptionInvalid

_log = logging.getLogger(__name__)

MIB = 1 << 20
GIB = 1 << 30

DeviceKind = Literal["metal", "cuda", "cpu"]

_LEAST_TOTAL_BYTES = 128 * MIB
_LEAST_CACHE_BYTES = 32 * MIB
_SMALL_BYTES = 16 * GIB
_LEAST_TOKENS = 1280
"""A 30 s chunk is at most 406 tokens of prompt and 680 of answer, in buffers that grow by 256."""
_COPIES_WHILE_GROWING = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts that limits are chosen from.

    physical_bytes: memory that this process may come to hold: the machine's, or its container's if that is less.
    working_set_bytes: what the GPU can use well: Metal's recommended working set, CUDA's memory of the whole GPU;
    on the CPU the same as physical_bytes. free_bytes: of a CUDA GPU at start, before our weights; None elsewhere.
    """

    kind: DeviceKind
    physical_bytes: int
    working_set_bytes: int
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """What the engine takes of a kind of device, where its owner says nothing.

    percent: of the working set; small_percent: on a machine of less than 16 GiB. percent_of_free: of what others left,
    at most. cache_bytes: of freed buffers, at most. is_wired: the system is asked not to page it out.
    """

    percent: int
    cache_bytes: int
    small_percent: int | None = None
    percent_of_free: int = 100
    is_wired: bool = False

    def default_bytes(self, machine: Machine) -> int:
        """Weights, keys and values, working memory and cache together."""
        is_small = self.small_percent is not None and machine.physical_bytes < _SMALL_BYTES
        percent = self.small_percent if is_small and self.small_percent is not None else self.percent
        share_bytes = machine.working_set_bytes * percent // 100
        if machine.free_bytes is None:
            return share_bytes
        return min(share_bytes, machine.free_bytes * self.percent_of_free // 100)


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """total_bytes: weights, keys and values, working memory and cache together. wired_bytes: of that, what macOS may
    not page out; 0 elsewhere. cache_bytes: freed buffers that MLX keeps for reuse."""

    total_bytes: int
    wired_bytes: int
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes that MLX holds: in arrays now, in arrays at most since the start, and in freed buffers."""

    active_bytes: int
    peak_bytes: int
    cache_bytes: int


class Allocator(Protocol):
    """The part of mlx.core that takes limits; each call returns the limit before."""

    def set_memory_limit(self, limit: int, /) -> int: ...
    def set_cache_limit(self, limit: int, /) -> int: ...
    def set_wired_limit(self, limit: int, /) -> int: ...


def choose_limits(wanted_bytes: int, machine: Machine, share: MemoryShare) -> MemoryLimits:
    """Limits for this machine; `wanted_bytes` is the total if it is not 0, or else the share of its kind of device.

    The cache is an eighth, enough for the buffers of one encoder or prefill call; without a bound MLX keeps every
    size it ever saw, and memory grows with distinct lengths. Wired is the total, freed buffers with it, for they stay
    in Metal's residency set until they are released; MLX refuses more than the working set. A total above that is
    warned of: macOS pages out what is more.

    raises: OptionInvalid below 128 MiB, and above what the machine has.
    """
    total_bytes = wanted_bytes or share.default_bytes(machine)
    is_of_gpu = machine.free_bytes is not None  # a GPU with memory of its own
    holdable_bytes = machine.working_set_bytes if is_of_gpu else machine.physical_bytes
    if wanted_bytes < 0 or total_bytes < _LEAST_TOTAL_BYTES:
        raise OptionInvalid(
            f"the memory limit must be at least {_size(_LEAST_TOTAL_BYTES)}, not {_size(total_bytes)}",
            parameter="memory_limit_bytes",
        )
    if total_bytes > holdable_bytes:
        whose = "this GPU" if is_of_gpu else "this machine"
        raise OptionInvalid(
            f"the memory limit of {_size(total_bytes)} is more than {whose} has: {_size(holdable_bytes)}",
            parameter="memory_limit_bytes",
        )
    cache_bytes = max(_LEAST_CACHE_BYTES, min(share.cache_bytes, total_bytes // 8))
    wired_bytes = min(total_bytes, machine.working_set_bytes) if share.is_wired else 0
    if wired_bytes and wired_bytes < total_bytes:
        _log.warning(
            "the memory limit of %s is more than the %s that Metal recommends to hold here; what is more may be paged "
            "out, and slow everything down: lower it, or raise the other by `sudo sysctl iogpu.wired_limit_mb=%d`",
            _size(total_bytes),
            _size(wired_bytes),
            -(-total_bytes // MIB),
        )
    return MemoryLimits(total_bytes=total_bytes, wired_bytes=wired_bytes, cache_bytes=cache_bytes)


def kv_token_budget(
    limits: MemoryLimits, weights_bytes: int, bytes_per_token: int, least_tokens: int = _LEAST_TOKENS
) -> int:
    """Tokens that the running batch may hold keys and values for (rows x columns of its buffers).

    Taken off the total first: the weights, and as much working memory for the encoder and prefill as the cache holds
    (a buffer is either in use or in the cache). The rest counts half: while buffers grow or rows leave, the old ones
    exist beside the new.
    least_tokens: one sequence of the longest chunk, prompt and answer.

    raises: OptionInvalid when the weights and one sequence do not fit, naming the limit that would do.
    """
    per_token = _COPIES_WHILE_GROWING * bytes_per_token
    left_bytes = limits.total_bytes - weights_bytes - limits.cache_bytes
    if left_bytes < least_tokens * per_token:
        besides_cache_bytes = weights_bytes + least_tokens * per_token
        needed_bytes = besides_cache_bytes + limits.cache_bytes
        if limits.cache_bytes >= limits.total_bytes // 8:
            # The cache is not at its upper bound: it grows with the limit.
            needed_bytes = max(needed_bytes, -(-besides_cache_bytes * 8 // 7))
        raise OptionInvalid(
            f"the memory limit of {_size(limits.total_bytes)} is too small for this model, whose weights take "
            f"{_size(weights_bytes)}: it needs at least {_size(needed_bytes)}; raise the limit or take a smaller model",
            parameter="memory_limit_bytes",
        )
    return left_bytes // per_token


def apply_limits(limits: MemoryLimits, allocator: Allocator = mx) -> None:
    """Set MLX's limits, before the weights are loaded: the cache may have grown afterwards."""
    allocator.set_memory_limit(limits.total_bytes)
    allocator.set_cache_limit(limits.cache_bytes)
    if limits.wired_bytes:
        allocator.set_wired_limit(limits.wired_bytes)


def memory_use() -> MemoryUse:
    """Bytes that MLX holds in this process."""
    return MemoryUse(
        active_bytes=mx.get_active_memory(),
        peak_bytes=mx.get_peak_memory(),
        cache_bytes=mx.get_cache_memory(),
    )


def give_back_free_buffers() -> None:
    """Return MLX's cache to the system, as after unloading a model; arrays still referenced stay."""
    mx.clear_cache()


def leave_mlx() -> None:
    """Release what MLX holds for this thread, which is about to end and has dropped its arrays and functions.

    A thread has streams of its own, and on a CPU each has a thread behind it. One that is left to the end of the
    process ends it by abort now and then, and nearly always where functions were compiled, because networks hold them
    in cycles. Source: MLX's clear_streams, which is meant for this.
    """
    gc.collect()
    mx.clear_streams()


def read_machine(kind: DeviceKind, device: mx.Device) -> Machine:
    """The facts of this machine, with the device the model computes on."""
    return machine_from_facts(
        kind,
        device_facts=mx.device_info(device),
        physical_bytes=_physical_bytes(),
        container_bytes=container_limit_bytes(),
    )


def machine_from_facts(
    kind: DeviceKind,
    *,
    device_facts: Mapping[str, str | int],
    physical_bytes: int,
    container_bytes: int | None,
) -> Machine:
    """`device_facts` are mx.device_info's; a fact that it lacks is judged by the physical memory.

    Source of the names: MLX's device_info of Metal (max_recommended_working_set_size) and of CUDA (total_memory,
    free_memory).
    """
    if container_bytes is not None:
        physical_bytes = min(physical_bytes, container_bytes)
    if kind == "metal":
        # Two thirds: what Metal recommends on the smaller Macs.
        working_set_bytes = int(device_facts.get("max_recommended_working_set_size", physical_bytes * 2 // 3))
        return Machine("metal", physical_bytes, min(working_set_bytes, physical_bytes))
    if kind == "cuda":
        working_set_bytes = int(device_facts.get("total_memory", physical_bytes))
        free_bytes = int(device_facts.get("free_memory", working_set_bytes))
        return Machine("cuda", physical_bytes, working_set_bytes, free_bytes)
    return Machine("cpu", physical_bytes, physical_bytes)


def container_limit_bytes(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """The least memory limit of this process's control group and of those above it; None without any.

    Reads version 2 (memory.max) and version 1 (memory/memory.limit_in_bytes); where the group is not mounted at its
    own path, as in most containers, the mounted root is the container's. Source: Linux, cgroup-v2.rst and memory.rst.
    """
    found: list[int] = []
    for line in _lines(membership) or ["0::/"]:
        controllers, _, group = line.partition(":")[2].partition(":")
        if not controllers:
            found += _limits_upward(root, group, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits_upward(root / "memory", group, "memory.limit_in_bytes")
    return min(found, default=None)


def _limits_upward(root: Path, group: str, name: str) -> list[int]:
    folder = root / group.strip("/")
    folders = [folder, *(one for one in folder.parents if one.is_relative_to(root))]
    words = [line for one in folders for line in _lines(one / name)]
    return [int(word) for word in words if word.isdigit()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _physical_bytes(configuration: Callable[[str], int] = os.sysconf) -> int:
    return configuration("SC_PHYS_PAGES") * configuration("SC_PAGE_SIZE")


def _size(byte_count: int) -> str:
    """`5.33 GiB` or `700 MiB`, rounded up so that a limit that is named suffices."""
    if byte_count >= GIB:
        return f"{-(-byte_count * 100 // GIB) / 100:.2f} GiB"
    return f"{-(-byte_count // MIB)} MiB"
