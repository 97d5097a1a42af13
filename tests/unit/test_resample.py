"""Resampling keeps the band, rejects aliases, and does not depend on block sizes."""

from __future__ import annotations

import numpy as np
import pytest

from scribewire.engine.audio.pcm import Resampler
from tests.fakes.media import Samples, tones


def resampled(samples: Samples, rate_hz: int, block: int | None = None) -> Samples:
    resampler = Resampler(rate_hz)
    step = block or rate_hz
    parts = [resampler.push(samples[at : at + step]) for at in range(0, len(samples), step)]
    return np.concatenate([*parts, resampler.finish()])


def decibel(ratio: float) -> float:
    return float(20 * np.log10(ratio + 1e-12))


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_the_band_and_rejects_aliases(rate_hz: int) -> None:
    time_in, time_out = np.arange(2 * rate_hz) / rate_hz, np.arange(32_000) / 16_000
    middle = slice(4_000, -4_000)
    for hertz in (100.0, 1_000.0, 3_000.0, 5_000.0, 7_300.0, 8_200.0, 9_000.0, 12_000.0, 20_000.0):
        if hertz >= 0.46 * rate_hz:
            continue
        found = resampled(np.sin(2 * np.pi * hertz * time_in).astype(np.float32), rate_hz)
        assert len(found) == 32_000
        if hertz < 8_000:
            error = found[middle] - np.sin(2 * np.pi * hertz * time_out)[middle]
            assert decibel(float(np.abs(error).max())) < -70, hertz  # level, phase and distortion in one
        else:
            assert decibel(float(np.abs(found[middle]).max())) < -110, hertz


def test_resampling_agrees_with_the_ideal_band_limited_signal() -> None:
    random = np.random.default_rng(4)
    spectrum = np.zeros(48_000 // 2 + 1, dtype=np.complex128)
    spectrum[1:7_200] = random.standard_normal(7_199) + 1j * random.standard_normal(7_199)
    fine = np.fft.irfft(spectrum, 48_000)
    ideal = np.fft.irfft(spectrum[:8_001], 16_000) / 3
    scale = 0.5 / np.abs(fine).max()
    found = resampled(np.tile(fine * scale, 3).astype(np.float32), 48_000)[16_000:32_000]
    assert decibel(float(np.abs(found - ideal * scale).max())) < -70


@pytest.mark.parametrize("block", [997, 16_000, 200_000])
def test_block_size_does_not_change_resampling(block: int) -> None:
    samples = tones(3.0, 44_100)
    np.testing.assert_allclose(resampled(samples, 44_100, block), resampled(samples, 44_100), atol=1e-6)
