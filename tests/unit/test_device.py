"""The choice of device and type, and MLX's settings before it first uses a CUDA GPU."""

from __future__ import annotations

import os

import mlx.core as mx
import pytest

from scribewire.engine.protocol.errors import OptionInvalid
from scribewire.engine.resident.device import choose_device, choose_dtype

PLANS = "MLX_CUDA_SDPA_CACHE_SIZE"


def test_device_and_type_follow_each_other() -> None:
    assert choose_dtype("auto", choose_device("cpu")) == mx.float32
    assert choose_dtype("auto", mx.Device(mx.gpu)) == mx.bfloat16
    assert choose_dtype("float16", choose_device("cpu")) == mx.float16
    with pytest.raises(OptionInvalid, match="auto, cpu or gpu"):
        choose_device("tpu")
    with pytest.raises(OptionInvalid, match="dtype must be"):
        choose_dtype("int8", choose_device("cpu"))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
    # Set and taken away, so that what the test leaves there goes with it.
    monkeypatch.setenv(PLANS, "0")
    monkeypatch.delenv(PLANS)
    return monkeypatch


def test_on_cuda_mlx_keeps_more_attention_plans_than_a_running_batch_has_shapes(
    cuda: pytest.MonkeyPatch,
) -> None:
    choose_device("cpu")
    assert PLANS not in os.environ
    choose_device("auto")
    assert int(os.environ[PLANS]) >= 256


def test_a_number_of_plans_that_somebody_set_stays(cuda: pytest.MonkeyPatch) -> None:
    cuda.setenv(PLANS, "7")
    choose_device("gpu")
    assert os.environ[PLANS] == "7"
