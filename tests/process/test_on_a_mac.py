"""What only a Mac can show: Metal computes, says what the CPU says, and keeps the limits that it is given.

`make mac-check` runs these and then measures. SCRIBEWIRE_DEVICE=cpu tries them where no GPU computes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.resident.memory import apply_limits, choose_limits, read_machine
from scribewire.engine.resident.profile import choose_profile
from scribewire.engine.transcriber import Transcriber
from tests.fakes.waiting import PATIENCE_SECONDS, STORY_SECONDS, in_time

pytestmark = [pytest.mark.mac, pytest.mark.process]

PROJECT = Path(__file__).resolve().parents[2]
DEVICE = os.environ.get("SCRIBEWIRE_DEVICE") or "gpu"
RECORDINGS = [one.path for one in sample_recordings()]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scribewire", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=STORY_SECONDS,
    )


def texts(device: str, dtype: str) -> list[str]:
    config = EngineConfig(model="demo", device=device, dtype=dtype, offline=True)
    with Transcriber(config=config) as transcriber:
        return [transcriber.transcribe(path).text for path in RECORDINGS]


@pytest.fixture(scope="module")
def cpu_texts() -> list[str]:
    return texts("cpu", "float32")


def test_doctor_is_content_and_names_the_device():
    said = json.loads(command("doctor", "--json", "--port", "0").stdout)
    assert said["healthy"], said
    details = {one["check"]: one["detail"] for one in said["checks"]}
    assert f"computes on the {DEVICE}" in details["mlx"]
    assert ("gpu memory" in details) == (DEVICE == "gpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_device_says_what_the_cpu_says(dtype: str, cpu_texts: list[str]):
    assert texts(DEVICE, dtype) == cpu_texts


def test_limits_are_kept_by_mlx_as_they_were_given():
    class Asked:
        """Sets limits, and keeps those that were there before."""

        def __init__(self) -> None:
            self.before: dict[str, int] = {}

        def set_memory_limit(self, limit: int) -> int:
            self.before["total"] = mx.set_memory_limit(limit)
            return self.before["total"]

        def set_cache_limit(self, limit: int) -> int:
            self.before["cache"] = mx.set_cache_limit(limit)
            return self.before["cache"]

        def set_wired_limit(self, limit: int) -> int:
            self.before["wired"] = mx.set_wired_limit(limit)
            return self.before["wired"]

    profile = choose_profile(EngineConfig(device=DEVICE))
    limits = choose_limits(0, read_machine(profile.kind, profile.device), profile.memory)
    first, second = Asked(), Asked()
    apply_limits(limits, first)
    try:
        apply_limits(limits, second)
        wired = {"wired": limits.wired_bytes} if limits.wired_bytes else {}
        assert second.before == {"total": limits.total_bytes, "cache": limits.cache_bytes} | wired
        assert bool(wired) == (DEVICE == "gpu")
    finally:
        mx.set_memory_limit(first.before["total"])
        mx.set_cache_limit(first.before["cache"])
        if wired:
            mx.set_wired_limit(first.before["wired"])


def test_exit_codes(tmp_path: Path):
    assert command("transcribe", "--model", "demo", str(tmp_path / "none.wav")).returncode == 1
    assert command("transcribe").returncode == 2
    assert command("transcribe", "--model", "demo", str(RECORDINGS[0])).returncode == 0


def test_server_on_the_device_ends_in_order(tmp_path: Path):
    served = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "scribewire",
            "serve",
            "--model",
            "demo",
            "--port",
            "0",
            "--data",
            str(tmp_path),
        ],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert served.stdout is not None
    try:
        while " ready on " not in (line := in_time(served.stdout.readline)):
            assert line, "it ended before it was ready"
        served.send_signal(signal.SIGTERM)
        out, _ = served.communicate(timeout=PATIENCE_SECONDS)
        assert (served.returncode, out.splitlines()[-1]) == (0, "scribewire: stopped")
    finally:
        served.kill()
