"""What a process holds: its own, and not what its parent held."""

from __future__ import annotations

import subprocess
import sys

from engine.process_memory import peak_resident_bytes, resident_bytes

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
    program = "from engine.process_memory import peak_resident_bytes; print(peak_resident_bytes())"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(said.stdout) < 200 * MB
    assert len(held) == 300 * MB
