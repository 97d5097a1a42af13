"""Recordings are cut at their quietest places, offline and as a stream alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from scribewire.engine.audio.labels import is_silent
from scribewire.engine.audio.pauses import MIN_CHUNK_SAMPLES, Chunk
from scribewire.engine.audio.split import (
    StreamingSplitter,
    can_be_halved,
    halved,
    quietest_sample,
)

RATE_HZ = 16_000
Samples = npt.NDArray[np.float32]


def noise(seconds: float, seed: int = 0, level: float = 0.1) -> Samples:
    samples = np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ)).astype(np.float32)
    return samples * np.float32(level)


def split_recording(samples: Samples, *, max_chunk_seconds: float = 30.0) -> list[Chunk]:
    """Chunks of a whole recording that arrives in one block."""
    splitter = StreamingSplitter(max_chunk_seconds=max_chunk_seconds)
    return [*splitter.feed(samples), *splitter.finish()]


def with_pause(samples: Samples, at_seconds: float, pause_seconds: float = 0.3) -> Samples:
    start = int(at_seconds * RATE_HZ)
    samples[start : start + int(pause_seconds * RATE_HZ)] *= np.float32(0.001)
    return samples


def assert_tiles(chunks: list[Chunk], samples: Samples, max_seconds: float) -> None:
    assert sum(chunk.sample_count for chunk in chunks) == len(samples)
    position = 0
    for chunk in chunks:
        assert chunk.start_sample == position
        assert 0 < chunk.sample_count <= max_seconds * RATE_HZ
        np.testing.assert_array_equal(
            chunk.samples[: chunk.sample_count], samples[position : position + chunk.sample_count]
        )
        assert not chunk.samples[chunk.sample_count :].any()
        position += chunk.sample_count


@pytest.mark.parametrize("seconds", [0.02, 0.3, 29.9, 30.0])
def test_a_recording_within_the_limit_is_one_unpadded_chunk(seconds: float) -> None:
    samples = noise(seconds)
    chunks = split_recording(samples)
    assert len(chunks) == 1
    assert chunks[0].padding_samples == 0
    np.testing.assert_array_equal(chunks[0].samples, samples)


def test_one_sample_over_the_limit_is_two_chunks() -> None:
    samples = noise(30.0 + 1 / RATE_HZ)
    assert len(split_recording(samples)) == 2


def test_an_empty_recording_has_no_chunk() -> None:
    assert split_recording(np.empty(0, dtype=np.float32)) == []


def test_the_cut_falls_into_the_pause_before_the_limit() -> None:
    samples = with_pause(noise(45.0), 24.0)
    chunks = split_recording(samples)
    assert 24.0 <= chunks[0].end_seconds <= 24.3
    assert chunks[1].start_seconds == chunks[0].end_seconds
    assert_tiles(chunks, samples, 30.0)


def test_a_pause_outside_the_search_window_is_not_used() -> None:
    samples = with_pause(with_pause(noise(45.0), 15.0), 31.0)
    assert 20.0 <= split_recording(samples)[0].end_seconds <= 30.0


def test_no_chunk_exceeds_the_maximum_even_where_the_official_rule_would() -> None:
    samples = with_pause(noise(95.0), 32.0)  # the official window reaches 5 s beyond the limit
    assert_tiles(split_recording(samples), samples, 30.0)


@pytest.mark.parametrize("max_seconds", [1.0, 2.5, 7.0, 30.0, 180.0])
def test_chunks_tile_the_recording_and_are_no_shorter_than_half_the_maximum(max_seconds: float) -> None:
    samples = noise(200.0, seed=3)
    chunks = split_recording(samples, max_chunk_seconds=max_seconds)
    assert_tiles(chunks, samples, max_seconds)
    assert all(chunk.sample_count >= max_seconds * RATE_HZ / 2 - 1 for chunk in chunks[:-1])


def test_the_cut_is_the_quietest_sample_of_the_quietest_tenth_of_a_second() -> None:
    window = np.abs(noise(2.0, seed=5)) + np.float32(0.01)
    naive = np.array([window[at : at + 1600].sum(dtype=np.float64) for at in range(len(window) - 1599)])
    first = int(naive.argmin())
    assert quietest_sample(window) == first + int(window[first : first + 1600].argmin())


def test_a_short_last_chunk_is_padded_with_zeros_to_half_a_second() -> None:
    samples = with_pause(noise(30.1), 29.8, pause_seconds=0.2)
    first, last = split_recording(samples)
    assert first.padding_samples == 0
    assert last.sample_count < MIN_CHUNK_SAMPLES
    assert len(last.samples) == MIN_CHUNK_SAMPLES
    assert_tiles([first, last], samples, 30.0)


def test_a_short_recording_that_was_not_split_is_not_padded() -> None:
    (chunk,) = split_recording(noise(0.1))
    assert len(chunk.samples) == 1600


@pytest.mark.parametrize("seed", range(6))
def test_the_stream_gives_the_same_chunks_for_any_block_sizes(seed: int) -> None:
    random = np.random.default_rng(seed)
    samples = noise(float(random.uniform(1.0, 140.0)), seed=seed)
    for at in random.uniform(0, len(samples) / RATE_HZ, size=10):
        with_pause(samples, float(at))
    max_seconds = float(random.choice([3.0, 11.3, 30.0]))
    largest = int(random.choice([400, 16_000, 900_000]))
    splitter = StreamingSplitter(max_chunk_seconds=max_seconds)
    streamed: list[Chunk] = []
    position = 0
    while position < len(samples):
        size = int(random.integers(0, largest))
        streamed += splitter.feed(samples[position : position + size])
        position += size
    streamed += splitter.finish()
    offline = split_recording(samples, max_chunk_seconds=max_seconds)
    assert [(c.start_sample, c.padding_samples) for c in streamed] == [
        (c.start_sample, c.padding_samples) for c in offline
    ]
    for one, other in zip(streamed, offline, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)


def test_the_stream_takes_what_it_is_fed_even_if_the_chunks_are_not_read() -> None:
    splitter = StreamingSplitter()
    splitter.feed(noise(31.0))
    (last,) = splitter.finish()
    assert last.start_sample > 0


def test_the_stream_holds_no_more_than_a_chunk_and_a_block() -> None:
    splitter = StreamingSplitter(max_chunk_seconds=5.0)
    longest = 0
    for seed in range(60):
        list(splitter.feed(noise(1.0, seed=seed)))
        longest = max(longest, splitter.held_samples)
    assert longest <= 5 * RATE_HZ


def test_a_silent_recording_is_cut_without_trouble() -> None:
    samples = np.zeros(100 * RATE_HZ, dtype=np.float32)
    chunks = split_recording(samples)
    assert_tiles(chunks, samples, 30.0)
    assert all(is_silent(chunk.samples) for chunk in chunks)


@pytest.mark.parametrize("max_seconds", [0.0, 0.5, -1.0, float("nan")])
def test_a_maximum_below_a_second_is_refused(max_seconds: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        StreamingSplitter(max_chunk_seconds=max_seconds)


def test_digital_silence_is_silent() -> None:
    assert is_silent(np.zeros(1000, dtype=np.float32))
    assert is_silent(np.empty(0, dtype=np.float32))
    assert is_silent(np.full(1000, -3e-6, dtype=np.float32))


@pytest.mark.parametrize("step", [1, -1])
def test_a_single_step_of_16_bit_audio_is_not_silent(step: int) -> None:
    samples = np.zeros(RATE_HZ, dtype=np.float32)
    samples[777] = step / 32_768
    assert not is_silent(samples)


def test_nan_is_not_taken_for_silence() -> None:
    assert not is_silent(np.array([0.0, np.nan, 0.0], dtype=np.float32))


@pytest.mark.parametrize("padding", [0, 3000])
def test_halves_tile_the_chunk_and_meet_where_it_is_quietest(padding: int) -> None:
    samples = np.full(64_000, 0.5, dtype=np.float32)
    samples[36_000:38_000] = 0.001
    whole = Chunk(16_000, np.concatenate([samples, np.zeros(padding, dtype=np.float32)]), padding)
    assert can_be_halved(whole)
    first, second = halved(whole)
    assert first.start_sample == 16_000
    assert 36_000 <= first.sample_count <= 38_000
    assert second.start_sample == 16_000 + first.sample_count
    assert first.sample_count + second.sample_count == whole.sample_count
    assert second.padding_samples == padding


def test_chunk_under_two_seconds_is_not_halved() -> None:
    assert not can_be_halved(Chunk(0, np.zeros(31_999, dtype=np.float32)))
    assert can_be_halved(Chunk(0, np.zeros(32_000, dtype=np.float32)))
