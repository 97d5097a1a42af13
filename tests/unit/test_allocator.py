"""The allocator of an engine process; test_worker sees it in a process that is really started."""

from __future__ import annotations

import importlib.metadata
import os

import pytest

from scribewire.engine.processes import allocator
from scribewire.engine.processes.allocator import allocator_environment, preloadable


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


@pytest.fixture
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)


@pytest.mark.usefixtures("cuda_build", "nothing_chosen")
def test_the_child_alone_is_told_and_not_this_process() -> None:
    assert allocator_environment("gpu") == {**os.environ, "LD_PRELOAD": "libjemalloc.so.2"}
    assert "LD_PRELOAD" not in os.environ


@pytest.mark.usefixtures("cuda_build", "nothing_chosen")
def test_on_the_cpu_it_is_glibc_s_in_large_pages() -> None:
    assert allocator_environment("cpu") == {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.mark.usefixtures("cuda_build", "nothing_chosen")
def test_on_a_mac_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_IS_LINUX", False)
    assert allocator_environment("auto") is None


@pytest.mark.usefixtures("cuda_build", "nothing_chosen")
@pytest.mark.parametrize("variable", ["LD_PRELOAD", "GLIBC_TUNABLES"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_an_owner_s_own_choice_stands(monkeypatch: pytest.MonkeyPatch, variable: str, device: str) -> None:
    monkeypatch.setenv(variable, "mine")
    assert allocator_environment(device) is None
