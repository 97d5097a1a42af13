"""The choice of device, type and profile, and MLX's settings before it first uses a CUDA GPU."""

from __future__ import annotations

import os

import mlx.core as mx
import pytest

from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import OptionInvalid
from scribewire.engine.resident.profile import (
    choose_device,
    choose_dtype,
    choose_profile,
    metal_slots,
    profile_of,
)

PLANS = "MLX_CUDA_SDPA_CACHE_SIZE"


def test_device_and_type_follow_each_other() -> None:
    assert choose_dtype("auto", "cpu") == mx.float32
    assert choose_dtype("auto", "metal") == choose_dtype("auto", "cuda") == mx.bfloat16
    assert choose_dtype("float16", "cpu") == mx.float16
    with pytest.raises(OptionInvalid, match="auto, cpu or gpu"):
        choose_device("tpu")
    with pytest.raises(OptionInvalid, match="dtype must be"):
        choose_dtype("int8", "cpu")


def test_a_profile_is_what_the_configuration_asks_for() -> None:
    profile = choose_profile(EngineConfig(device="cpu", dtype="float16"))
    assert (profile.kind, profile.device_name, profile.dtype_name) == ("cpu", "cpu", "float16")
    assert not profile.queues_work


@pytest.mark.parametrize("has_cuda", [False, True])
def test_a_gpu_is_metal_s_or_cuda_s(has_cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    monkeypatch.delenv("SCRIBEWIRE_DEVICE", raising=False)
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    monkeypatch.setattr(mx.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(
        "scribewire.engine.resident.profile.profile_of",
        lambda kind, device, dtype: found.append(f"{kind} {device.type} {dtype}"),
    )
    choose_profile(EngineConfig())
    assert found == [f"{'cuda' if has_cuda else 'metal'} {mx.DeviceType.gpu} {mx.bfloat16}"]


def test_a_cpu_can_compute_in_metal_s_form() -> None:
    profile = profile_of("metal", mx.Device(mx.cpu), mx.bfloat16)
    assert (profile.kind, profile.device_name) == ("metal", "cpu")
    assert profile.placement.compiles
    assert not profile.placement.dequantizes


def test_variable_decides_where_no_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    monkeypatch.setattr(mx.cuda, "is_available", lambda: False)
    monkeypatch.setenv("SCRIBEWIRE_DEVICE", "cpu")
    assert choose_device("auto") == mx.Device(mx.cpu)
    assert choose_device("gpu") == mx.Device(mx.gpu)
    monkeypatch.setenv("SCRIBEWIRE_DEVICE", "")
    assert choose_device("auto") == mx.Device(mx.gpu)
    monkeypatch.setenv("SCRIBEWIRE_DEVICE", "tpu")
    with pytest.raises(OptionInvalid, match="auto, cpu or gpu"):
        choose_device("auto")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    # Set and taken away, so that what the test leaves there goes with it.
    monkeypatch.setenv(PLANS, "0")
    monkeypatch.delenv(PLANS)
    return monkeypatch


def test_on_cuda_mlx_keeps_more_attention_plans_than_a_running_batch_has_shapes(
    cuda: pytest.MonkeyPatch,
) -> None:
    profile_of("cpu", mx.Device(mx.cpu), mx.float32)
    assert PLANS not in os.environ
    profile_of("cuda", mx.Device(mx.cpu), mx.float32)
    assert int(os.environ[PLANS]) >= 256


def test_a_number_of_plans_that_somebody_set_stays(cuda: pytest.MonkeyPatch) -> None:
    cuda.setenv(PLANS, "7")
    profile_of("cuda", mx.Device(mx.cpu), mx.float32)
    assert os.environ[PLANS] == "7"


def test_rows_of_a_step_go_by_the_generation_of_the_gpu() -> None:
    assert 12 not in metal_slots("applegpu_g13g")
    assert metal_slots("applegpu_g14d") == metal_slots("applegpu_g13s")
    newer = metal_slots("applegpu_g16p")
    assert {8, 12, 16} < set(newer)
    assert metal_slots("applegpu_g99") == metal_slots("") == newer
    for one in (newer, metal_slots("applegpu_g13g")):
        assert list(one) == sorted(set(one))
        assert one[0] == 1
    assert profile_of("metal", mx.Device(mx.cpu), mx.bfloat16).limits.max_rows == newer[-1]
