"""Warm-up with the usual shapes before the first request: on a CPU that is taken for a CUDA GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scribewire import Transcriber
from scribewire.engine import pipeline
from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.step import RunningBatch
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import EngineFault, EngineUnavailable
from scribewire.engine.resident import warmup as warmup
from scribewire.engine.resident.model import ResidentModel
from scribewire.engine.resident.profile import CUDA_WARM_UP, DeviceProfile, WarmUpShapes
from tests.fakes.loading import cpu_profile
from tests.fakes.tiny_model import write_tiny_model

ROOMY = BatchLimits(max_rows=8, token_budget=100_000, prefill_tokens=8192)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


FEW_SHAPES = WarmUpShapes(
    clip_seconds=(0.5, 1.0), group_sizes=(1, 2, 3), arriving=(2, 1, 3, 8), left_behind=(4, 2, 1)
)


def as_on_cuda(_: EngineConfig) -> DeviceProfile:
    """A CPU that is warmed up as a device where new shapes are dear."""
    return replace(cpu_profile(), warm_up=FEW_SHAPES)


def test_every_shape_that_fits_is_met_and_rows_come_and_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ResidentModel(EngineConfig(model=str(folder)), cpu_profile())
    met: list[tuple[int, int]] = []
    encode = model.encode

    def noted(clips: list[np.ndarray]) -> object:
        met.append((len(clips), clips[0].size))
        return encode(clips)

    stepped: list[int] = []
    step = RunningBatch.step

    def counted(batch: RunningBatch) -> object:
        stepped.append(batch.row_count)
        return step(batch)

    monkeypatch.setattr(model, "encode", noted)
    monkeypatch.setattr(warmup.RunningBatch, "step", counted)
    assert warmup.warm_up_shapes(model, FEW_SHAPES, ROOMY) == 6
    groups = [(size, samples) for samples in (8_000, 16_000) for size in (1, 2, 3)]
    assert met == [*groups, (2, 8_000), (1, 8_000), (3, 8_000)]
    assert stepped[-9:] == [2, 3, 6, 4, 4, 2, 2, 1, 1]

    met.clear()
    tokens = len(model.prompt_ids(model.decoding(warmup.TranscribeOptions()), 16_000))
    narrow = BatchLimits(max_rows=8, token_budget=100_000, prefill_tokens=2 * tokens)
    warmup.warm_up_shapes(model, FEW_SHAPES, narrow)
    assert (2, 16_000) in met
    assert (3, 16_000) not in met
    met.clear()
    warmup.warm_up_shapes(
        model, FEW_SHAPES, BatchLimits(max_rows=8, token_budget=2 * tokens, prefill_tokens=8192)
    )
    assert max(size for size, samples in met if samples == 16_000) == 1


def test_the_widths_of_all_prompts_up_to_a_whole_chunk_are_met(folder: Path) -> None:
    model = ResidentModel(EngineConfig(model=str(folder)), cpu_profile())
    decoding = model.decoding(warmup.TranscribeOptions())

    def width(seconds: float) -> int:
        return -(-len(model.prompt_ids(decoding, int(seconds * 16_000))) // 64)

    met = {width(seconds) for seconds in CUDA_WARM_UP.clip_seconds}
    assert met == set(range(1, width(30.0) + 1))


def test_a_rehearsal_does_not_hold_up_a_request_that_has_come(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(pipeline, "warm_up_shapes", lambda *given: calls.append(given))
    config = EngineConfig(model=str(folder), device="cpu", forced_tokens_per_second=5.0)
    with Transcriber(config=config, profile=as_on_cuda) as transcriber:
        transcriber.warm_up()
        assert len(calls) == 1
        monkeypatch.setattr(pipeline.Pipeline, "has_work", True)
        transcriber._resident.warm_up_shapes()
        assert len(calls) == 1
        monkeypatch.undo()


def test_a_rehearsal_leaves_no_trace_in_what_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(model=str(folder), device="cpu", forced_tokens_per_second=5.0)
    rehearsed_with: list[WarmUpShapes] = []
    samples = np.random.default_rng(3).normal(0.0, 0.1, 24_000).astype(np.float32)

    def noted(model: ResidentModel, shapes: WarmUpShapes, limits: BatchLimits) -> int:
        rehearsed_with.append(shapes)
        return warmup.warm_up_shapes(model, shapes, limits)

    monkeypatch.setattr(pipeline, "warm_up_shapes", noted)
    with Transcriber(config=config) as transcriber:
        transcriber.warm_up()
        plain = transcriber.transcribe(samples)
    assert not rehearsed_with, "new shapes cost nothing on a CPU"
    with Transcriber(config=config, profile=as_on_cuda) as transcriber:
        transcriber.warm_up()
        warmed_up = transcriber.transcribe(samples)
    assert rehearsed_with == [FEW_SHAPES]
    assert warmed_up.text == plain.text


def test_a_device_that_fails_in_the_rehearsal_is_told_to_who_waits_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise MemoryError("no room")

    monkeypatch.setattr(pipeline, "warm_up_shapes", fail)
    faults: list[BaseException] = []
    config = EngineConfig(model=str(folder), device="cpu")
    transcriber = Transcriber(config=config, on_fault=faults.append, profile=as_on_cuda)
    with pytest.raises(MemoryError, match="no room"):
        transcriber.warm_up()
    transcriber._thread.join(10.0)
    with pytest.raises(EngineUnavailable):
        transcriber.warm_up()
    assert [str(fault) for fault in faults] == ["no room"]
    assert transcriber.is_broken
    with pytest.raises((EngineFault, EngineUnavailable)):
        transcriber.transcribe(np.zeros(16_000, dtype=np.float32))
