"""Waiting for the encoder's result: at once on the CPU, on a GPU not before it is read."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.resident.model import ResidentModel
from tests.fakes.loading import cpu_profile


def test_encoding_is_waited_for_on_the_cpu_and_handed_over_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ResidentModel(EngineConfig(model="demo", offline=True), cpu_profile())
    calls: list[str] = []
    for name in ("eval", "async_eval"):
        original = getattr(mx, name)

        def noting(*arrays: object, _name: str = name, _original: object = original) -> None:
            calls.append(_name)
            assert callable(_original)
            _original(*arrays)

        monkeypatch.setattr(mx, name, noting)
    clips = [np.linspace(-0.1, 0.1, count, dtype=np.float32) for count in (16_000, 24_000)]
    mels, waited_for = model.encode(clips)
    assert [mel.shape[0] for mel in mels] == [100, 150]
    assert calls == ["eval"]
    model._profile = replace(cpu_profile(), queues_work=True)
    _, handed_over = model.encode(clips)
    assert calls == ["eval", "async_eval"]
    assert all(bool(mx.array_equal(one, other)) for one, other in zip(waited_for, handed_over, strict=True))
