"""A model that falls into a loop: its repeats go, its chunk is tried again in two, and the segment says so.

The model is rigged; scheduler, batch, guard and pipeline are the real ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.audio.transcode import transcode_audio
from scribewire.engine.demo import demo_model_path
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits, EngineConfig
from scribewire.engine.recording.work import Listener, TranscribeItem
from scribewire.engine.transcriber import Transcriber
from tests.fakes.clips import babbling
from tests.fakes.scripted_model import Script, ScriptedModel

LONG = "The beginning of it. "
LOOP = "and so on "


def noise(seconds: float) -> np.ndarray:
    return babbling(f"loop/{seconds}", seconds)


def transcriber(folder: Path, script: Script) -> Transcriber:
    return Transcriber(
        config=EngineConfig(device="cpu"), load=lambda config, _: ScriptedModel(config, folder, script)
    )


def loops_above(tokens: int, short: str = "Said well.") -> Script:
    return lambda audio_tokens: LONG + LOOP * 400 if audio_tokens > tokens else short


def test_looping_chunk_is_cut_in_two_and_both_parts_are_said(tmp_path: Path) -> None:
    with transcriber(tmp_path, loops_above(200)) as engine:
        result = engine.transcribe(noise(20.0), language="English")
    assert result.text == "Said well. Said well."
    assert [segment.index for segment in result.segments] == [0, 1]
    assert result.segments[0].start_seconds == 0.0
    assert result.segments[0].end_seconds == result.segments[1].start_seconds
    assert result.segments[1].end_seconds == 20.0
    for segment in result.segments:
        assert segment.notice is not None
        assert "from 0.0 s to 20.0 s fell into a loop" in segment.notice
    assert len(result.warnings) >= 1


def test_loop_that_persists_keeps_one_round_and_says_that_it_may_be_incomplete(tmp_path: Path) -> None:
    with transcriber(tmp_path, loops_above(0)) as engine:
        result = engine.transcribe(noise(20.0), language="English")
    once = (LONG + LOOP).strip()
    assert result.text == f"{once} {once}"
    for segment in result.segments:
        assert segment.notice is not None
        assert "ended in a loop" in segment.notice
        assert "may be incomplete" in segment.notice


def test_loop_is_stopped_within_two_periods_of_its_evidence(tmp_path: Path) -> None:
    with transcriber(tmp_path, loops_above(0)) as engine:
        result = engine.transcribe(noise(1.0), language="English")
    # One second holds at most 36 tokens, so ten rounds of 10 bytes are the later evidence.
    assert result.usage.output_tokens <= len(LONG) + 10 * len(LOOP) + 2 * len(LOOP)
    assert result.text == (LONG + LOOP).strip()


def test_real_repetition_is_left_alone(tmp_path: Path) -> None:
    chorus = " ".join(["no"] * 60)
    with transcriber(tmp_path, lambda tokens: chorus) as engine:
        result = engine.transcribe(noise(20.0), language="English")
    # 179 tokens in 20 s: fast, but people can.
    assert result.text == chorus
    assert result.warnings == ()


def test_loop_of_one_recording_does_not_touch_its_neighbors(tmp_path: Path) -> None:
    with transcriber(tmp_path, loops_above(200)) as engine:
        results = engine.transcribe_many(
            [TranscribeItem(noise(s), language="English") for s in (3.0, 20.0, 5.0)]
        )
    assert [result.text for result in results] == ["Said well.", "Said well. Said well.", "Said well."]
    assert [len(result.warnings) > 0 for result in results] == [False, True, False]


@pytest.mark.parametrize("again", ["The beginning of it, and more.", "Said well.", ""])
def test_what_was_sent_before_the_loop_stands_and_deltas_are_the_text(tmp_path: Path, again: str) -> None:
    deltas: list[str] = []
    listener = Listener(on_delta=lambda delta, _: deltas.append(delta))
    with transcriber(tmp_path, loops_above(200, again)) as engine:
        work = engine.submit(TranscribeItem(noise(20.0), language="English"), listener=listener)
        result = work.future.result(60)
    assert "".join(deltas) == result.text
    assert result.text.startswith(LONG.strip())
    # The repeats were held back while they might have been a loop, so at most one round was sent.
    assert result.text.count(LOOP.strip()) <= 1
    assert len(result.segments) == 1
    assert result.segments[0].text == result.text
    assert result.segments[0].end_seconds == 20.0
    assert result.segments[0].notice is not None


def test_usage_counts_what_both_attempts_took(tmp_path: Path) -> None:
    with transcriber(tmp_path, loops_above(200)) as engine:
        result = engine.transcribe(noise(20.0), language="English")
    assert result.usage.audio_tokens == pytest.approx(2 * 250, abs=2)


def test_guard_is_off_where_a_benchmark_forces_the_count(tmp_path: Path) -> None:
    config = EngineConfig(device="cpu", forced_tokens_per_second=40.0)
    with Transcriber(
        config=config, load=lambda c, _: ScriptedModel(c, tmp_path, lambda tokens: "no " * 2_000)
    ) as engine:
        result = engine.transcribe(noise(10.0), language="English")
    assert 0.69 * 400 <= result.usage.output_tokens <= 1.31 * 400
    assert result.warnings == ()


def test_synthetic_speech_that_truly_repeats_is_transcribed_as_often_as_it_is_said() -> None:
    recording = demo_model_path().parent / "recordings" / "english.wav"
    samples = transcode_audio(recording, limits=AudioLimits()).samples
    pause = np.zeros(int(0.35 * SAMPLE_RATE_HZ), dtype=np.float32)
    # "The train to the city", said 18 times in one chunk, nearly twice as often as a loop needs.
    phrase = np.concatenate([samples[int(0.3 * SAMPLE_RATE_HZ) : int(1.35 * SAMPLE_RATE_HZ)], pause])
    with Transcriber("demo", device="cpu") as engine:
        result = engine.transcribe(np.tile(phrase, 18), language="English")
    assert len(result.segments) == 1
    assert result.text.lower().count("train to the city") == 18
    assert result.warnings == ()
