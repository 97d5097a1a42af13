"""Memory limits follow from the machine, leave room for what must fit, and refuse what cannot."""

from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import pytest

from scribewire.engine.protocol.errors import OptionInvalid
from scribewire.engine.resident.memory import (
    GIB,
    MIB,
    DeviceKind,
    Machine,
    MemoryLimits,
    MemoryShare,
    apply_limits,
    choose_limits,
    container_limit_bytes,
    give_back_free_buffers,
    kv_token_budget,
    machine_from_facts,
    memory_use,
    read_machine,
)
from scribewire.engine.resident.profile import CPU_MEMORY, CUDA_MEMORY, METAL_MEMORY

KV_BYTES_PER_TOKEN = 28 * 2 * 8 * 128 * 2
"""0.6B: layers, keys and values, heads, head size, 16 bits."""

SMALL_MAC = Machine("metal", 8 * GIB, 8 * GIB * 2 // 3)
MAC_16 = Machine("metal", 16 * GIB, 16 * GIB * 2 // 3)
MAC_64 = Machine("metal", 64 * GIB, 48 * GIB)
H200 = Machine("cuda", 128 * GIB, 140 * GIB, 139 * GIB)
LINUX_BOX = Machine("cpu", 24 * GIB, 24 * GIB)
SHARES: dict[DeviceKind, MemoryShare] = {"cpu": CPU_MEMORY, "metal": METAL_MEMORY, "cuda": CUDA_MEMORY}
MACHINES = [SMALL_MAC, MAC_16, MAC_64, H200, LINUX_BOX]


def limits_of(wanted_bytes: int, machine: Machine) -> MemoryLimits:
    """The limits with the share of the machine's device."""
    return choose_limits(wanted_bytes, machine, SHARES[machine.kind])


@dataclass
class RecordingAllocator:
    """Takes limits as MLX does; refuses to wire more than the working set, as Metal does."""

    working_set_bytes: int = 1 << 60
    limits: dict[str, int] = field(default_factory=dict)

    def set_memory_limit(self, limit: int, /) -> int:
        return self._set("memory", limit)

    def set_cache_limit(self, limit: int, /) -> int:
        return self._set("cache", limit)

    def set_wired_limit(self, limit: int, /) -> int:
        if limit > self.working_set_bytes:
            raise ValueError("larger than the working set")
        return self._set("wired", limit)

    def _set(self, name: str, limit: int) -> int:
        before = self.limits.get(name, 0)
        self.limits[name] = limit
        return before


# ---- the choice ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "expected_bytes"),
    [
        (SMALL_MAC, 8 * GIB * 2 // 3 * 60 // 100),
        (MAC_16, 16 * GIB * 2 // 3 * 75 // 100),
        (MAC_64, 36 * GIB),
        (H200, 119 * GIB),
        (LINUX_BOX, 12 * GIB),
    ],
)
def test_default_limit_follows_from_the_machine(machine, expected_bytes):
    assert limits_of(0, machine).total_bytes == expected_bytes


@pytest.mark.parametrize("machine", [SMALL_MAC, MAC_16])
def test_default_leaves_half_of_a_mac_to_its_owner(machine):
    assert limits_of(0, machine).total_bytes <= machine.physical_bytes // 2


def test_default_on_a_shared_gpu_stays_within_what_others_left_free():
    busy = Machine("cuda", 128 * GIB, 140 * GIB, 20 * GIB)
    assert limits_of(0, busy).total_bytes == 19 * GIB


@pytest.mark.parametrize("machine", MACHINES)
def test_wanted_limit_is_taken_as_it_is(machine):
    assert limits_of(3 * GIB, machine).total_bytes == 3 * GIB


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("wanted_bytes", [0, 128 * MIB, GIB, 6 * GIB])
def test_parts_stay_within_the_whole(machine, wanted_bytes):
    limits = limits_of(wanted_bytes, machine)
    assert 0 < limits.cache_bytes <= limits.total_bytes // 4
    assert limits.wired_bytes == (
        min(limits.total_bytes, machine.working_set_bytes) if machine.kind == "metal" else 0
    )
    assert (limits.wired_bytes > 0) == (machine.kind == "metal")


def test_wired_memory_never_exceeds_the_working_set_that_metal_allows():
    limits = limits_of(8 * GIB, SMALL_MAC)
    assert limits.wired_bytes == SMALL_MAC.working_set_bytes
    allocator = RecordingAllocator(working_set_bytes=SMALL_MAC.working_set_bytes)
    apply_limits(limits, allocator)
    assert allocator.limits["wired"] == SMALL_MAC.working_set_bytes


def test_more_than_the_working_set_is_warned_of_with_what_raises_it(caplog):
    limits_of(SMALL_MAC.working_set_bytes, SMALL_MAC)
    limits_of(0, SMALL_MAC)
    limits_of(24 * GIB, LINUX_BOX)
    assert not caplog.records
    limits_of(8 * GIB, SMALL_MAC)
    (warning,) = caplog.messages
    assert "limit of 8.00 GiB is more than the 5.34 GiB" in warning
    assert "iogpu.wired_limit_mb=8192" in warning


def test_cache_is_bounded_however_large_the_machine():
    assert limits_of(0, H200).cache_bytes == 4 * GIB
    assert limits_of(0, MAC_64).cache_bytes == 2 * GIB
    assert limits_of(0, LINUX_BOX).cache_bytes == 128 * MIB
    assert limits_of(GIB, MAC_64).cache_bytes == 128 * MIB


@pytest.mark.parametrize(
    ("wanted_bytes", "machine"),
    [
        (-1, LINUX_BOX),
        (1, LINUX_BOX),
        (128 * MIB - 1, MAC_16),
        (24 * GIB + 1, LINUX_BOX),
        (16 * GIB + 1, MAC_16),
        (140 * GIB + 1, H200),
    ],
)
def test_limit_that_the_machine_cannot_keep_is_refused_by_name(wanted_bytes, machine):
    with pytest.raises(OptionInvalid) as refused:
        limits_of(wanted_bytes, machine)
    assert refused.value.parameter == "memory_limit_bytes"


def test_whole_machine_may_be_asked_for():
    assert limits_of(24 * GIB, LINUX_BOX).total_bytes == 24 * GIB
    assert limits_of(140 * GIB, H200).total_bytes == 140 * GIB


# ---- what is left for keys and values --------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
def test_weights_working_memory_and_twice_the_budget_fit_the_limit(machine):
    limits = limits_of(0, machine)
    tokens = kv_token_budget(limits, GIB, KV_BYTES_PER_TOKEN)
    held_bytes = GIB + limits.cache_bytes + 2 * tokens * KV_BYTES_PER_TOKEN
    assert held_bytes <= limits.total_bytes < held_bytes + 2 * KV_BYTES_PER_TOKEN


def test_smallest_mac_still_batches_eight_chunks_of_the_default_model():
    assert kv_token_budget(limits_of(0, SMALL_MAC), GIB, KV_BYTES_PER_TOKEN) >= 8 * 1024


def test_larger_limit_never_gives_a_smaller_budget():
    budgets = [
        kv_token_budget(limits_of(total, MAC_64), GIB, KV_BYTES_PER_TOKEN)
        for total in range(2 * GIB, 30 * GIB, 500 * MIB)
    ]
    assert budgets == sorted(budgets)


def test_model_that_does_not_fit_is_refused_by_name():
    with pytest.raises(OptionInvalid) as refused:
        kv_token_budget(limits_of(2 * GIB, LINUX_BOX), 3 * GIB, KV_BYTES_PER_TOKEN)
    assert refused.value.parameter == "memory_limit_bytes"
    assert "2.00 GiB" in refused.value.message
    assert "3.00 GiB" in refused.value.message


def test_model_that_fits_without_room_for_one_sequence_is_refused_too():
    weights_bytes = 2 * GIB - 128 * MIB - 1
    with pytest.raises(OptionInvalid):
        kv_token_budget(limits_of(2 * GIB, LINUX_BOX), weights_bytes, KV_BYTES_PER_TOKEN)


def test_exactly_one_sequence_is_enough_and_one_token_less_is_not():
    total_bytes = 500 * MIB + 128 * MIB + 2 * 100 * KV_BYTES_PER_TOKEN
    limits = MemoryLimits(total_bytes=total_bytes, wired_bytes=0, cache_bytes=128 * MIB)
    assert kv_token_budget(limits, 500 * MIB, KV_BYTES_PER_TOKEN, least_tokens=100) == 100
    with pytest.raises(OptionInvalid):
        kv_token_budget(limits, 500 * MIB, KV_BYTES_PER_TOKEN, least_tokens=101)


@pytest.mark.parametrize("machine", [MAC_64, LINUX_BOX, H200])
@pytest.mark.parametrize("weights_bytes", [10 * MIB, 500 * MIB, 3 * GIB, 9 * GIB])
def test_limit_that_the_refusal_names_is_enough(machine, weights_bytes):
    with pytest.raises(OptionInvalid) as refused:
        kv_token_budget(limits_of(128 * MIB, machine), weights_bytes, KV_BYTES_PER_TOKEN)
    number, unit = refused.value.message.partition("it needs at least ")[2].partition(";")[0].split()
    named_bytes = round(float(number) * {"MiB": MIB, "GiB": GIB}[unit])
    assert kv_token_budget(limits_of(named_bytes, machine), weights_bytes, KV_BYTES_PER_TOKEN) >= 1280


# ---- the machine ---------------------------------------------------------------------------------------------


def test_metal_facts_are_read_by_their_names():
    facts = {"max_recommended_working_set_size": 10 * GIB, "memory_size": 16 * GIB, "device_name": "Apple M1"}
    machine = machine_from_facts("metal", device_facts=facts, physical_bytes=16 * GIB, container_bytes=None)
    assert machine == Machine("metal", 16 * GIB, 10 * GIB)


def test_cuda_facts_are_read_by_their_names():
    facts = {"total_memory": 140 * GIB, "free_memory": 100 * GIB, "device_name": "H200"}
    machine = machine_from_facts(
        "cuda", device_facts=facts, physical_bytes=2000 * GIB, container_bytes=128 * GIB
    )
    assert machine == Machine("cuda", 128 * GIB, 140 * GIB, 100 * GIB)


@pytest.mark.parametrize("kind", ["metal", "cuda", "cpu"])
def test_device_that_tells_nothing_still_gives_limits(kind):
    machine = machine_from_facts(kind, device_facts={}, physical_bytes=32 * GIB, container_bytes=None)
    assert GIB <= limits_of(0, machine).total_bytes <= 32 * GIB


def test_container_limit_counts_as_the_memory_there_is():
    machine = machine_from_facts("cpu", device_facts={}, physical_bytes=64 * GIB, container_bytes=4 * GIB)
    assert limits_of(0, machine).total_bytes == 2 * GIB


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_container_limit_of_version_two_is_the_least_on_the_way_up(tmp_path):
    membership = write(tmp_path / "membership", "0::/system.slice/scribe wire.service\n")
    root = tmp_path / "cgroup"
    write(root / "memory.max", "max\n")
    write(root / "system.slice/memory.max", "3000000000\n")
    write(root / "system.slice/scribe wire.service/memory.max", "max\n")
    assert container_limit_bytes(root, membership) == 3_000_000_000
    write(root / "system.slice/scribe wire.service/memory.max", "2000000000\n")
    assert container_limit_bytes(root, membership) == 2_000_000_000


def test_container_limit_of_version_one_is_found_in_a_container(tmp_path):
    """A container sees its own group at the mounted root, under a path that does not exist there."""
    membership = write(tmp_path / "membership", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    root = tmp_path / "cgroup"
    write(root / "memory/memory.limit_in_bytes", "1500000000\n")
    assert container_limit_bytes(root, membership) == 1_500_000_000


def test_no_control_groups_mean_no_container_limit(tmp_path):
    assert container_limit_bytes(tmp_path / "nothing", tmp_path / "nowhere") is None


def test_file_outside_the_control_groups_is_never_read(tmp_path):
    write(tmp_path / "memory.max", "5\n")
    membership = write(tmp_path / "membership", "0::/a\n")
    assert container_limit_bytes(tmp_path / "cgroup", membership) is None


def test_this_machine_can_be_read_and_gives_limits_that_it_can_keep():
    machine = read_machine("cpu", mx.Device(mx.cpu))
    assert machine.kind == "cpu"
    assert machine.physical_bytes >= 256 * MIB
    assert limits_of(0, machine).total_bytes <= machine.physical_bytes


# ---- MLX -----------------------------------------------------------------------------------------------------


def test_limits_reach_the_allocator_and_wired_only_where_there_is_some():
    allocator = RecordingAllocator()
    apply_limits(MemoryLimits(total_bytes=GIB, wired_bytes=0, cache_bytes=MIB), allocator)
    assert allocator.limits == {"memory": GIB, "cache": MIB}
    apply_limits(MemoryLimits(total_bytes=GIB, wired_bytes=500 * MIB, cache_bytes=MIB), allocator)
    assert allocator.limits == {"memory": GIB, "cache": MIB, "wired": 500 * MIB}


def test_mlx_keeps_no_more_freed_buffers_than_its_limit_and_gives_them_back():
    memory_before, cache_before = mx.set_memory_limit(4 * GIB), mx.set_cache_limit(0)
    try:
        apply_limits(MemoryLimits(total_bytes=GIB, wired_bytes=0, cache_bytes=32 * MIB))
        assert mx.get_memory_limit() == GIB
        give_back_free_buffers()
        before = memory_use()
        arrays = [mx.zeros((1 + count, MIB), dtype=mx.uint8) for count in range(16)]
        mx.eval(arrays)
        held = memory_use()
        assert held.active_bytes - before.active_bytes >= 136 * MIB
        assert held.peak_bytes >= held.active_bytes
        del arrays
        freed = memory_use()
        assert freed.active_bytes < before.active_bytes + MIB
        assert 0 < freed.cache_bytes <= 48 * MIB
        give_back_free_buffers()
        assert memory_use().cache_bytes == 0
    finally:
        mx.set_memory_limit(memory_before)
        mx.set_cache_limit(cache_before)
