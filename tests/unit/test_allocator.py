"""The allocator of an engine process, seen in a process that is really started."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scribewire.engine.processes import allocator
from scribewire.engine.processes.allocator import preloadable, preloaded
from tests.fakes.waiting import PATIENCE_SECONDS


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "mlx-cuda-13":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.32.4"

    monkeypatch.setattr(allocator.importlib.metadata, "version", version)
    monkeypatch.setattr(allocator.ctypes.util, "find_library", lambda name: f"lib{name}.so.2")
    monkeypatch.setattr(allocator, "_IS_LINUX", True)


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize(
    ("device", "wanted"), [("auto", "libjemalloc.so.2"), ("gpu", "libjemalloc.so.2"), ("cpu", None)]
)
def test_beside_a_cuda_gpu_it_is_jemalloc(device: str, wanted: str | None) -> None:
    assert preloadable(device) == wanted


@pytest.mark.usefixtures("cuda_build")
def test_elsewhere_it_is_the_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_IS_LINUX", False)
    assert preloadable("auto") is None


def test_without_the_cuda_build_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(allocator.importlib.metadata, "version", version)
    monkeypatch.setattr(allocator.ctypes.util, "find_library", lambda name: pytest.fail("looked"))
    assert preloadable("gpu") is None


def preload_seen_by_a_child() -> str:
    code = "import os; print(os.environ.get('LD_PRELOAD', ''))"
    # The dynamic linker complains about a library that is not there, and goes on.
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    return result.stdout.strip()


def test_processes_started_meanwhile_are_told_and_later_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    with preloaded("libnobody-has-this.so.9"):
        assert preload_seen_by_a_child() == "libnobody-has-this.so.9"
    assert preload_seen_by_a_child() == ""
    with pytest.raises(ZeroDivisionError), preloaded("libnobody-has-this.so.9"):
        _ = 1 / 0
    assert "LD_PRELOAD" not in os.environ


def test_whoever_preloads_something_is_obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = str(tmp_path / "mine.so")
    monkeypatch.setenv("LD_PRELOAD", chosen)
    with preloaded("libnobody-has-this.so.9"):
        assert preload_seen_by_a_child() == chosen
    assert os.environ["LD_PRELOAD"] == chosen
    with preloaded(None):
        assert os.environ["LD_PRELOAD"] == chosen
