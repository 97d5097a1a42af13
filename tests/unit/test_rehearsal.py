"""Meeting the usual shapes before the first request: on a CPU, told that it is a CUDA GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import Transcriber, pipeline, rehearsal
from engine.batching.limits import BatchLimits
from engine.protocol.config import EngineConfig
from engine.protocol.errors import EngineFault, EngineUnavailable
from engine.resident import ResidentModel
from tests.unit.tiny_model import write_tiny_model

ROOMY = BatchLimits(max_rows=8, token_budget=100_000, prefill_tokens=8192)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "CLIP_SECONDS", (0.5, 1.0))
    monkeypatch.setattr(rehearsal, "GROUP_SIZES", (1, 2, 3))


@pytest.mark.usefixtures("few_shapes")
def test_every_shape_that_fits_is_met_where_shapes_are_dear(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ResidentModel(EngineConfig(model=str(folder), device="cpu"))
    met: list[tuple[int, int]] = []
    encode = model.encode

    def noted(clips: list[np.ndarray]) -> object:
        met.append((len(clips), clips[0].size))
        return encode(clips)

    monkeypatch.setattr(model, "encode", noted)
    assert rehearsal.rehearse(model, "cuda", ROOMY) == 6
    assert met == [(size, samples) for samples in (8_000, 16_000) for size in (1, 2, 3)]
    met.clear()
    tokens = len(model.prompt_ids(model.wish(rehearsal.TranscribeOptions()), 16_000))
    narrow = BatchLimits(max_rows=8, token_budget=100_000, prefill_tokens=2 * tokens)
    assert rehearsal.rehearse(model, "cuda", narrow) == len(met)
    assert (2, 16_000) in met
    assert (3, 16_000) not in met
    for kind in ("cpu", "metal"):
        met.clear()
        assert rehearsal.rehearse(model, kind, ROOMY) == 0
        assert not met


def test_the_widths_of_all_prompts_up_to_a_whole_chunk_are_met(folder: Path) -> None:
    model = ResidentModel(EngineConfig(model=str(folder), device="cpu"))
    wish = model.wish(rehearsal.TranscribeOptions())

    def width(seconds: float) -> int:
        return -(-len(model.prompt_ids(wish, int(seconds * 16_000))) // 64)

    met = {width(seconds) for seconds in rehearsal.CLIP_SECONDS}
    assert met == set(range(1, width(30.0) + 1))


@pytest.mark.usefixtures("few_shapes")
def test_a_rehearsal_leaves_no_trace_in_what_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(model=str(folder), device="cpu", forced_tokens_per_second=5.0)
    samples = np.random.default_rng(3).normal(0.0, 0.1, 24_000).astype(np.float32)
    with Transcriber(config=config) as transcriber:
        plain = transcriber.transcribe(samples)
    monkeypatch.setattr(
        pipeline, "rehearse", lambda model, kind, limits: rehearsal.rehearse(model, "cuda", limits)
    )
    with Transcriber(config=config) as transcriber:
        transcriber.warm_up()
        rehearsed = transcriber.transcribe(samples)
    assert rehearsed.text == plain.text


def test_a_device_that_fails_in_the_rehearsal_is_told_to_who_waits_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise MemoryError("no room")

    monkeypatch.setattr(pipeline, "rehearse", fail)
    faults: list[BaseException] = []
    transcriber = Transcriber(config=EngineConfig(model=str(folder), device="cpu"), on_fault=faults.append)
    with pytest.raises(MemoryError, match="no room"):
        transcriber.warm_up()
    transcriber._thread.join(10.0)
    assert [str(fault) for fault in faults] == ["no room"]
    assert transcriber.is_broken
    with pytest.raises((EngineFault, EngineUnavailable)):
        transcriber.transcribe(np.zeros(16_000, dtype=np.float32))
