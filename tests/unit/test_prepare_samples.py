"""Samples of the caller's own are scaled, averaged, resampled and checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scribewire.engine.audio.transcode import prepare_samples, transcode_audio
from scribewire.engine.protocol.config import AudioLimits
from scribewire.engine.protocol.errors import (
    AudioEmpty,
    AudioError,
    AudioParametersUnsupported,
    AudioTooLong,
    AudioTooShort,
    AudioUndecodable,
)
from tests.fakes.media import LIMITS, assert_one_helpful_line, riff, tones


def test_integers_are_scaled_by_their_full_scale() -> None:
    signal = np.round(tones(0.5, 16_000) * 32_768)
    for kind, scale in (("int16", 1), ("int32", 65_536)):
        prepared = prepare_samples((signal * scale).astype(kind), 16_000, limits=LIMITS)
        assert prepared.dtype == np.float32
        np.testing.assert_array_equal(prepared, (signal / 32_768).astype(np.float32))
    assert not prepare_samples(np.full(500, 128, dtype=np.uint8), 16_000, limits=LIMITS).any()


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floats_are_taken_as_they_are_and_clipped(kind: str) -> None:
    values = np.full(500, 0.5, dtype=kind)
    values[7] = 3.0
    prepared = prepare_samples(values, 16_000, limits=LIMITS)
    assert prepared[7] == 1.0
    assert prepared[8] == 0.5


def test_the_shorter_axis_holds_the_channels() -> None:
    stereo = np.random.default_rng(3).uniform(-0.5, 0.5, (4_000, 2)).astype(np.float32)
    expected = stereo.mean(axis=1)
    np.testing.assert_allclose(prepare_samples(stereo, 16_000, limits=LIMITS), expected, atol=1e-7)
    np.testing.assert_allclose(prepare_samples(stereo.T, 16_000, limits=LIMITS), expected, atol=1e-7)


def test_prepared_samples_equal_the_decoded_file() -> None:
    values = (tones(2.0, 44_100) * 32_767).astype("<i2")
    from_file = transcode_audio(riff(values.tobytes(), rate_hz=44_100), limits=LIMITS).samples
    np.testing.assert_allclose(prepare_samples(values, 44_100, limits=LIMITS), from_file, atol=1e-6)


def test_the_callers_array_is_left_alone() -> None:
    values = tones(0.1, 16_000) * 5
    before = values.copy()
    prepare_samples(values, 16_000, limits=LIMITS)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "error"),
    [
        (np.zeros(0, dtype=np.float32), 16_000, AudioEmpty),
        (np.zeros((0, 2), dtype=np.float32), 16_000, AudioEmpty),
        (np.zeros(200, dtype=np.float32), 16_000, AudioTooShort),
        (np.zeros((100, 100), dtype=np.float32), 16_000, AudioParametersUnsupported),
        (np.zeros((9, 500), dtype=np.float32), 16_000, AudioParametersUnsupported),
        (np.zeros((2, 2, 500), dtype=np.float32), 16_000, AudioParametersUnsupported),
        (np.float32(0.0).reshape(()), 16_000, AudioParametersUnsupported),
        (np.zeros(500, dtype=np.complex64), 16_000, AudioParametersUnsupported),
        (np.zeros(500, dtype=np.bool_), 16_000, AudioParametersUnsupported),
        (np.zeros(500, dtype=np.int64), 16_000, AudioParametersUnsupported),
        (np.array(["a"] * 500), 16_000, AudioParametersUnsupported),
        (np.full(500, 12_000.0, dtype=np.float32), 16_000, AudioParametersUnsupported),
        (np.zeros(500, dtype=np.float32), 0, AudioParametersUnsupported),
        (np.zeros(500, dtype=np.float32), -16_000, AudioParametersUnsupported),
        (np.zeros(500, dtype=np.float32), 3_999, AudioParametersUnsupported),
        (np.full(500, np.nan, dtype=np.float32), 16_000, AudioUndecodable),
        (np.full(500, -np.inf, dtype=np.float64), 16_000, AudioUndecodable),
    ],
)
def test_unusable_samples_are_refused(
    samples: npt.NDArray[Any], rate_hz: int, error: type[AudioError]
) -> None:
    with pytest.raises(error) as caught:
        prepare_samples(samples, rate_hz, limits=LIMITS)
    assert_one_helpful_line(caught.value)


def test_samples_beyond_the_limit_are_too_long() -> None:
    with pytest.raises(AudioTooLong):
        prepare_samples(
            np.zeros(32_001, dtype=np.float32), 16_000, limits=AudioLimits(max_duration_seconds=2.0)
        )
