"""Recordings are cut at pauses, long silence is left out, and nothing else is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scribewire.engine.audio.pauses import (
    LEAD_SECONDS,
    MIN_CHUNK_SAMPLES,
    TRAIL_SECONDS,
    Chunk,
    PauseSplitter,
)
from scribewire.engine.protocol.errors import EngineUnavailable

RATE_HZ = 16_000
Samples = npt.NDArray[np.float32]


def speech(seconds: float, seed: int = 0, level: float = 0.1) -> Samples:
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ)).astype(np.float32)
    return samples * np.float32(level)


def silence(seconds: float, level: float = 0.0) -> Samples:
    return speech(seconds, seed=9, level=level)


def syllables(seconds: float, level: float = 0.1) -> Samples:
    """Noise that comes and goes four times a second, as speech does."""
    ticks = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return speech(seconds, level=level) * np.square(np.sin(np.pi * 4 * ticks)).astype(np.float32)


def soften(samples: Samples, start_seconds: float, seconds: float) -> None:
    start = round(start_seconds * RATE_HZ)
    samples[start : start + round(seconds * RATE_HZ)] *= np.float32(0.01)


def split(samples: Samples, block: int | None = None, **options: Any) -> list[Chunk]:
    splitter = PauseSplitter(**options)
    chunks: list[Chunk] = []
    size = block or max(1, len(samples))
    for start in range(0, len(samples), size):
        chunks += splitter.feed(samples[start : start + size])
    return [*chunks, *splitter.finish()]


def assert_true_to(samples: Samples, chunks: list[Chunk], max_seconds: float = 30.0) -> None:
    """Each chunk holds what the recording holds where the chunk says it lies; none overlap, none is too long."""
    position = 0
    for chunk in chunks:
        assert chunk.start_sample >= position
        assert 0 < chunk.sample_count <= max_seconds * RATE_HZ
        position = chunk.start_sample + chunk.sample_count
        np.testing.assert_array_equal(
            chunk.samples[: chunk.sample_count], samples[chunk.start_sample : position]
        )
        assert not chunk.samples[chunk.sample_count :].any()
        assert len(chunk.samples) >= MIN_CHUNK_SAMPLES or len(chunks) == 1


def left_out(samples: Samples, chunks: list[Chunk]) -> Samples:
    """Samples that no chunk holds."""
    kept = np.zeros(len(samples), dtype=bool)
    for chunk in chunks:
        kept[chunk.start_sample : chunk.start_sample + chunk.sample_count] = True
    return samples[~kept]


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.3, 19.9, 29.9999, 30.0])
def test_a_recording_within_the_limit_is_one_chunk_as_it_is(seconds: float) -> None:
    samples = speech(seconds)
    (chunk,) = split(samples)
    assert (chunk.start_sample, chunk.padding_samples) == (0, 0)
    np.testing.assert_array_equal(chunk.samples, samples)


def test_one_sample_over_the_limit_is_two_chunks() -> None:
    samples = speech(30.0 + 1 / RATE_HZ)
    chunks = split(samples)
    assert len(chunks) == 2
    assert_true_to(samples, chunks)
    assert not len(left_out(samples, chunks))


def test_an_empty_recording_has_no_chunk() -> None:
    assert split(speech(0.0)) == []


def test_the_cut_is_in_the_middle_of_the_longest_pause_within_reach() -> None:
    samples = speech(45.0)
    soften(samples, 22.0, 0.3)
    soften(samples, 25.0, 0.15)
    soften(samples, 10.0, 1.0)
    first, second = split(samples)
    assert first.end_seconds == pytest.approx(22.15, abs=0.02)
    assert second.start_sample == first.start_sample + first.sample_count


def test_of_pauses_that_are_long_enough_the_latest_is_taken() -> None:
    samples = speech(45.0)
    soften(samples, 21.0, 1.5)
    soften(samples, 27.0, 0.6)
    assert split(samples)[0].end_seconds == pytest.approx(27.3, abs=0.02)


def test_a_pause_is_preferred_to_a_softer_place_inside_a_word() -> None:
    """The official rule would cut in the closure of a consonant, 60 ms of digital silence."""
    samples = speech(45.0)
    start = round(28.0 * RATE_HZ)
    samples[start : start + 960] = 0.0
    soften(samples, 23.0, 0.4)
    assert 23.0 < split(samples)[0].end_seconds < 23.4


def test_speech_without_any_pause_is_cut_where_it_is_quietest() -> None:
    samples = speech(45.0)
    start = round(24.0 * RATE_HZ)
    samples[start : start + 1600] *= np.float32(0.6)
    assert 24.0 <= split(samples)[0].end_seconds <= 24.1


def test_pauses_are_found_in_noise_too() -> None:
    samples = speech(45.0) + speech(45.0, seed=1, level=0.02)
    start = round(24.0 * RATE_HZ)
    samples[start : start + 4800] = speech(0.3, seed=2, level=0.02)
    assert 24.0 < split(samples)[0].end_seconds < 24.3


def test_a_steady_tone_is_cut_and_none_of_it_lost() -> None:
    samples = np.full(100 * RATE_HZ, 0.25, dtype=np.float32)
    chunks = split(samples)
    assert_true_to(samples, chunks)
    assert not len(left_out(samples, chunks))
    assert all(chunk.sample_count >= 20 * RATE_HZ for chunk in chunks[:-1])


@pytest.mark.parametrize(
    ("longest", "shortest"), [(2.0, 0.0), (7.0, 5.0), (30.0, 0.0), (30.0, 29.9), (180.0, 0.0)]
)
def test_without_silence_chunks_tile_the_recording_within_the_lengths_asked_for(
    longest: float, shortest: float
) -> None:
    samples = speech(200.0, seed=3)
    chunks = split(samples, max_chunk_seconds=longest, min_chunk_seconds=shortest)
    assert_true_to(samples, chunks, longest)
    assert not len(left_out(samples, chunks))
    least = shortest or longest * 2 / 3
    assert all(chunk.sample_count >= (least - 0.02) * RATE_HZ for chunk in chunks[:-1])


@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_times_after_silence_that_was_left_out_are_exact(level: float) -> None:
    samples = np.concatenate([speech(5.0), silence(61.7, level), speech(4.0, seed=2), silence(3.0, level)])
    first, second = chunks = split(samples)
    assert_true_to(samples, chunks)
    assert first.start_sample == 0
    # Steadiness is judged by stretches of 64 ms.
    assert 5.0 + TRAIL_SECONDS - 0.02 <= first.end_seconds <= 5.0 + TRAIL_SECONDS + 0.08
    assert 66.7 - LEAD_SECONDS - 0.08 <= second.start_seconds <= 66.7 - LEAD_SECONDS + 0.02
    assert 70.7 + TRAIL_SECONDS - 0.02 <= second.end_seconds <= 70.7 + TRAIL_SECONDS + 0.08
    assert np.abs(left_out(samples, chunks)).max() <= 6 * level


def test_silence_of_less_than_two_seconds_stays() -> None:
    samples = np.concatenate([silence(1.9), speech(5.0), silence(1.9), speech(5.0), silence(1.9)])
    (chunk,) = split(samples)
    assert chunk.sample_count == len(samples)


def test_a_recording_of_silence_alone_has_no_chunk() -> None:
    assert split(silence(1.0)) == []
    assert split(silence(100.0), block=777) == []


def test_soft_speech_is_not_taken_for_silence() -> None:
    """-70 dB of full scale, in a recording that is no louder anywhere."""
    samples = syllables(65.0, level=10 ** (-70 / 20))
    chunks = split(samples)
    assert_true_to(samples, chunks)
    assert not len(left_out(samples, chunks))


def test_a_short_stretch_between_silences_is_padded_to_what_the_model_takes() -> None:
    samples = np.concatenate([silence(5.0), speech(0.1), silence(5.0)])
    splitter_chunks = split(samples)
    (chunk,) = splitter_chunks
    assert chunk.sample_count + chunk.padding_samples >= MIN_CHUNK_SAMPLES
    assert chunk.start_seconds == pytest.approx(5.0 - LEAD_SECONDS, abs=0.017)


def test_what_precedes_sound_is_kept_however_long_that_is_asked_for() -> None:
    samples = np.concatenate([speech(3.0), silence(40.0), speech(3.0)])
    chunks = split(samples, lead_seconds=10.0)
    assert_true_to(samples, chunks)
    assert chunks[1].start_seconds == pytest.approx(33.0, abs=0.017)
    chunks = split(samples, lead_seconds=60.0)
    assert_true_to(samples, chunks)
    assert chunks[1].start_seconds == pytest.approx(43.0 - 15.0, abs=0.017)


@pytest.mark.parametrize("seed", range(8))
def test_the_stream_gives_the_same_chunks_for_any_block_sizes(seed: int) -> None:
    random = np.random.default_rng(seed)
    pieces = []
    while sum(map(len, pieces)) < 150 * RATE_HZ:
        pieces.append(speech(float(random.uniform(0.05, 40.0)), seed=len(pieces)))
        level = float(random.choice([0.0, 1e-4, 3e-3]))
        pieces.append(silence(float(random.choice([0.2, 1.0, 1.99, 2.0, 2.5, 33.0])), level))
    samples = np.concatenate(pieces)
    longest = float(random.choice([3.0, 11.3, 30.0]))
    offline = split(samples, max_chunk_seconds=longest)
    assert_true_to(samples, offline, longest)
    largest = int(random.choice([400, 16_000, 900_000]))
    splitter = PauseSplitter(max_chunk_seconds=longest)
    streamed: list[Chunk] = []
    position = 0
    while position < len(samples):
        size = int(random.integers(0, largest))
        streamed += splitter.feed(samples[position : position + size])
        position += size
    streamed += splitter.finish()
    assert [(one.start_sample, one.padding_samples) for one in streamed] == [
        (one.start_sample, one.padding_samples) for one in offline
    ]
    for one, other in zip(streamed, offline, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)


@pytest.mark.parametrize("level", [0.1, 0.0])
def test_the_stream_holds_a_chunk_and_the_silence_behind_it_at_most(level: float) -> None:
    splitter = PauseSplitter(max_chunk_seconds=5.0)
    longest = 0
    for seed in range(60):
        list(splitter.feed(speech(1.0, seed=seed, level=level)))
        longest = max(longest, splitter.held_samples)
    assert longest <= (5 + 2 + 2) * RATE_HZ


def test_a_chunk_keeps_no_more_than_itself_in_memory() -> None:
    for chunk in split(speech(200.0)):
        assert chunk.samples.base is None


@pytest.mark.parametrize(
    "lengths",
    [
        {"max_chunk_seconds": 0.5},
        {"max_chunk_seconds": float("nan")},
        {"max_chunk_seconds": 10.0, "min_chunk_seconds": 10.0},
        {"max_chunk_seconds": 10.0, "min_chunk_seconds": -1.0},
    ],
)
def test_lengths_that_exclude_each_other_are_refused(lengths: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="_chunk_seconds must be"):
        PauseSplitter(**lengths)


class Hearing:
    """A detector that hears a voice wherever a frame is louder than `voice_level`, and counts what it is asked."""

    def __init__(self, voice_level: float) -> None:
        self._voice_level = voice_level
        self.heard_frames = 0
        self.open_count = 0

    def __call__(self) -> Hearing:
        self.open_count += 1
        return self

    def probabilities(self, frames: Samples) -> list[float]:
        self.heard_frames += len(frames)
        return [0.9 if np.sqrt(np.mean(np.square(frame))) > self._voice_level else 0.02 for frame in frames]

    def close(self) -> None:
        self.open_count -= 1


class Broken(Hearing):
    def probabilities(self, frames: Samples) -> list[float]:
        raise EngineUnavailable("gone")


def test_soft_speech_after_a_bump_is_not_lost() -> None:
    bump = speech(0.06, level=0.3)
    samples = np.concatenate([silence(1.0), bump, silence(1.0), syllables(50.0, level=10 ** (-65 / 20))])
    chunks = split(samples)
    assert_true_to(samples, chunks)
    assert not left_out(samples, chunks).any()


def test_a_second_speaker_forty_decibels_softer_is_not_lost() -> None:
    loud, soft = syllables(10.0, level=0.02), syllables(10.0, level=0.0002)
    samples = np.concatenate([loud, soft, loud, silence(5.0)])
    chunks = split(samples)
    assert len(left_out(samples[: 30 * RATE_HZ], chunks)) == 0


def test_a_cut_is_in_a_pause_and_not_in_a_soft_speaker() -> None:
    samples = np.concatenate([syllables(21.0), syllables(6.0, level=0.001), syllables(18.0)])
    samples[28 * RATE_HZ : 28 * RATE_HZ + 3200] = 0.0
    assert 28.0 < split(samples)[0].end_seconds < 28.2


def test_steady_noise_in_which_no_voice_is_heard_is_left_out() -> None:
    samples = np.concatenate([syllables(10.0), silence(20.0), syllables(10.0)]) + speech(
        40.0, seed=3, level=0.01
    )
    hearing = Hearing(0.02)
    chunks = split(samples, new_detector=hearing)
    assert_true_to(samples, chunks)
    kept = sum(chunk.sample_count for chunk in chunks) / RATE_HZ
    assert 20.4 < kept < 21.5
    assert hearing.open_count == 0
    assert 0 < hearing.heard_frames < 26 * RATE_HZ / 512


@pytest.mark.parametrize("seconds", [2.1, 6.0, 30.0, 61.234])
def test_noise_alone_has_no_chunk(seconds: float) -> None:
    assert split(speech(seconds), new_detector=Hearing(1.0)) == []


def test_a_voice_that_is_heard_in_steady_noise_is_decoded() -> None:
    samples = np.concatenate([syllables(10.0), silence(20.0), syllables(10.0)]) + speech(
        40.0, seed=3, level=0.01
    )
    assert not len(left_out(samples, split(samples, new_detector=Hearing(0.0))))


@pytest.mark.parametrize("detector", [None, Broken(0.0)])
def test_without_a_detector_what_is_unsure_is_decoded_and_not_held_back(detector: Hearing | None) -> None:
    samples = np.concatenate([syllables(5.0), silence(60.0), syllables(5.0)]) + speech(
        70.0, seed=3, level=0.01
    )
    assert not len(left_out(samples, split(samples, new_detector=detector)))
    splitter = PauseSplitter(max_chunk_seconds=5.0, new_detector=detector)
    held = 0
    for start in range(0, len(samples), RATE_HZ):
        list(splitter.feed(samples[start : start + RATE_HZ]))
        held = max(held, splitter.held_samples)
    assert held <= (5 + 2 + 2 + 1) * RATE_HZ


def test_in_noise_a_cut_is_where_the_detector_hears_no_voice() -> None:
    """Loudness alone would cut in the softer word."""
    samples = np.concatenate(
        [speech(24.0), speech(0.3, level=0.03), speech(2.0), speech(0.25, level=0.04), speech(18.0)]
    )
    tone = np.sin(np.arange(4800) * 2.0 * np.pi * 0.05).astype(np.float32)
    samples[24 * RATE_HZ : 24 * RATE_HZ + 4800] += np.float32(0.06) * tone

    class Words(Hearing):
        def probabilities(self, frames: Samples) -> list[float]:
            levels = [np.sqrt(np.mean(np.square(frame))) for frame in frames]
            return [0.02 if level < 0.045 else 0.98 for level in levels]

    assert 26.3 < split(samples, new_detector=Words(0.0))[0].end_seconds < 26.55


def test_recordings_without_noise_ask_no_detector() -> None:
    pieces = [piece for _ in range(20) for piece in (syllables(6.0), silence(3.0, level=1e-5), silence(0.5))]
    hearing = Hearing(0.0)
    assert split(np.concatenate(pieces), new_detector=hearing)
    assert hearing.heard_frames == 0


@pytest.mark.parametrize("seed", range(3))
def test_noisy_recordings_give_the_same_chunks_for_any_block_sizes(seed: int) -> None:
    random = np.random.default_rng(seed)
    pieces = []
    while sum(map(len, pieces)) < 120 * RATE_HZ:
        pieces.append(syllables(float(random.uniform(0.3, 20.0)), level=float(random.choice([0.1, 0.03]))))
        pieces.append(silence(float(random.choice([0.2, 1.0, 2.5, 9.0]))))
    samples = np.concatenate(pieces)
    samples += speech(len(samples) / RATE_HZ + 1, seed=5, level=0.01)[: len(samples)]
    offline = split(samples, new_detector=Hearing(0.012))
    assert len(offline) > 4
    for block in (777, 16_000, 333_333):
        streamed = split(samples, block=block, new_detector=Hearing(0.012))
        assert [(one.start_sample, one.sample_count) for one in streamed] == [
            (one.start_sample, one.sample_count) for one in offline
        ]
