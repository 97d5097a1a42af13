"""A process's own memory, without what its parent held."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from scribewire.engine.processes.memory import (
    footprint_bytes,
    give_large_buffers_back,
    peak_resident_bytes,
    resident_bytes,
    share_one_heap,
)
from tests.fakes.waiting import PATIENCE_SECONDS

MB = 1 << 20


def test_peak_is_at_least_what_is_held_and_grows_with_it() -> None:
    before = peak_resident_bytes()
    held = bytearray(64 * MB)
    held[::4096] = b"x" * len(held[::4096])
    now = resident_bytes()
    assert now is None or now <= peak_resident_bytes() + MB
    assert peak_resident_bytes() >= min(before, 64 * MB)


def test_child_does_not_count_what_its_parent_held() -> None:
    held = bytearray(300 * MB)
    held[::4096] = b"x" * len(held[::4096])
    program = (
        "from scribewire.engine.processes.memory import peak_resident_bytes; print(peak_resident_bytes())"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    assert int(said.stdout) < 200 * MB
    assert len(held) == 300 * MB


HOLES = """
import sys
from scribewire.engine.processes.memory import give_large_buffers_back, resident_bytes
if sys.argv[1] == "told":
    assert give_large_buffers_back()
first = bytearray(30 << 20)
del first
before, pins = resident_bytes(), []
for turn in range(20):
    # Small things between the large ones, as a program's own.
    large = [bytearray(b"x" * (8 << 20)) for _ in range(4)]
    pins.append([bytes(100_000) for _ in range(4)])
    pins.append(bytearray(b"x" * (turn + 2 << 18)))
    del large
print(resident_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed buffers so")
def test_large_buffers_go_back_to_the_system_when_they_are_freed() -> None:
    def growth(word: str) -> int:
        program = [sys.executable, "-c", HOLES, word]
        return int(
            subprocess.run(
                program, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
            ).stdout
        )

    # The pins stay; of the large ones nothing may.
    kept = 8 * MB + sum((turn + 2 << 18) for turn in range(20))
    assert growth("told") < kept + 8 * MB


HEAPS = """
import sys, threading
from pathlib import Path
from scribewire.engine.processes.memory import share_one_heap
if sys.argv[1] == "told":
    assert share_one_heap()
pins, gate, done = [], threading.Barrier(13), threading.Event()
def hold():
    gate.wait()
    # More than Python's own allocator takes, and less than what is mapped apart.
    pins.append([bytes(20_000) for _ in range(4)])
    gate.wait()
    done.wait()
threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads:
    thread.start()
gate.wait()
gate.wait()
# A heap of a thread's own is reserved as 64 MB, of which little is open to writing.
print(sum(" ---p " in line for line in Path("/proc/self/maps").read_text().splitlines()))
done.set()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a heap for each thread")
def test_threads_that_were_told_share_one_heap() -> None:
    def closed_mappings(word: str) -> int:
        program = [sys.executable, "-c", HEAPS, word]
        return int(
            subprocess.run(
                program, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
            ).stdout
        )

    assert closed_mappings("told") <= closed_mappings("untold") - 4


PERMANENT = """
import gc, weakref
from scribewire.engine.processes.memory import leave_out_of_collections
class Thing: pass
early, cycle = Thing(), Thing()
cycle.itself = cycle
seen = [weakref.ref(early), weakref.ref(cycle)]
leave_out_of_collections()
left = len(gc.get_objects())
late = Thing()
late.itself = late
seen.append(weakref.ref(late))
del early, cycle, late
gc.collect()
print(left, *(one() is not None for one in seen))
"""


def test_what_was_there_is_permanent_and_what_comes_is_collected() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PERMANENT],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    left, *alive = said.stdout.split()
    # Without a cycle it goes when nothing refers to it; with one, only what came later does.
    assert alive == ["False", "True", "False"]
    assert int(left) < 1000


def test_telling_is_no_error_anywhere() -> None:
    assert share_one_heap() in (True, False)
    assert give_large_buffers_back() in (True, False)


class Darwin:
    """macOS's C library: rusage_info_v0 is an identifier and ten counts of 8 bytes, the eighth the footprint."""

    def __init__(self, result: int) -> None:
        self._result = result

    def proc_pid_rusage(self, process_id: int, flavor: int, counts: ctypes.Array[ctypes.c_char]) -> int:
        assert (process_id, flavor, len(counts)) == (os.getpid(), 0, 96)
        for number in range(10):
            counts[16 + 8 * number : 24 + 8 * number] = (1000 + number).to_bytes(8, sys.byteorder)
        return self._result


def test_macos_is_asked_for_the_footprint() -> None:
    assert footprint_bytes(Darwin(0)) == 1007
    assert footprint_bytes(Darwin(-1)) is None
    assert footprint_bytes(object()) is None


@pytest.mark.mac
def test_footprint_grows_by_what_is_held() -> None:
    before = resident_bytes()
    held = bytearray(64 * MB)
    held[::4096] = b"x" * len(held[::4096])
    now = resident_bytes()
    assert before is not None
    assert now is not None
    assert before + 60 * MB < now
