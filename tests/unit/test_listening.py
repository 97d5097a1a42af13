"""The voice detector hears evened levels, and a chunk without a voice is decoded without the prompt."""

from __future__ import annotations

import numpy as np
import pytest

from scribewire.engine.audio.labels import VoiceLabels
from scribewire.engine.audio.listening import Listener, hears_voice
from scribewire.engine.audio.pauses import Chunk, PauseSplitter
from scribewire.engine.audio.pcm import Samples
from scribewire.engine.audio.recording import OpenRecording
from scribewire.engine.audio.split import halved
from scribewire.engine.audio.vad import DetectorProcess, SileroDetector
from scribewire.engine.demo import sample_recordings
from scribewire.engine.protocol.config import SAMPLE_RATE_HZ, AudioLimits, Chunking
from scribewire.engine.protocol.errors import EngineUnavailable
from tests.fakes.sounds import hum, music, noise


class Recorder:
    """A detector that keeps what it hears."""

    def __init__(self, answer: float = 0.0) -> None:
        self.heard: list[Samples] = []
        self._answer = answer

    def probabilities(self, frames: Samples) -> list[float]:
        self.heard.append(frames.copy())
        return [self._answer] * len(frames)

    def close(self) -> None:
        pass


class Broken(Recorder):
    def probabilities(self, frames: Samples) -> list[float]:
        raise EngineUnavailable("gone")


def speech() -> Samples:
    """The demo recordings, (n,) float32."""
    found: list[Samples] = []
    for sample in sample_recordings():
        recording = OpenRecording(sample.path, limits=AudioLimits(), chunking=Chunking("quietest"))
        found += [chunk.samples for chunk in recording.chunks() if chunk is not None]
        recording.close()
    return np.concatenate(found)


def at_peak(samples: Samples, decibels: float) -> Samples:
    """The samples at this peak, rounded to 16 bits."""
    scaled = samples * (10 ** (decibels / 20) / np.abs(samples).max())
    return (np.rint(scaled * 32_768) / 32_768).astype(np.float32)


def evened(samples: Samples) -> Samples:
    frames = samples[: len(samples) // 512 * 512].reshape(-1, 512)
    detector = Recorder()
    assert len(Listener(detector).push(frames, is_last=True)) == len(frames)
    return np.concatenate(detector.heard)


def level(frames: Samples) -> float:
    return float(10.0 * np.log10(np.mean(np.square(frames, dtype=np.float64))))


def test_soft_speech_is_raised_and_ordinary_speech_stays_as_it_is() -> None:
    samples = at_peak(speech(), -3.0)
    np.testing.assert_array_equal(evened(samples)[100:120], samples[51_200:61_440].reshape(-1, 512))
    assert (
        level(evened(at_peak(samples, -60.0))) > level(samples) - 22.0 > level(at_peak(samples, -60.0)) + 20.0
    )


def test_noise_is_not_raised_to_the_level_of_speech() -> None:
    soft_noise = noise(20.0, 10 ** (-70 / 20))
    assert -51.0 < level(evened(soft_noise)) < -47.0
    loud_noise = noise(20.0, 0.02)
    np.testing.assert_allclose(evened(loud_noise).ravel(), loud_noise[: 625 * 512], rtol=1e-5)


def test_levels_are_evened_alike_however_the_frames_come() -> None:
    frames = at_peak(speech(), -50.0)[: 300 * 512].reshape(-1, 512)
    whole = evened(frames.ravel())
    for size in (1, 7, 100):
        detector = Recorder()
        listener = Listener(detector)
        for start in range(0, len(frames), size):
            listener.push(frames[start : start + size])
        listener.push(frames[:0], is_last=True)
        np.testing.assert_array_equal(np.concatenate(detector.heard), whole)


@pytest.mark.parametrize("peak", [-45.0, -60.0])
def test_voice_detection_loses_nothing_of_soft_speech(peak: float) -> None:
    pause = np.zeros(3 * SAMPLE_RATE_HZ, dtype=np.float32)
    samples = np.concatenate([pause, at_peak(speech(), peak), pause])
    process = DetectorProcess()
    try:
        splitter = PauseSplitter(VoiceLabels(SileroDetector(process), Chunking("voice")))
        chunks = [*splitter.feed(samples), *splitter.finish()]
    finally:
        process.close()
    kept = sum(float(np.square(chunk.samples, dtype=np.float64).sum()) for chunk in chunks)
    assert kept > 0.9999 * float(np.square(samples, dtype=np.float64).sum())
    assert sum(chunk.sample_count for chunk in chunks) < len(samples) - 4 * SAMPLE_RATE_HZ


SOUNDS = {
    "silence": np.zeros(5 * SAMPLE_RATE_HZ, dtype=np.float32),
    "hum of 50 Hz": hum(5.0, 50.0),
    "hum of 60 Hz": hum(5.0, 60.0),
    "noise": noise(5.0, 0.05),
    "music": music(5.0),
}


@pytest.fixture(scope="module")
def detectors():
    process = DetectorProcess()
    yield lambda: SileroDetector(process)
    process.close()


@pytest.mark.parametrize("name", SOUNDS)
def test_no_voice_is_heard_in_what_is_no_speech(detectors, name: str) -> None:
    assert not hears_voice(detectors, SOUNDS[name])


def test_a_voice_is_heard_in_speech_however_soft_and_no_more_is_asked_than_needed(detectors) -> None:
    for peak in (-3.0, -45.0, -60.0):
        assert hears_voice(detectors, at_peak(speech(), peak))
    recorder = Recorder(0.9)
    assert hears_voice(lambda: recorder, np.zeros(60 * SAMPLE_RATE_HZ, dtype=np.float32))
    assert sum(map(len, recorder.heard)) <= 256


def test_a_failed_detector_hears_a_voice() -> None:
    assert hears_voice(Broken, SOUNDS["noise"])


@pytest.mark.parametrize(("has_prompt", "has_voice"), [(True, False), (False, True)])
def test_chunks_say_whether_they_hold_a_voice_where_there_is_a_prompt(
    has_prompt: bool, has_voice: bool
) -> None:
    recording = OpenRecording(
        music(3.0),
        limits=AudioLimits(),
        chunking=Chunking("quietest"),
        has_prompt=has_prompt,
        detector=Recorder,
    )
    (chunk,) = recording.chunks()
    assert chunk is not None
    assert chunk.has_voice is has_voice
    assert all(part.has_voice is has_voice for part in halved(chunk))


def test_halves_of_a_chunk_tile_it() -> None:
    chunk = Chunk(1000, noise(3.0, 0.1), padding_samples=100)
    one, two = halved(chunk)
    np.testing.assert_array_equal(np.concatenate([one.samples, two.samples]), chunk.samples)
    assert (one.padding_samples, two.padding_samples) == (0, 100)
    assert two.start_sample == 1000 + len(one.samples)
